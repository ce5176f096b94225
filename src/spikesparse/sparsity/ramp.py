"""The ramp: the epochs over which training is tightened, from accuracy alone to all that is asked for."""

from __future__ import annotations

from collections.abc import Callable

from spikesparse.errors import ArgumentError, choose
from spikesparse.sparsity.schedules import SCHEDULES, ScheduleName


class Ramp:
    """From ``start_epoch`` to ``end_epoch`` along a schedule; the annealing and the budget both follow it.

    Args:
        schedule: a name of :data:`spikesparse.sparsity.schedules.SCHEDULES`, or a function of the progress.
        start_epoch: epoch (from 0) at which it starts.
        end_epoch: epoch from which it is over; None is half of the training, known once :meth:`settle` is told it.

    Raises:
        UserError: for an unknown schedule, or a ramp that ends before it starts.
    """

    def __init__(
        self, schedule: ScheduleName | Callable[[float], float] | str, start_epoch: int, end_epoch: int | None
    ) -> None:
        if start_epoch < 0:
            raise ArgumentError("start_epoch", start_epoch, "epochs count from 0.")
        if end_epoch is not None and end_epoch < start_epoch:
            raise ArgumentError(
                "end_epoch", end_epoch, f"the ramp ends before it starts (`start_epoch={start_epoch}`)."
            )
        if not callable(schedule):
            schedule = SCHEDULES[choose("schedule", schedule, SCHEDULES, "schedule")]
        self.schedule, self.start_epoch = schedule, start_epoch
        self._asked_end_epoch, self.end_epoch = end_epoch, end_epoch
        self.overruled: int | None = None  # where it would end, had a checkpoint not settled it

    def settle(self, max_epochs: int | None) -> None:
        """End it at half of the training, unless its end is known."""
        if self.end_epoch is None:
            self.end_epoch = max(self.start_epoch, max_epochs // 2 if max_epochs and max_epochs > 0 else 0)

    def restore(self, end_epoch: int) -> None:
        """Keep the end that a checkpoint settled, unless the user names one."""
        if self._asked_end_epoch is None:
            self.overruled = self.end_epoch if self.end_epoch != end_epoch else None
            self.end_epoch = end_epoch

    def over(self, epoch: int) -> bool:
        """Whether it has ended in ``epoch``."""
        return self.end_epoch is not None and epoch >= self.end_epoch

    def progress(self, epoch: int) -> float:
        """How much of its time is over in ``epoch``, from 0 to 1."""
        assert self.end_epoch is not None, "the end of the ramp is known once training starts"
        if self.over(epoch):
            return 1.0
        if epoch < self.start_epoch:
            return 0.0
        return (epoch - self.start_epoch) / (self.end_epoch - self.start_epoch)

    def share(self, epoch: int) -> float:
        """How far it has come in ``epoch``, by its schedule; 1 once it is over, whatever the schedule says."""
        return 1.0 if self.over(epoch) else float(self.schedule(self.progress(epoch)))
