"""Flags that nothing reads in a training, because what would read them is not asked for."""

from __future__ import annotations

from typing import Any

from spikesparse.settings.command_line import flag_value

#: Flags, and those of which one must have a value that turns their reader on.
_READ_WITH = (
    (
        ("budget.by", "budget.initial", "budget.tolerance"),
        ("budget.target", "budget.reduction", "budget.max_accuracy_drop"),
    ),
    (("model.distillation.weight", "model.distillation.temperature"), ("model.distillation.teacher",)),
    (("model.early_exit.measure",), ("model.early_exit.confidence",)),
)


def unread_flags(args: list[str], config: Any) -> list[str]:
    """One line for each flag on a command line that nothing reads.

    Where the command line itself turns the reader off, as that of a twin does with ``--budget.target=null``, no line is
    made: that is meant.

    Args:
        args: the command line.
        config: what came of it and of all files, with dotted names.
    """
    lines = []
    for flags, readers in _READ_WITH:
        if any(config.get(reader) is not None or flag_value(args, f"--{reader}") for reader in readers):
            continue
        given = [f"--{flag}" for flag in flags if flag_value(args, f"--{flag}") is not None]
        lines += [f"not read: {flag}, without --{' or --'.join(readers)}" for flag in given]
    return lines
