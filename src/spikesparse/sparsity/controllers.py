"""The two controllers of the spike budget: one keeps a count, the other an accuracy.

Their laws, the steps of log lambda, are in :mod:`spikesparse.sparsity.control`.
"""

from __future__ import annotations

import math
from typing import Any

from spikesparse.errors import UserError
from spikesparse.sparsity.control import (
    AIM,
    FIRST_GAIN,
    FIRST_GAIN_BY_ACCURACY,
    adapted,
    moved,
    step_by_accuracy,
    step_by_count,
)
from spikesparse.sparsity.ramp import Ramp

#: What a budget is counted in -> its tag in what is measured, without the split, and its name in print.
COUNTED = {
    "spikes": ("efficiency/spikes_per_image", "spikes/image"),
    "synops": ("efficiency/synops_per_image", "SynOps/image"),
}


class Controller:
    """What both have.

    Args:
        by: what is counted, a key of :data:`COUNTED`.
        initial: lambda in the first epoch of the ramp.
        ramp: from which epoch to which.
        gain: of the first step.

    Attributes:
        weight: lambda in this epoch, and between two epochs in the next one.
        watched: tag of the value that is controlled.
        chooses_by: metric and mode of the best checkpoint; None for the most accurate.
    """

    watched: str
    chooses_by: tuple[str, str] | None = None

    def __init__(self, by: str, initial: float, ramp: Ramp, gain: float) -> None:
        self.by, self.initial, self.ramp = by, initial, ramp
        self.weight = 0.0
        self.gain = gain
        self.error: float | None = None  # at the last move

    def allowed(self, epoch: int) -> float | None:
        """What the budget allows in ``epoch``; None before the ramp starts."""
        raise NotImplementedError

    def move(self, following: int, value: float) -> None:
        """Settle lambda for the epoch ``following`` the one whose validation measured ``value``."""
        raise NotImplementedError

    def keeps(self, epoch: int, value: float) -> bool:
        """Whether ``epoch``, whose validation measured ``value``, keeps the budget."""
        raise NotImplementedError

    @property
    def none_chosen(self) -> str:
        """What to say where no epoch kept the budget."""
        raise NotImplementedError

    def line(self, following: int, value: float, before: float) -> str:
        """What was measured, and what came of it for lambda, which was ``before``."""
        raise NotImplementedError

    def change(self, before: float) -> str:
        """In words."""
        return f"lambda {before:.3g} -> {self.weight:.3g}" if self.weight != before else f"lambda stays {before:.3g}"

    def state(self) -> dict[str, Any]:
        """All that the next move depends on, beside lambda."""
        return {"error": self.error, "gain": self.gain}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self.error, self.gain = state["error"], state["gain"]


