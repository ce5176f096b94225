"""Settings: nested ones as one level of dotted names, and which make a budget."""

from __future__ import annotations

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
