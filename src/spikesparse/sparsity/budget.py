"""The closed loop: lambda follows from what the network is to spend, or from what accuracy it may give up."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from pytorch_lightning import LightningModule, Trainer

from spikesparse.errors import ArgumentError, UserError, choose
from spikesparse.sparsity.annealing import SparsityAnnealing
from spikesparse.sparsity.asked import check_budget, measured_of, told_by
from spikesparse.sparsity.control import LARGEST, LEAST
from spikesparse.sparsity.controllers import COUNTED, ByAccuracy, ByCount
from spikesparse.sparsity.ramp import Ramp
from spikesparse.sparsity.schedules import ScheduleName
from spikesparse.sparsity.weight import SparsityWeight, in_force

logger = logging.getLogger(__name__)


class SpikeBudget(SparsityWeight):
    """Finds the weight of the sparsity penalty that keeps a budget, in place of one that is guessed.

    Once per epoch, after its last validation, lambda is moved; the new one holds from the next epoch on. Up to
    ``start_epoch`` it is 0. With neither a target nor a drop the budget is off, and the annealing sets lambda.

    *A target.* What is allowed falls, by a constant factor per share of the ramp, from what the last validation before
    the ramp counted to the target at ``end_epoch``; lambda aims a little below it, so that an epoch that strays still
    keeps it. The best checkpoint is the most accurate from ``end_epoch`` on that spends at most
    target * (1 + tolerance). The law: :mod:`spikesparse.sparsity.control`.

    *An accuracy drop.* From ``start_epoch`` on, lambda waits at ``initial`` until validation accuracy has once come
    within the drop; then it rises while there is room, and falls, faster, when there is none. The best checkpoint is
    the quietest that is within the drop. Made to fine-tune a trained network (``init_from``): one from scratch
    spends its first epochs below any finished baseline. The schedule and ``end_epoch`` are not used.

    Args:
        target: spikes, or synaptic operations, per image of the validation split; above 0.
        reduction: the target as what is to be cut of a baseline checkpoint's own count, as a fraction: 0.7 leaves 30 %.
        by: what is counted, "spikes" or "synops".
        max_accuracy_drop: validation accuracy that may be lost against the baseline, as a fraction: 0.01 is a point.
        baseline: validation accuracy as a fraction (0.84), or a checkpoint whose own accuracy or count is read.
        initial: lambda in the first epoch of the ramp.
        tolerance: how far above the target a best checkpoint may be, as a fraction of the target.
        schedule: of the ramp, as in :class:`spikesparse.SparsityAnnealing`, whose three flags the command line uses.
        start_epoch: epoch (from 0) at which the ramp starts; not before the first validation is over.
        end_epoch: epoch from which the target holds; None is half of ``trainer.max_epochs``.

    Raises:
        UserError: for more than one of target, reduction and drop, a reduction or drop without a baseline or the
            reverse, values out of range, a checkpoint that does not tell what was measured of it, or a training without
            validation.
    """

    precedence = 1

    def __init__(
        self,
        target: float | None = None,
        by: str = "spikes",
        max_accuracy_drop: float | None = None,
        baseline: float | str | None = None,
        initial: float = 0.2,
        tolerance: float = 0.02,
        reduction: float | None = None,
        schedule: ScheduleName | Callable[[float], float] | str = "linear",
        start_epoch: int = 0,
        end_epoch: int | None = None,
    ) -> None:
        check_budget(target, max_accuracy_drop, baseline, reduction)
        if not LEAST <= initial <= LARGEST:
            raise ArgumentError("initial", initial, f"it must lie between {LEAST} and {LARGEST:g}; it is a lambda.")
        if not 0.0 <= tolerance < 1.0:
            raise ArgumentError("tolerance", tolerance, "it must lie in [0, 1); a fraction of the target.")
        by = choose("count", by, COUNTED, "SpikeBudget.by")
        self.reduction, self._asked_baseline = reduction, baseline
        self.ramp = Ramp(schedule, start_epoch, end_epoch)
        self.controller: ByCount | ByAccuracy
        if max_accuracy_drop is None:
            self.controller = ByCount(target, by, tolerance, initial, self.ramp)
        else:
            known = float(baseline) if isinstance(baseline, int | float) else None
            self.controller = ByAccuracy(max_accuracy_drop, known, by, initial, self.ramp)
        self._choice = f"{by} {tolerance} {max_accuracy_drop} {baseline}"
        self._measured: tuple[int, float] | None = None  # epoch and value of the newest validation

    @property
    def active(self) -> bool:  # type: ignore[override]
        """Whether a budget is asked for."""
        return isinstance(self.controller, ByAccuracy) or self.target is not None or self.reduction is not None

    @property
    def target(self) -> float | None:
        """What may be spent per image, where a count is kept."""
        return self.controller.target if isinstance(self.controller, ByCount) else None

    @property
    def baseline(self) -> float | None:
        """Accuracy that is compared with, where an accuracy is kept."""
        return self.controller.baseline if isinstance(self.controller, ByAccuracy) else None

    @property
    def weight(self) -> float:
        """Lambda in this epoch, and between two epochs in the next one."""
        return self.controller.weight

    @property
    def chooses_by(self) -> tuple[str, str] | None:  # type: ignore[override]
        """Metric and mode of the best checkpoint: the quietest within a drop; else the most accurate."""
        return self.controller.chooses_by

    @property
    def watched(self) -> str:
        """Tag of the value that is controlled."""
        return self.controller.watched

    def value_at(self, epoch: int) -> float:
        """Lambda in ``epoch``, which must be the one that comes next or is under way."""
        return self.weight

    def allowed(self, epoch: int) -> float | None:
        """What the budget allows in ``epoch``: a count per image, or an accuracy; None before the ramp starts."""
        return self.controller.allowed(epoch)

    def move(self, epoch: int, value: float) -> None:
        """Settle lambda for the epoch after ``epoch``, whose validation measured ``value``."""
        if epoch + 1 >= self.ramp.start_epoch:
            self.controller.move(epoch + 1, value)

    def may_choose(self, pl_module: LightningModule, epoch: int) -> bool:
        """Whether ``epoch``, just validated, keeps the budget."""
        return self.controller.keeps(epoch, measured_of(pl_module, self.watched))

    @property
    def choice(self) -> str:
        """What the best checkpoint is chosen among."""
        asked = self.target if self.reduction is None else f"less {self.reduction}"
        return f"{asked} {self._choice}"

    @property
    def none_chosen(self) -> str:
        """What to say where no epoch kept the budget."""
        return self.controller.none_chosen

    def warning(self, max_epochs: int) -> str | None:
        """What to say of a training that ends before the target holds."""
        if isinstance(self.controller, ByAccuracy) or self.ramp.over(max_epochs - 1):
            return None
        return (
            f"the budget's target holds from epoch {self.ramp.end_epoch} on, but training ends after {max_epochs} "
            "epochs: no best checkpoint will be chosen. Lower `end_epoch` or raise `max_epochs`."
        )

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look whether there is anything to go by; read the baseline; say what is not read."""
        super().on_fit_start(trainer, pl_module)
        if not self.active:
            return
        if not trainer.enable_validation:
            raise UserError("a budget goes by validation, and this training has none (`limit_val_batches=0`?).")
        data = getattr(trainer, "datamodule", None)
        asked = self._asked_baseline
        if isinstance(self.controller, ByAccuracy):
            if isinstance(asked, str) and self.baseline is None:
                self.controller.baseline = told_by(asked, self.watched, data)
        elif self.reduction is not None and self.target is None:
            assert isinstance(asked, str), "a reduction has a checkpoint as its baseline"
            self.controller.target = (1.0 - self.reduction) * told_by(asked, self.watched, data)
        others = [c for c in trainer.callbacks if isinstance(c, SparsityAnnealing)]  # type: ignore[attr-defined]
        unread = [name for name in ("start_value", "end_value") if any(getattr(c, name) for c in others)]
        if unread and trainer.is_global_zero:
            logger.warning(
                "budget: it sets lambda; not read: %s", ", ".join(f"`SparsityAnnealing.{n}`" for n in unread)
            )

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Set lambda for the epoch; log it, and what is allowed."""
        super().on_train_epoch_start(trainer, pl_module)
        allowed = self.allowed(trainer.current_epoch) if in_force(trainer) is self else None
        if allowed is not None:
            tag = f"schedule/budget_{self.watched.removesuffix('/val').rpartition('/')[2]}"
            pl_module.log(tag, allowed, on_step=False, on_epoch=True)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note what was measured: over all processes, so that each of them moves lambda alike."""
        if self.active and not trainer.sanity_checking and trainer.state.fn == "fit":
            self._measured = trainer.current_epoch, measured_of(pl_module, self.watched)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Move lambda, if this epoch was validated: once, by its last validation, and before checkpoints are kept."""
        if self._measured is None or self._measured[0] != trainer.current_epoch or in_force(trainer) is not self:
            return
        before, value = self.weight, self._measured[1]
        self.move(trainer.current_epoch, value)
        if trainer.is_global_zero:
            print(self.controller.line(trainer.current_epoch + 1, value, before), flush=True)

    def state_dict(self) -> dict[str, Any]:
        """All that the next move depends on; nothing while it is off."""
        if not self.active:
            return {}
        return {
            "watched": self.watched,
            "end_epoch": self.ramp.end_epoch,
            "weight": self.weight,
            **self.controller.state(),
            "measured": self._measured,
            "baseline": (self._asked_baseline, self.baseline),
            "reduced": (self.reduction, self._asked_baseline, self.target),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where the checkpoint stopped, towards what is asked for now."""
        self.ramp.restore(state_dict["end_epoch"])
        self.controller.weight = state_dict["weight"]
        if state_dict["watched"] != self.watched:  # another kind of budget: only lambda goes over
            return
        self.controller.restore(state_dict)
        self._measured = None if state_dict["measured"] is None else tuple(state_dict["measured"])
        asked, known = state_dict["baseline"]
        *reduced, target = state_dict.get("reduced", (None, None, None))
        if isinstance(self.controller, ByAccuracy):
            if asked == self._asked_baseline:  # its file may be gone
                self.controller.baseline = known
        elif self.reduction is not None and reduced == [self.reduction, self._asked_baseline]:
            self.controller.target = target
