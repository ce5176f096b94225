"""One process at a time trains in a run folder."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from spikesparse.errors import UserError
from spikesparse.files.locks import FileLock

_held: FileLock | None = None
_folder: Path | None = None  # that this process trains in, also where no lock could be had


def hold(folder: Path) -> None:
    """Keep a run folder for this process, until it ends, lets go, or holds another.

    The lock is a hidden file beside the folder, so that it stays where it is when the folder is set aside. Where none
    can be had, be the place read-only or its file system without locks, training goes on unguarded.

    Args:
        folder: the run folder; it need not be there yet.

    Raises:
        UserError: if another process has it.
    """
    global _held, _folder
    let_go()
    place = folder.resolve()  # one lock, by whatever path the folder is named
    lock = FileLock(place.with_name(f".{place.name}.lock"))
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        free = lock.acquire(wait=False)
    except OSError:
        _folder = folder
        return
    if not free:
        raise UserError(f"{folder}: another process trains there. Once it has ended, the same command goes on.")
    _held, _folder = lock, folder


def vanished_folder(error: OSError) -> Path | None:
    """The run folder that this process holds, if a file cannot be written because it is no longer there."""
    if _folder is None or not lacks_folder(error):
        return None
    return _folder if Path(os.fsdecode(error.filename)).resolve().is_relative_to(_folder.resolve()) else None


def lacks_folder(error: BaseException | None) -> bool:
    """Whether a file cannot be written because its folder is not there."""
    if not isinstance(error, OSError) or error.errno not in (errno.ENOENT, errno.ESTALE) or not error.filename:
        return False
    return not Path(os.fsdecode(error.filename)).resolve().parent.exists()


def let_go() -> None:
    """Let others train in the folder that this process holds, if it holds one."""
    global _held, _folder
    _folder = None
    if _held is not None:
        _held.close()
        _held = None


# A loader's worker may outlive a run that is killed by some seconds: it must not keep the next one out.
os.register_at_fork(after_in_child=let_go)
