"""Names from outside as text: of files, folders and classes, which may hold any bytes."""

from __future__ import annotations

import unicodedata

#: Categories that no table can hold or that move a terminal's cursor: control characters, lone surrogates, line ends.
_ESCAPED = ("Cc", "Cs", "Zl", "Zp")
_TURNS = {*range(0x202A, 0x202F), *range(0x2066, 0x206A)}  # text around them is read in another order than it stands


def printable(name: str) -> str:
    r"""A name as text that every file and terminal takes, on one line.

    A name of a file system that is no UTF-8 reaches Python with a lone surrogate for each odd byte: the byte is written
    out. So is what no line of text can hold. All other names stay as they are.

    >>> print(printable("caf\udce9"), printable("two\nlines"), printable("größe, 大"))
    caf\xe9 two\nlines größe, 大
    """
    return "".join(_escaped(c) for c in name)


def _escaped(c: str) -> str:
    if "\udc80" <= c <= "\udcff":  # Python's "surrogateescape": the byte itself
        return f"\\x{ord(c) - 0xDC00:02x}"
    if unicodedata.category(c) in _ESCAPED or ord(c) in _TURNS:
        return c.encode("unicode_escape").decode()
    return c
