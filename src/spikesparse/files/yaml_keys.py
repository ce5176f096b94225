"""Keys of a YAML text: YAML itself keeps the last of two alike, and takes a key without a value for null."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import yaml

from spikesparse.errors import UserError

_MERGE, _VALUE = "tag:yaml.org,2002:merge", "tag:yaml.org,2002:value"

Path = tuple[Hashable, ...]  # keys and places in lists, from the outermost


@dataclass
class _Level:
    """A mapping or list whose end has not come yet.

    Attributes:
        path: to it.
        mapping: whether it is one.
        items: of a list, those that have come.
        key: of a mapping, the path to the value that comes next; None where a key comes next.
    """

    path: Path
    mapping: bool
    items: int = 0
    key: Path | None = None


class NoValue(UserError):
    """A key without a value: in a flag's text a name in braces, such as ``{epoch}``, has that form too."""


class KeyCheck:
    """Refuses, event by event, a key that stands twice, and one that has no value.

    A dotted key is the key below: ``data.flip`` stands twice beside a ``flip`` in ``data``.

    Args:
        where: what to call the text in an error.
    """

    def __init__(self, where: str) -> None:
        self._where = where
        self._levels: list[_Level] = []
        self._lines: dict[Path, int] = {}  # where each path stands
        self._anchored: dict[str, Hashable] = {}  # scalars, for a key that is an alias
        self._constructor = yaml.constructor.SafeConstructor()
        self._resolver: Any = yaml.resolver.Resolver()

    def take(self, event: yaml.Event) -> None:
        """Look at the next event of the text.

        Raises:
            UserError: naming the key and its lines.
            yaml.YAMLError: for a key that cannot be read.
        """
        if isinstance(event, yaml.CollectionEndEvent):
            self._levels.pop()
        elif isinstance(event, yaml.DocumentStartEvent):
            self._lines = {}
        elif isinstance(event, yaml.NodeEvent):
            path = self._place(event)
            if isinstance(event, yaml.CollectionStartEvent):
                self._levels.append(_Level(path, isinstance(event, yaml.MappingStartEvent)))

    def _place(self, event: yaml.NodeEvent) -> Path:
        if isinstance(event, yaml.ScalarEvent) and event.anchor is not None:
            self._anchored[event.anchor] = self._constructed(event)[0]
        if not self._levels:
            return ()
        mark: Any = event.start_mark
        level, line = self._levels[-1], mark.line + 1
        if not level.mapping:
            level.items += 1
            return (*level.path, level.items - 1)
        if level.key is None:
            level.key = self._key(level.path, event, line)
            return level.key
        path, level.key = level.key, None
        if isinstance(event, yaml.ScalarEvent) and event.implicit[0] and not event.value and event.anchor is None:
            raise NoValue(
                f"{self._where}: {_dotted(path)} has no value, in line {line}. Give it one, or leave it out; where "
                "null is meant, write null."
            )
        return path

    def _key(self, above: Path, event: yaml.NodeEvent, line: int) -> Path:
        if isinstance(event, yaml.AliasEvent):
            key, merged = self._anchored.get(str(event.anchor), "?"), False
        elif isinstance(event, yaml.ScalarEvent):
            key, merged = self._constructed(event)
        else:
            return (*above, "?")  # a list or mapping, which no loader takes for a key
        path = (*above, *(key.split(".") if isinstance(key, str) else [key]))
        if merged:
            return path
        if (first := self._lines.get(path)) is not None:
            lines = f"in lines {first} and {line}" if first != line else f"in line {line}"
            raise UserError(
                f"{self._where}: {_dotted(path)} stands twice, {lines}, and the first would be lost. Make them one."
            )
        self._lines[path] = line
        return path

    def _constructed(self, event: yaml.ScalarEvent) -> tuple[Hashable, bool]:
        """The value of a scalar, and whether it is the key that merges another mapping."""
        tag = event.tag or self._resolver.resolve(yaml.ScalarNode, event.value, event.implicit)
        if tag in (_MERGE, _VALUE):
            return event.value, tag == _MERGE
        return self._constructor.construct_object(yaml.ScalarNode(tag, event.value)), False


def _dotted(path: Path) -> str:
    return ".".join(map(str, path))
