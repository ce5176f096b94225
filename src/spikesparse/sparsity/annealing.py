"""Annealing of the sparsity weight lambda, epoch by epoch."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from spikesparse.errors import ArgumentError, UserError
from spikesparse.sparsity.ramp import Ramp
from spikesparse.sparsity.schedules import ScheduleName
from spikesparse.sparsity.weight import SparsityWeight


class SparsityAnnealing(SparsityWeight):
    """Sets the weight of the sparsity penalty, ``module.sparsity_weight``, at the start of every epoch.

    Lambda is a function of the epoch alone: ``start_value`` up to ``start_epoch``, then along the schedule to
    ``end_value``, which it holds from ``end_epoch`` on. Allred et al. 2020 (arXiv 2003.01250) raise it over training,
    "simulated annealing-inspired"; their law is not published, so several are here. Beside an active
    :class:`spikesparse.SpikeBudget` it does nothing.

    Args:
        end_value: lambda at the end, >= 0; 0 trains for accuracy alone (the twin).
        schedule: "constant", "linear", "cosine", "exponential", "step" or "cooling"; or a function of the ramp's
            progress, from 0 up to 1, that gives the share of the way from start to end value.
        start_epoch: epoch (from 0) at which the ramp starts.
        end_epoch: epoch from which lambda has its end value; None is half of ``trainer.max_epochs``. The best
            checkpoint is chosen from this epoch on.
        start_value: lambda before and at the start of the ramp.

    Raises:
        UserError: for a negative lambda (also from your own schedule), an unknown schedule, or a ramp that ends
            before it starts.
    """

    def __init__(
        self,
        end_value: float = 0.0,
        schedule: ScheduleName | Callable[[float], float] | str = "linear",
        start_epoch: int = 0,
        end_epoch: int | None = None,
        start_value: float = 0.0,
    ) -> None:
        for name, value in (("end_value", end_value), ("start_value", start_value)):
            if not (value >= 0.0 and math.isfinite(value)):
                raise ArgumentError(name, value, "it must be 0 or more; 0 trains for accuracy alone.")
        self.ramp = Ramp(schedule, start_epoch, end_epoch)
        self.end_value, self.start_value = end_value, start_value

    @property
    def end_epoch(self) -> int | None:
        """Epoch from which lambda has its end value; None until training starts, unless it was named."""
        return self.ramp.end_epoch

    def value_at(self, epoch: int) -> float:
        """Lambda in ``epoch`` (from 0)."""
        progress = self.ramp.progress(epoch)
        if self.ramp.over(epoch):
            return self.end_value
        if epoch < self.ramp.start_epoch:
            return self.start_value
        value = self.start_value + (self.end_value - self.start_value) * self.ramp.share(epoch)
        if not (value >= 0.0 and math.isfinite(value)):
            raise UserError(
                f"`schedule`: it makes lambda {value} in epoch {epoch} (progress {progress:.3g}); lambda must be 0 or "
                "more. It gives the share of the way from `start_value` to `end_value`."
            )
        return value

    def at_end_value(self, epoch: int) -> bool:
        """Whether lambda has reached its end value in ``epoch``: the window in which the best checkpoint is chosen."""
        return self.ramp.over(epoch)

    def warning(self, max_epochs: int) -> str | None:
        """What to say of a training that ends before the ramp."""
        if self.ramp.over(max_epochs - 1) or self.end_value == 0:
            return None
        return (
            f"lambda reaches its end value in epoch {self.end_epoch}, but training ends after {max_epochs} epochs: no "
            "best checkpoint will be chosen. Lower `end_epoch` or raise `max_epochs`."
        )

    def state_dict(self) -> dict[str, Any]:
        """The settled end of the ramp: a longer resumed run keeps it."""
        return {"end_epoch": self.end_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the checkpoint's end of the ramp, unless the user names one."""
        self.ramp.restore(state_dict["end_epoch"])
