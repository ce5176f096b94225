"""C++ compiled once for this machine, and kept in the user's cache."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import platform
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

# A product and a sum stay two roundings (-ffp-contract=off); the two -fno let loops become vector instructions.
FLAGS = "-O3 -march=native -ffp-contract=off -fno-math-errno -fno-trapping-math -std=c++17 -fopenmp -shared -fPIC"


def load(source: Path) -> ctypes.CDLL:
    """Compile a source unless this machine has done so before, and load it.

    The compiler is ``$CXX``, or the first of g++, clang++ and c++ that there is. The library lies in the first folder
    that can keep it: the user's cache, or the one for temporary files.

    Raises:
        RuntimeError: if there is no C++ compiler, it fails, or no folder can keep what it makes.
    """
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++") or shutil.which("c++")
    if not compiler:
        raise RuntimeError("there is no C++ compiler; install g++, or name one as CXX")
    key = hashlib.sha256(source.read_bytes())
    for part in (FLAGS, compiler, platform.platform(), _processor()):
        key.update(part.encode())
    name, reasons = f"{source.stem}-{key.hexdigest()[:16]}", []
    for folder in _folders():
        try:
            path = _kept(folder, name) or _built(source, folder, name, compiler)
            return ctypes.CDLL(str(path))  # its OpenMP is torch's, loaded before: one pool of threads
        except OSError as error:
            reasons.append(f"{folder}: {error.strerror or error}")
    found = f" ({'; '.join(reasons)})" if reasons else ""
    raise RuntimeError(f"no folder to keep the compiled kernels in{found}; name one as XDG_CACHE_HOME")


_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def _kept(folder: Path, name: str) -> Path | None:
    """What was compiled there before, if it is whole and only this user can have written it. Makes the folder.

    A library is code that this process will run. Its name holds the SHA-256 of its bytes, so that what a full disk or
    a crash left of it is not taken for it.

    Raises:
        OSError: if the folder is not, and cannot be made, one that only this user writes to.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise PermissionError(errno.EPERM, "not a folder of this user's own")
    if found.st_mode & _OTHERS_WRITE:  # close it, and trust nothing that lies there
        folder.chmod(0o700)
        if folder.lstat().st_mode & _OTHERS_WRITE:
            raise PermissionError(errno.EPERM, "others may write to it")
        for path in folder.glob(f"{name}-*.so"):
            path.unlink(missing_ok=True)
    for path in sorted(folder.glob(f"{name}-*.so")):
        found = path.lstat()
        private = stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & _OTHERS_WRITE
        if private and path.name == _file_name(name, path.read_bytes()):
            return path
    return None


def _built(source: Path, folder: Path, name: str, compiler: str) -> Path:
    """Compile. Several processes may be at it: each writes a file of its own, and renames it when all is on the disk.

    Raises:
        OSError: if the folder cannot keep it.
        RuntimeError: if the compiler fails.
    """
    handle, made = tempfile.mkstemp(".so", dir=folder)
    os.close(handle)
    command = [*compiler.split(), *FLAGS.split(), str(source), "-o", made]
    try:
        _compile(command, compiler)
        with open(made, "r+b") as file:
            path = folder / _file_name(name, file.read())
            os.fchmod(file.fileno(), 0o700)  # whatever the umask: what others may write to is not loaded
            os.fsync(file.fileno())
        return Path(made).replace(path)
    finally:
        Path(made).unlink(missing_ok=True)


def _compile(command: list[str], compiler: str) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
    except (OSError, subprocess.SubprocessError) as error:
        said = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
        raise RuntimeError(f"{compiler} failed: {said[0] if said else error!r}") from error


def _file_name(name: str, content: bytes) -> str:
    return f"{name}-{hashlib.sha256(content).hexdigest()[:32]}.so"


def _folders() -> Iterator[Path]:
    """Where compiled kernels may be kept: the user's cache, then the folder for temporary files."""
    named = os.environ.get("XDG_CACHE_HOME")
    with suppress(RuntimeError):  # no HOME, and a user whom the system does not know
        yield (Path(named) if named else Path.home() / ".cache") / "spikesparse"
    with suppress(FileNotFoundError):  # no such folder
        yield Path(tempfile.gettempdir()) / f"spikesparse-{os.geteuid()}"


def _processor() -> str:
    """What -march=native looks at: a home may be shared by machines that differ."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())
