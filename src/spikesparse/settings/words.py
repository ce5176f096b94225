"""The parser's errors in one plain line."""

from __future__ import annotations

import argparse
import inspect
import re
import sys
from collections.abc import Iterable
from pathlib import Path

from spikesparse.errors import did_you_mean

# jsonargparse's account of a value of the wrong type: under which keys, outermost first; of one type that there is, or
# of several, the innermost last; and what else it has to say behind the value.
_KEY = re.compile(r'Parser key "([\w.]+)"')
_REST = r"(?:\. Got value| - Expected| - Problem|$)"
_ONE_TYPE = re.compile(rf'": Expected an? (.*?)\. Got value: (.*?){_REST}')
_TYPES = re.compile(r"Union subtypes Subtypes: \[(.*?)\] Errors:")
_VALUE = re.compile(rf"Given value: (.*?){_REST}")
_NAMES = (
    (re.compile(r"typing\.Literal\[(.*?)\]"), r"\1"),
    (re.compile(r"<class '(.*?)'>"), r"\1"),
    (re.compile(r"\b(?:[a-z_]+\.)+(?=\w)"), ""),
    (re.compile(r"\bNoneType\b"), "null"),
)
# Of a name that a class does not take: of which class, by one wording or the other, and the name.
_NOT_TAKEN = re.compile(r"(?:class_path '([\w.]+)'|expects a function or a callable class): Option '([^']*)' is not ac")
_LACKING = re.compile(r"the following arguments are required: (\w+(?:, \w+)*)")
_CLASS = re.compile(r"Namespace\(class_path='([\w.]+)'")
_UNKNOWN = re.compile(r"unrecognized arguments: (--[^\s=]+)")
_NO_FILE = re.compile(r"File does not exist: '([^']*)'")


class Refused(argparse.ArgumentError):
    """The parser's error, with all flags that there are.

    Args:
        error: the parser's.
        flags: with their dashes.
    """

    def __init__(self, error: argparse.ArgumentError, flags: Iterable[str]) -> None:
        super().__init__(None, str(error))
        self.flags = list(flags)


def plainly(error: argparse.ArgumentError) -> str:
    """What the parser refuses, in one line: of a value of the wrong type its flag, and the types that it takes.

    Of a name that is no flag, setting or file, the one that is most like it is named.
    """
    said = " ".join(str(error).split())
    if unknown := _UNKNOWN.search(said):
        return f"{said}.{did_you_mean(unknown[1], error.flags if isinstance(error, Refused) else ())}"
    if absent := _NO_FILE.search(said):
        path = Path(absent[1])
        return f"{said}.{did_you_mean(str(path), map(str, path.parent.glob('*' + path.suffix)))}"
    keys = ".".join(dict.fromkeys(_KEY.findall(said)))
    of = next(reversed(_CLASS.findall(said)), "")
    if not_taken := _NOT_TAKEN.search(said):
        of, name = not_taken[1] or of, not_taken[2]
        return f"--{keys}: {of.rpartition('.')[2]} has no setting {name!r}.{did_you_mean(name, _settings_of(of))}"
    if of and (lacking := _LACKING.search(said)):
        return f"--{keys}: {of.rpartition('.')[2]} needs {lacking[1]}."
    if one := _ONE_TYPE.search(said):
        types, value = one.groups()
    elif (several := _TYPES.findall(said)) and (given := _VALUE.search(said)):
        types, value = several[-1], given[1]
    else:
        return said
    for pattern, name in _NAMES:
        types = pattern.sub(name, types)
    return f"--{keys}={value}: it takes {types}."


def _settings_of(class_path: str) -> set[str]:
    """Names that a class's constructor takes, and those of its bases; of one that the parser has imported already."""
    module, _, name = class_path.rpartition(".")
    found = getattr(sys.modules.get(module), name, None)
    bases = inspect.getmro(found) if inspect.isclass(found) else ()
    return {key for base in bases if "__init__" in vars(base) for key in inspect.signature(base).parameters}
