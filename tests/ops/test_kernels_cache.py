"""Where the compiled kernels are kept: only what this user compiled is loaded, and only if it is whole."""

import ctypes
import os
import pwd
import shutil
import stat
from pathlib import Path

import pytest

from spikesparse.ops import backends, compiled, cpu

pytestmark = pytest.mark.skipif(
    backends._unavailable("cpu") is not None, reason=f"no C++ kernels: {backends._unavailable('cpu')}"
)
ANOTHER = 65534  # nobody's uid


class Machine:
    """A home, a folder for temporary files, and a compiler that copies what was compiled before."""

    def __init__(self, folder, monkeypatch):
        self.compiled = Path(cpu._library()._name).read_bytes()
        self.home, self.temporary = folder / "cache", folder / "tmp"
        self.temporary.mkdir()
        (folder / "compiled.so").write_bytes(self.compiled)
        compiler = folder / "compiler"
        # The last argument is where to; the log has a line for each time.
        compiler.write_text(f'#!/bin/sh\nfor to; do :; done\necho >> {folder}/log\ncat {folder}/compiled.so > "$to"\n')
        compiler.chmod(0o755)
        self.log, self.loaded = folder / "log", []
        monkeypatch.setenv("CXX", str(compiler))
        monkeypatch.setenv("XDG_CACHE_HOME", str(self.home))
        monkeypatch.setattr("tempfile.tempdir", str(self.temporary))
        original = ctypes.CDLL
        monkeypatch.setattr(ctypes, "CDLL", lambda path: self.loaded.append(Path(path)) or original(path))

    @property
    def fallback(self):
        return self.temporary / f"spikesparse-{os.geteuid()}"

    @property
    def builds(self):
        return len(self.log.read_text()) if self.log.exists() else 0

    def load(self):
        """As a process of its own does: the library's path, whose contents are right and which works."""
        cpu._library.cache_clear()
        assert cpu._library().spikesparse_chunks() == 64
        assert self.loaded[-1].read_bytes() == self.compiled
        return self.loaded[-1]


@pytest.fixture
def machine(tmp_path, monkeypatch):
    yield Machine(tmp_path, monkeypatch)
    cpu._library.cache_clear()


def without_home(machine, monkeypatch):
    """No HOME, and a user whom the system does not know: containers run as such."""

    def unknown(uid):
        raise KeyError(uid)

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    with pytest.raises(RuntimeError, match="home directory"):
        Path.home()


def test_compiled_once_for_this_user_alone(machine):
    before = os.umask(0o002)
    try:
        library = machine.load()
        assert machine.load() == library
    finally:
        os.umask(before)
    assert library.parent == machine.home / "spikesparse"
    assert stat.S_IMODE(library.parent.stat().st_mode) == 0o700
    assert not library.stat().st_mode & 0o077
    assert machine.builds == 1
    assert list(library.parent.iterdir()) == [library]


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[: len(content) // 2],
        lambda content: content[:5000] + bytes([content[5000] ^ 1]) + content[5001:],
    ],
    ids=["empty", "cut", "one bit"],
)
def test_a_broken_library_is_built_anew(machine, damage):
    library = machine.load()
    library.unlink()  # a file of its own: this process has the other one mapped
    library.write_bytes(damage(machine.compiled))
    library.chmod(0o700)
    assert machine.load() == library
    assert machine.builds == 2
    machine.load()
    assert machine.builds == 2


def test_without_a_home_the_folder_for_temporary_files_serves(machine, monkeypatch):
    without_home(machine, monkeypatch)
    library = machine.load()
    assert library.parent == machine.fallback
    assert stat.S_IMODE(library.parent.stat().st_mode) == 0o700


def test_a_home_that_cannot_be_written_leaves_the_folder_for_temporary_files(machine):
    machine.home.write_text("a file")
    assert machine.load().parent == machine.fallback


def test_a_link_in_place_of_the_folder_is_not_followed(machine, monkeypatch, tmp_path):
    without_home(machine, monkeypatch)
    (tmp_path / "elsewhere").mkdir()
    machine.fallback.symlink_to(tmp_path / "elsewhere")
    cpu._library.cache_clear()
    with pytest.raises(RuntimeError, match="not a folder of this user's own"):
        cpu._library()
    assert not list((tmp_path / "elsewhere").iterdir())


def planted(machine, kind):
    """A library that somebody else could have put where this user's would be, under a name that fits."""
    name = machine.load().name
    library = machine.fallback / name
    machine.fallback.mkdir(mode=0o700)
    other = machine.compiled + b"planted"
    for path in (library, library.with_name(compiled._file_name(name.rsplit("-", 1)[0], other))):
        path.write_bytes(other)
        path.chmod(0o700)
        if kind == "link":
            path.rename(machine.temporary / path.name)
            path.symlink_to(machine.temporary / path.name)
        if kind == "file of another":
            os.chown(path, ANOTHER, ANOTHER)
        if kind == "file that others write":
            path.chmod(0o722)
    if kind == "folder of another":
        os.chown(machine.fallback, ANOTHER, ANOTHER)
    if kind == "folder that others write":
        machine.fallback.chmod(0o777)
    shutil.rmtree(machine.home)


as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")


@pytest.mark.parametrize(
    "kind",
    [
        *("link", "file that others write", "folder that others write"),
        pytest.param("file of another", marks=as_root),
        pytest.param("folder of another", marks=as_root),
    ],
)
def test_a_library_that_another_user_could_have_written_is_not_loaded(machine, kind, monkeypatch):
    planted(machine, kind)
    without_home(machine, monkeypatch)
    machine.loaded.clear()
    if kind == "folder of another":
        cpu._library.cache_clear()
        with pytest.raises(RuntimeError, match=f"{machine.fallback}: not a folder of this user's own"):
            cpu._library()
    else:
        assert machine.load().parent == machine.fallback
        machine.load()  # nor later
        assert machine.builds == 2
        assert stat.S_IMODE(machine.fallback.stat().st_mode) == 0o700
    assert all(path.read_bytes() == machine.compiled for path in machine.loaded)


def test_the_folder_of_another_user_is_refused(machine, monkeypatch):
    """The same without a second user: this process is another one than the folder's owner."""
    machine.load()
    machine.loaded.clear()
    monkeypatch.setattr(os, "geteuid", lambda: ANOTHER)
    cpu._library.cache_clear()
    with pytest.raises(RuntimeError, match="not a folder of this user's own"):
        cpu._library()
    assert not machine.loaded
