"""What a spike budget is asked for, and what it goes by: checked and read."""

from __future__ import annotations

import math
from typing import Any

from spikesparse.data.same_images import check_same_images
from spikesparse.errors import ArgumentError, UserError
from spikesparse.files.checkpoint import read_checkpoint


def check_budget(
    target: float | None, drop: float | None, baseline: float | str | None, reduction: float | None
) -> None:
    asked = {"target": target, "reduction": reduction, "max_accuracy_drop": drop}
    named = [f"`{name}={value:g}`" for name, value in asked.items() if value is not None]
    if len(named) > 1:
        raise UserError(f"{' and '.join(named)}: name one of them; the others follow.")
    if target is not None and not 0.0 < target < math.inf:
        raise ArgumentError("target", target, "it must be above 0; spikes or SynOps per image.")
    for name, value in (("reduction", reduction), ("max_accuracy_drop", drop)):
        if value is not None:
            check_fraction(name, value)
    if drop is not None and baseline is None:
        raise ArgumentError(
            "max_accuracy_drop",
            f"{drop:g}",
            "against what? Name `baseline=<accuracy as a fraction, or a checkpoint>`.",
        )
    if reduction is not None and not isinstance(baseline, str):
        raise ArgumentError("reduction", f"{reduction:g}", "of what? Name `baseline=<a checkpoint>`.")
    if drop is None and reduction is None and baseline is not None:
        raise ArgumentError(
            "baseline", baseline, "it is for `max_accuracy_drop` and `reduction`, neither of which is named."
        )
    if not isinstance(baseline, str | None) and not 0.0 < baseline <= 1.0:
        raise ArgumentError("baseline", baseline, "an accuracy is a fraction: 0.84, not 84.")


def check_fraction(argument: str, value: float) -> None:
    """Refuse what is no share to be cut.

    Raises:
        ArgumentError: naming the argument.
    """
    if not 0.0 <= value < 1.0:
        raise ArgumentError(argument, value, "a fraction, from 0 to below 1; 0.01 is one percent.")


def measured_of(pl_module: Any, tag: str) -> float:
    """What validation measured last, over all processes.

    Raises:
        UserError: if the module does not measure that.
    """
    values: dict[str, float] = getattr(pl_module, "measured", {})
    if tag not in values:
        raise UserError(f"a budget goes by {tag}, and the validation of {type(pl_module).__name__} has none.")
    return float(values[tag])


def told_by(path: str, tag: str, data: Any, named: str = "`baseline`") -> float:
    """What a checkpoint tells of its own validation.

    Args:
        path: of the checkpoint.
        tag: of what was measured.
        data: the data module of what is compared with it, or None.
        named: how errors call what names the checkpoint.

    Raises:
        UserError: if there is none, it does not tell, or it was measured on other images.
    """
    checkpoint = read_checkpoint(path, named)
    check_same_images((checkpoint.get("settings") or {}).get("data") or {}, data, f"{named}={path}")
    value = (checkpoint.get("measured") or {}).get(tag)
    if not isinstance(value, float):
        raise UserError(
            f"{named}={path}: the checkpoint does not tell its {tag}, it is of an earlier version. Name the value "
            "itself: `spikesparse validate` measures it."
        )
    return value
