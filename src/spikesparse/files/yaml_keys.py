"""Keys of a YAML text: YAML itself keeps the last of two alike, and takes a key without a value for null."""

from __future__ import annotations

from collections.abc import Hashable

import yaml

from spikesparse.errors import UserError

_TAG = "tag:yaml.org,2002:"

Path = tuple[Hashable, ...]  # keys and places in lists, from the outermost


class NoValue(UserError):
    """A key without a value: in a flag's text a name in braces, such as ``{epoch}``, has that form too."""


def check_keys(node: yaml.Node, where: str, path: Path = (), lines: dict[Path, int] | None = None) -> None:
    """Refuse a key that stands twice, and one that has no value.

    A dotted key is the key below: ``data.flip`` stands twice beside a ``flip`` in ``data``.

    Args:
        node: of a text that is no deeper or larger than settings are: it is walked with every alias written out.
        where: what to call the text in an error.
        path: to the node.
        lines: where each path stands.

    Raises:
        UserError: naming the key and its lines.
    """
    lines = {} if lines is None else lines
    if isinstance(node, yaml.SequenceNode):
        for place, item in enumerate(node.value):
            check_keys(item, where, (*path, place), lines)
    for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
        below, line = (*path, *_names(key)), key.start_mark.line + 1
        dotted = ".".join(map(str, below))
        if below in lines:
            first, last = sorted((lines[below], line))
            both = f"in lines {first} and {last}" if first != last else f"in line {line}"
            raise UserError(f"{where}: {dotted} stands twice, {both}, and the first would be lost. Make them one.")
        if value.tag == f"{_TAG}null" and value.start_mark.index == value.end_mark.index:
            raise NoValue(
                f"{where}: {dotted} has no value, in line {value.start_mark.line + 1}. Give it one, or leave it out; "
                "where null is meant, write null."
            )
        if isinstance(key, yaml.ScalarNode) and key.tag != f"{_TAG}merge":
            lines[below] = line
        check_keys(value, where, below, lines)


def _names(key: yaml.Node) -> list[Hashable]:
    """The keys that one stands for: several, if it is dotted."""
    if not isinstance(key, yaml.ScalarNode):
        return ["?"]  # a list or mapping, which no loader takes for a key
    if key.tag in (f"{_TAG}merge", f"{_TAG}value"):
        return [key.value]
    name: Hashable = yaml.constructor.SafeConstructor().construct_object(key)
    return [*name.split(".")] if isinstance(name, str) else [name]
