"""One exception for what a user can mend."""

from __future__ import annotations

from collections.abc import Iterable


class UserError(ValueError):
    """A wrong value from outside: its text names the setting, the value and the fix.

    The command line prints it as one line and exits with status 2; there is no traceback.
    """


def choose(kind: str, name: object, known: Iterable[str], flag: str) -> str:
    """Return ``name`` if it is one of ``known``.

    Raises:
        UserError: naming the flag, the value and every name there is.
    """
    known = list(known)
    if isinstance(name, str) and name in known:
        return name
    raise UserError(f"{flag}={name!r}: there is no {kind} of that name. There are: {', '.join(known)}.")
