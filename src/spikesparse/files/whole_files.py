"""Files that are written whole or not at all."""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

_PARTIAL = ".partial"


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write to, that takes the place of ``path`` once all of it is on the disk.

    Whatever ends the writing, ``path`` is what it was before or what it was to be. Several processes may write the
    same file: each has a partial file of its own, and whoever is last is read. What a killed one left is removed.
    """
    remove_leftovers(path)
    partial, file = _opened(path)
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            os.replace(partial, path)  # still locked: nobody takes the partial file for a leftover
    except BaseException:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise
    with suppress(OSError):  # the renaming, too; not every file system can
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def replace_file(path: Path, content: str | bytes) -> None:
    """Write a file whole or not at all; text as UTF-8, in which what it cannot hold (half a character) is escaped."""
    with whole_file(path) as file:
        file.write(content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content)


def partial_name(path: Path) -> Path:
    """A hidden name beside a file, for what is to take its place: no other process or machine has it."""
    return path.with_name(f"{_prefix(path)}{os.getpid()}-{secrets.token_hex(4)}{_PARTIAL}")


def remove_leftovers(path: Path) -> None:
    """Remove the partial files of processes that were killed while they wrote ``path``.

    A process that still writes holds a lock on its own. Where the file system has no locks, they stay.
    """
    with suppress(OSError):
        names = [name for name in os.listdir(path.parent) if name.startswith(_prefix(path))]
        for name in (name for name in names if name.endswith(_PARTIAL)):
            with suppress(OSError), path.with_name(name).open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.with_name(name).unlink()  # locked by us: its writer, if it has just begun, sees that it is gone


def _prefix(path: Path) -> str:
    return f".{os.fsdecode(os.fsencode(path.name)[:200])}."  # a name has 255 bytes at most


def _opened(path: Path) -> tuple[Path, BinaryIO]:
    """A new partial file of ours, locked where that can be had."""
    while True:
        partial = partial_name(path)
        file = partial.open("xb")
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:  # a file system without locks
            return partial, file
        try:
            if os.path.samestat(partial.stat(), os.fstat(file.fileno())):
                return partial, file
        except FileNotFoundError:  # taken for a leftover between being made and being locked
            pass
        file.close()