class ByCount(Controller):
    """Keeps a count per image. ``error`` is the logarithm of what is counted over what is aimed at.

    Args:
        target: count per image; None until a baseline has been read.
        by: see :class:`Controller`.
        tolerance: how far above the target a best checkpoint may be, as a fraction of it.
        initial: see :class:`Controller`.
        ramp: what is allowed falls along it, from what was counted before to the target.
    """

    def __init__(self, target: float | None, by: str, tolerance: float, initial: float, ramp: Ramp) -> None:
        super().__init__(by, initial, ramp, FIRST_GAIN)
        self.target, self.tolerance = target, tolerance
        self.watched = f"{COUNTED[by][0]}/val"
        self.first: float | None = None  # what was counted before the ramp

    def allowed(self, epoch: int) -> float | None:
        """A count per image."""
        if self.first is None or epoch < self.ramp.start_epoch:
            return None
        assert self.target is not None
        share, whole = self.ramp.share(epoch), self.target / self.first
        if not math.isfinite(share):
            raise UserError(f"`schedule`: it makes the share of the way {share} in epoch {epoch}.")
        return self.first * math.pow(whole, max(0.0, min(1.0, share)))

    def move(self, following: int, value: float) -> None:
        """By the count of the newest validation."""
        assert self.target is not None
        if self.first is None:
            self.first = max(value, self.target)
        allowed = self.allowed(following)
        assert allowed is not None
        # A network that has fallen silent counts 0: far below what is allowed, but its logarithm must exist.
        error = math.log(max(value, 1e-3 * allowed) / (AIM * allowed))
        if self.error is None or not self.weight:
            self.weight = self.weight or self.initial
        else:
            self.gain = adapted(self.gain, error, self.error)
            self.weight = moved(self.weight, step_by_count(self.gain, error, self.error))
        self.error = error

    def keeps(self, epoch: int, value: float) -> bool:
        """From the end of the ramp on."""
        assert self.target is not None
        return self.ramp.over(epoch) and value <= self.target * (1 + self.tolerance)

    @property
    def none_chosen(self) -> str:
        """With the most that was allowed."""
        assert self.target is not None
        most, name = self.target * (1 + self.tolerance), COUNTED[self.by][1]
        return f"no epoch from {self.ramp.end_epoch} (the first is 0) on spent at most {most:,.0f} {name}"

    def line(self, following: int, value: float, before: float) -> str:
        """In counts per image."""
        allowed, name = self.allowed(following), COUNTED[self.by][1]
        if allowed is None:
            return f"budget: {value:,.0f} {name}, {self.target:,.0f} in the end, from epoch {self.ramp.start_epoch}"
        end = "" if self.ramp.over(following) else f" now ({self.target:,.0f} in the end)"
        return f"budget: {value:,.0f} {name}, {allowed:,.0f} allowed{end}: {self.change(before)}"

    def state(self) -> dict[str, Any]:
        """With what was counted before the ramp."""
        return {**super().state(), "first": self.first, "within": False}

    def restore(self, state: dict[str, Any]) -> None:
        """With what was counted before the ramp."""
        super().restore(state)
        self.first = state["first"]


class ByAccuracy(Controller):
    """Keeps a validation accuracy. ``error`` is the room that is left of the drop.

    Args:
        drop: accuracy that may be lost against the baseline, as a fraction.
        baseline: accuracy, a fraction; None until a checkpoint has been read.
        by: what the quietest checkpoint has least of.
        initial: see :class:`Controller`.
        ramp: only its start is read.
    """

    watched = "accuracy/val"

    def __init__(self, drop: float, baseline: float | None, by: str, initial: float, ramp: Ramp) -> None:
        super().__init__(by, initial, ramp, FIRST_GAIN_BY_ACCURACY)
        self.drop, self.baseline = drop, baseline
        self.chooses_by = (f"{COUNTED[by][0]}/val", "min")
        self.within = False  # the drop, at least once

    def allowed(self, epoch: int = 0) -> float:
        """An accuracy, the same in every epoch."""
        assert self.baseline is not None, "the baseline is known once training starts"
        return self.baseline - self.drop

    def move(self, following: int, value: float) -> None:
        """By the accuracy of the newest validation."""
        room = value - self.allowed()
        started = self.weight > 0
        self.weight = self.weight or self.initial
        self.within |= room >= 0
        if started and self.within:
            gain = adapted(self.gain, room, room if self.error is None else self.error)
            self.gain = min(FIRST_GAIN_BY_ACCURACY, gain)
            self.weight = moved(self.weight, self.gain * step_by_accuracy(room, self.drop))
        self.error = room

    def keeps(self, epoch: int, value: float) -> bool:
        """In any epoch."""
        return value >= self.allowed() - 1e-9  # of rounding

    @property
    def none_chosen(self) -> str:
        """With the drop that was allowed."""
        return f"no epoch was within `max_accuracy_drop={self.drop:g}` of the baseline {self.baseline:.2%}"

    def line(self, following: int, value: float, before: float) -> str:
        """In accuracies."""
        waits = self.weight == before and self.weight and not self.within
        wait = " until accuracy is there once" if waits else ""
        return f"budget: val accuracy {value:.2%}, at least {self.allowed():.2%} allowed: {self.change(before)}{wait}"

    def state(self) -> dict[str, Any]:
        """With whether the drop was kept once."""
        return {**super().state(), "first": None, "within": self.within}

    def restore(self, state: dict[str, Any]) -> None:
        """With whether the drop was kept once."""
        super().restore(state)
        self.within = state["within"]
