"""What a spike budget is asked for, and what it goes by: checked and read."""

from __future__ import annotations

import math
from typing import Any

from pytorch_lightning import LightningModule

from spikesparse.errors import UserError


def check_budget(
    target: float | None, drop: float | None, baseline: float | str | None, reduction: float | None
) -> None:
    asked = {"target": target, "reduction": reduction, "max_accuracy_drop": drop}
    named = [f"--budget.{name}={value:g}" for name, value in asked.items() if value is not None]
    if len(named) > 1:
        raise UserError(f"{' and '.join(named)}: name one of them; the others follow.")
    if target is not None and not 0.0 < target < math.inf:
        raise UserError(f"--budget.target={target}: spikes or SynOps per image, above 0.")
    for name, value in (("reduction", reduction), ("max_accuracy_drop", drop)):
        if value is not None:
            check_fraction(f"--budget.{name}", value)
    if drop is not None and baseline is None:
        raise UserError(
            f"--budget.max_accuracy_drop={drop:g}: against what? Name --budget.baseline=<accuracy as a fraction, or a "
            "checkpoint>."
        )
    if reduction is not None and not isinstance(baseline, str):
        raise UserError(f"--budget.reduction={reduction:g}: of what? Name --budget.baseline=<a checkpoint>.")
    if drop is None and reduction is None and baseline is not None:
        raise UserError(
            f"--budget.baseline={baseline}: it is for --budget.max_accuracy_drop and --budget.reduction, neither "
            "of which is named."
        )
    if not isinstance(baseline, str | None) and not 0.0 < baseline <= 1.0:
        raise UserError(f"--budget.baseline={baseline}: an accuracy is a fraction: 0.84, not 84.")


def check_fraction(flag: str, value: float) -> None:
    """Refuse what is no share to be cut.

    Raises:
        UserError: naming the flag.
    """
    if not 0.0 <= value < 1.0:
        raise UserError(f"{flag}={value}: a fraction, from 0 to below 1; 0.01 is one percent.")


def measured_of(pl_module: LightningModule, tag: str) -> float:
    """What validation measured last, over all processes.

    Raises:
        UserError: if the module does not measure that.
    """
    values: dict[str, float] = getattr(pl_module, "measured", {})
    if tag not in values:
        raise UserError(f"--budget: it goes by {tag}, and the validation of {type(pl_module).__name__} has none.")
    return float(values[tag])


def told_by(path: str, tag: str, data: Any, flag: str = "--budget.baseline") -> float:
    """What a checkpoint tells of its own validation.

    Args:
        path: of the checkpoint.
        tag: of what was measured.
        data: the data module of what is compared with it, or None.
        flag: that names the checkpoint.

    Raises:
        UserError: if there is none, it does not tell, or it was measured on other images.
    """
    from spikesparse.data.same_images import check_same_images
    from spikesparse.files.checkpoint import read_checkpoint  # not above: it imports this package

    checkpoint = read_checkpoint(path, flag)
    check_same_images((checkpoint.get("settings") or {}).get("data") or {}, data, f"{flag}={path}")
    value = (checkpoint.get("measured") or {}).get(tag)
    if not isinstance(value, float):
        raise UserError(
            f"{flag}={path}: the checkpoint does not tell its {tag}, it is of an earlier version. Name the "
            "value itself: `spikesparse validate --ckpt_path` measures it."
        )
    return value
