"""One exception for what a user can mend."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(ValueError):
    """A wrong value from outside: its text names the setting, the value and the fix.

    The command line prints it as one line and exits with status 2; there is no traceback.
    """


class ArgumentError(UserError):
    """A value that an argument of a class cannot take.

    In Python the text names the argument, and what it takes. The command line shows the argument's flag in its place.

    Args:
        argument: its name; behind its class, as in ``SpikeBudget.by``, where several classes have one of that name.
        value: as it is to be shown.
        reason: what is wrong with it. Other arguments stand in it in backticks: "only `norm=none` reads it".

    >>> print(ArgumentError("decay", 2, "it must lie in (0, 1]; 1 never leaks."))
    decay must lie in (0, 1], not 2; 1 never leaks.
    >>> print(ArgumentError("initialization", "he", "only `norm=none` reads it."))
    initialization=he: only `norm=none` reads it.
    """

    def __init__(self, argument: str, value: object, reason: str) -> None:
        self.argument, self.value, self.reason = argument, value, reason
        takes, remedy, rest = reason.partition("; ")
        if takes.startswith("it must "):
            stop = "" if remedy else "."
            takes = takes.removeprefix("it ").removesuffix(".")
            super().__init__(f"{argument} {takes}, not {value}{stop}{remedy}{rest}")
        else:
            super().__init__(f"{argument}={value}: {reason}")

    def __reduce__(self) -> tuple[type[ArgumentError], tuple[str, object, str]]:
        return type(self), (self.argument, self.value, self.reason)


def choose(kind: str, name: object, known: Iterable[str], argument: str) -> str:
    """Return ``name`` if it is one of ``known``.

    Raises:
        ArgumentError: naming the argument, the value and every name there is.
    """
    known = list(known)
    if isinstance(name, str) and name in known:
        return name
    raise ArgumentError(argument, repr(name), f"there is no {kind} of that name. There are: {', '.join(known)}.")


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
