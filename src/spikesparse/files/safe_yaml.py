"""YAML from anywhere, read as plain data: what would fill memory or the stack is refused before it is built."""

from __future__ import annotations

import re
import stat
from pathlib import Path
from typing import Any

import yaml

from spikesparse.errors import UserError
from spikesparse.files.yaml_keys import NoValue, check_keys

MAX_BYTES = 1 << 20
MAX_DEPTH = 24  # base.yaml has 6; the parser needs a dozen frames of Python's stack for each
MAX_NODES = 20_000  # counted as if every alias were written out, which is what a walk over the settings meets

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_PLAIN = re.compile(r"[\w./+%=@~ -]{0,200}")
_UNREADABLE = (yaml.YAMLError, ValueError, TypeError, RecursionError, OverflowError)  # what PyYAML raises


class NoYAML(UserError):
    """A text that is no YAML at all, and not one that is more than settings are."""


def load_yaml(text: str, where: str) -> Any:
    """The value of a YAML text, of plain types only.

    Args:
        text: of one document.
        where: what to call it in an error.

    Raises:
        UserError: if it is no YAML, or longer, deeper or larger than settings are.
    """
    check_yaml(text, where)
    try:
        return yaml.load(text, Loader=_Loader)
    except _UNREADABLE as error:
        raise _unreadable(where, error) from error


def load_value(text: str, where: str) -> Any:
    """A flag's value as the parser reads it: the value of a YAML text, or the text itself if it is no YAML.

    So "{epoch}-{step}" is a file name. It is read by the parser's own rules, so that nothing is a text here and
    settings there.

    Raises:
        UserError: if it is longer, deeper or larger than settings are.
    """
    from jsonargparse import _loaders_dumpers as loading

    try:
        check_yaml(text, where)
        return loading.yaml_load(text)  # type: ignore[no-untyped-call]
    except _UNREADABLE as error:
        if isinstance(error, UserError) and not isinstance(error, NoYAML | NoValue):
            raise
        return text


def read_yaml(path: Path, where: str) -> Any:
    """The value of a YAML file.

    Raises:
        UserError: as :func:`load_yaml`, or if it cannot be read.
    """
    return load_yaml(read_text(path, where), where)


def read_text(path: Path, where: str) -> str:
    """The text of a file that is not too long for settings.

    Raises:
        UserError: if it is, or is no file of text.
    """
    check_regular(path, where)
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
        _check_size(len(raw), "bytes", where)
        return raw.decode("utf-8")
    except UserError:
        raise
    except (OSError, ValueError) as error:
        raise _unreadable(where, error) from error


def check_regular(path: Path, where: str) -> None:
    """Refuse what is no file that can be read to its end, and then once more: opening a pipe would wait for ever.

    Raises:
        UserError: if it is a folder, pipe or device, or is not there.
    """
    if path.is_file():
        return
    if not path.exists():
        raise UserError(f"{where}: there is no such file.")
    mode = path.stat().st_mode
    kinds = ((stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"))
    kind = next((name for is_one, name in kinds if is_one(mode)), "a device")
    raise UserError(f"{where}: it is {kind}; name a regular file, which can be read more than once.")


def check_yaml(text: str, where: str) -> None:
    """Refuse a YAML text that is not whole, or is longer, deeper or larger than settings are.

    Nor may a key stand twice in it, or have no value. Sizes are counted event by event, before anything is built.

    Raises:
        UserError: saying which.
    """
    if _PLAIN.fullmatch(text):
        return
    _check_size(len(text), "characters", where)
    sizes: dict[str | None, int] = {}  # anchor -> nodes below it
    opened: list[tuple[str | None, int]] = []  # the collections that are open: anchor, nodes before it
    nodes = 0
    try:
        for event in yaml.parse(text, Loader=_Loader):
            if isinstance(event, yaml.AliasEvent):
                if event.anchor in {anchor for anchor, _ in opened}:
                    raise UserError(f"{where}: *{event.anchor} holds itself.")
                nodes += sizes.get(event.anchor, 1)
            elif isinstance(event, yaml.ScalarEvent):
                nodes += 1
                sizes[event.anchor] = 1
            elif isinstance(event, yaml.CollectionStartEvent):
                opened.append((event.anchor, nodes))
                nodes += 1
            elif isinstance(event, yaml.CollectionEndEvent):
                anchor, before = opened.pop()
                sizes[anchor] = nodes - before
            if len(opened) > MAX_DEPTH:
                raise UserError(f"{where}: nested more than {MAX_DEPTH} levels deep, which no settings need.")
            if nodes > MAX_NODES:
                raise UserError(f"{where}: over {MAX_NODES:,} values, aliases written out, which no settings need.")
        if (root := yaml.compose(text, Loader=_Loader)) is not None:
            check_keys(root, where)
    except UserError:
        raise
    except (yaml.YAMLError, ValueError) as error:
        raise _unreadable(where, error) from error


def is_empty(text: str) -> bool:
    """Whether a YAML text, which has been checked, holds nothing but comments."""
    root = yaml.compose(text, Loader=_Loader)
    return root is None or (isinstance(root, yaml.ScalarNode) and root.value == "")


def _check_size(size: int, unit: str, where: str) -> None:
    if size > MAX_BYTES:
        raise UserError(f"{where}: over {MAX_BYTES:,} {unit}, which no settings need; take another file.")


def _unreadable(where: str, error: BaseException) -> NoYAML:
    return NoYAML(f"{where}: cannot be read as YAML ({' '.join(str(error).split())[:300]}).")
