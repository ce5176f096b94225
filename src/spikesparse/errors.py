"""One exception for what a user can mend."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


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


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A question to put behind an error, if a known word is like the one that is not.

    >>> did_you_mean("--trainer.max_epoch", ["--trainer.max_epochs", "--trainer.max_steps"])
    ' Did you mean --trainer.max_epochs?'
    >>> did_you_mean("threshold", ["beta"])
    ''
    """
    near = get_close_matches(word, list(known), n=1, cutoff=0.7)
    return f" Did you mean {near[0]}?" if near else ""


def path_of(thing: object) -> str:
    """The class path of an object, as a flag names it."""
    return f"{type(thing).__module__}.{type(thing).__qualname__}"
