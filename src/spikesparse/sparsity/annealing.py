"""Annealing of the sparsity weight lambda, epoch by epoch."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.utilities.rank_zero import rank_zero_warn

from spikesparse.errors import UserError, choose
from spikesparse.own import refusal
from spikesparse.sparsity.schedules import SCHEDULES, ScheduleName


class SparsityAnnealing(Callback):
    """Sets the weight of the sparsity penalty, ``module.sparsity_weight``, at the start of every epoch.

    Lambda is a function of the epoch alone: ``start_value`` up to ``start_epoch``, then along the schedule to
    ``end_value``, which it holds from ``end_epoch`` on. Allred et al. 2020 (arXiv 2003.01250) raise it over training,
    "simulated annealing-inspired"; their law is not published, so several are here.

    Args:
        end_value: lambda at the end, >= 0; 0 trains for accuracy alone (the twin).
        schedule: "constant", "linear", "cosine", "exponential", "step" or "cooling"; or a function of the ramp's
            progress, from 0 up to 1, that gives the share of the way from start to end value.
        start_epoch: epoch (from 0) at which the ramp starts.
        end_epoch: epoch from which lambda has its end value; None is half of ``trainer.max_epochs``. The best
            checkpoint is chosen from this epoch on.
        start_value: lambda before and at the start of the ramp.

    Raises:
        UserError: for a negative lambda (also from a schedule of one's own), an unknown schedule, or a ramp that ends
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
                raise UserError(f"--sparsity.{name}={value}: lambda must be 0 or more; 0 trains for accuracy alone.")
        if start_epoch < 0:
            raise UserError(f"--sparsity.start_epoch={start_epoch}: epochs count from 0.")
        if end_epoch is not None and end_epoch < start_epoch:
            raise UserError(
                f"--sparsity.end_epoch={end_epoch}: the ramp ends before it starts (--sparsity.start_epoch="
                f"{start_epoch})."
            )
        if isinstance(schedule, str) and "." in schedule:  # a class path that could not be taken is left as a string
            raise refusal("sparsity.schedule", schedule)
        if not callable(schedule):
            schedule = SCHEDULES[choose("schedule", schedule, SCHEDULES, "--sparsity.schedule")]
        self.schedule = schedule
        self.end_value, self.start_value, self.start_epoch = end_value, start_value, start_epoch
        self._asked_end_epoch, self.end_epoch = end_epoch, end_epoch

    def value_at(self, epoch: int) -> float:
        """Lambda in ``epoch`` (from 0)."""
        assert self.end_epoch is not None, "the end of the ramp is known once training starts"
        if epoch >= self.end_epoch:
            return self.end_value
        if epoch < self.start_epoch:
            return self.start_value
        progress = (epoch - self.start_epoch) / (self.end_epoch - self.start_epoch)
        value = self.start_value + (self.end_value - self.start_value) * float(self.schedule(progress))
        if not (value >= 0.0 and math.isfinite(value)):
            raise UserError(
                f"--sparsity.schedule: it makes lambda {value} in epoch {epoch} (progress {progress:.3g}); lambda must "
                "be 0 or more. It gives the share of the way from --sparsity.start_value to --sparsity.end_value."
            )
        return value

    def at_end_value(self, epoch: int) -> bool:
        """Whether lambda has reached its end value in ``epoch``: the window in which the best checkpoint is chosen."""
        return self.end_epoch is not None and epoch >= self.end_epoch

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Settle the end of the ramp."""
        if stage != "fit" or self.end_epoch is not None:
            return
        epochs = trainer.max_epochs if trainer.max_epochs and trainer.max_epochs > 0 else 0
        self.end_epoch = max(self.start_epoch, epochs // 2)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say so if the run ends before the ramp."""
        assert self.end_epoch is not None
        if trainer.max_epochs is not None and 0 < trainer.max_epochs <= self.end_epoch and self.end_value > 0:
            rank_zero_warn(
                f"lambda reaches its end value in epoch {self.end_epoch}, but training ends after "
                f"{trainer.max_epochs} epochs: no best checkpoint will be chosen. Lower --sparsity.end_epoch or raise "
                "--trainer.max_epochs."
            )

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Set lambda for the epoch, and log it."""
        weight = self.value_at(trainer.current_epoch)
        pl_module.sparsity_weight = weight  # type: ignore[assignment]
        pl_module.log("schedule/lambda", weight, on_step=False, on_epoch=True)

    def state_dict(self) -> dict[str, Any]:
        """The settled end of the ramp: a longer resumed run keeps it."""
        return {"end_epoch": self.end_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the checkpoint's end of the ramp, unless the user names one."""
        if self._asked_end_epoch is None:
            self.end_epoch = state_dict["end_epoch"]
