"""A lock on a file: one process at a time, on one machine or on a shared folder."""

from __future__ import annotations

import fcntl
from pathlib import Path
from types import TracebackType
from typing import IO


class FileLock:
    """Held until it is closed, or every process that has its descriptor is gone: also one killed by force.

    Args:
        path: the file; it is made, and stays.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: IO[str] | None = None

    def acquire(self, wait: bool = True) -> bool:
        """Take the lock; whether it was had. Without waiting, it is not if another process has it."""
        file = self.path.open("a")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            file.close()
            return False
        except BaseException:
            file.close()
            raise
        self._file = file
        return True

    def __enter__(self) -> FileLock:
        """Wait for the lock."""
        self.acquire()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Let the next one in."""
        self.close()

    def close(self) -> None:
        """Let the next one in; nothing if it is not held."""
        # Closed, not unlocked: a child that has the descriptor holds it still.
        if self._file is not None:
            self._file.close()
            self._file = None

    def fileno(self) -> int:
        """The descriptor, to hand to a child."""
        assert self._file is not None
        return self._file.fileno()
