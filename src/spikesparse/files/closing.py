"""The end of a command: what was computed is written part by part, and no part takes another along."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from spikesparse.errors import UserError
from spikesparse.files.names import printable


class Closing:
    """Writes what closes a command, each part for itself: one that fails is a line of warning, and the next is written.

    Attributes:
        missing: of the parts that are the command's result, those that could not be written.
    """

    def __init__(self) -> None:
        self.missing: list[str] = []

    @contextmanager
    def part(self, what: object, result: bool = False) -> Iterator[None]:
        """Write a part within it.

        Args:
            what: its name, or file.
            result: whether the command has failed without it.
        """
        try:
            yield
        except BrokenPipeError:  # nobody reads the output: the next line of it ends the command
            pass
        except Exception as error:
            warn_of(what, error)
            self.missing += [str(what)] if result else []

    def end(self) -> None:
        """All is written, or was tried.

        Raises:
            UserError: if a part of the result is missing.
        """
        if self.missing:
            raise UserError(f"{', '.join(self.missing)}: not written, see the warning; the rest of the result is.")


def warn_of(what: object, error: BaseException) -> None:
    """Say in one line what could not be written, and why."""
    reason = printable(" ".join(str(error).split())[:500]) or type(error).__name__
    print(f"warning: {printable(str(what))} cannot be written: {reason}", file=sys.stderr, flush=True)
