"""Settings: nested ones as one level of dotted names, and which make a budget."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

#: What sets a budget, of ``--budget``: null in all of them is none.
BUDGETS = ("target", "reduction", "max_accuracy_drop", "baseline")


def flat(settings: Any, prefix: str = "") -> dict[str, Any]:
    """Nested settings with one dotted name for each value; lists of plain values stay whole."""
    if isinstance(settings, list) and any(isinstance(entry, dict) for entry in settings):
        settings = dict(enumerate(settings))
    if not isinstance(settings, dict) or not (settings or not prefix):
        return {prefix: settings}
    whole: dict[str, Any] = {}
    for key, value in settings.items():
        whole |= flat(value, f"{prefix}.{key}" if prefix else str(key))
    return whole


def readable(text: str) -> str:
    """Text that UTF-8 can hold: file names and JSON may have lone surrogates."""
    return text.encode("utf-8", "replace").decode()


def number(value: object) -> float | None:
    """A finite number as a float; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > 1e300 or math.isnan(value):
        return None
    return float(value)


def mapping(value: object) -> dict[str, Any]:
    """A mapping with its keys as text; anything else is an empty one."""
    return {str(key): entry for key, entry in value.items()} if isinstance(value, dict) else {}


def is_file(text: str) -> bool:
    """Whether a text names a file that is there."""
    try:
        return Path(text).is_file()
    except (OSError, ValueError):  # too long for a name, or a zero byte in it
        return False
