"""The closed loop: lambda follows from what the network is to spend, or from what accuracy it may give up."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any

from pytorch_lightning import LightningModule, Trainer

from spikesparse.errors import ArgumentError, UserError, choose
from spikesparse.sparsity.annealing import SparsityAnnealing
from spikesparse.sparsity.asked import check_budget, measured_of, told_by
from spikesparse.sparsity.control import (
    AIM,
    FIRST_GAIN,
    FIRST_GAIN_BY_ACCURACY,
    LARGEST,
    LEAST,
    adapted,
    moved,
    step_by_accuracy,
    step_by_count,
)
from spikesparse.sparsity.ramp import Ramp
from spikesparse.sparsity.schedules import ScheduleName
from spikesparse.sparsity.weight import SparsityWeight, in_force

logger = logging.getLogger(__name__)

#: What a budget is counted in -> its tag in what is measured, without the split, and its name in print.
COUNTED = {
    "spikes": ("efficiency/spikes_per_image", "spikes/image"),
    "synops": ("efficiency/synops_per_image", "SynOps/image"),
}


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
        self.target, self.by, self.drop = target, choose("count", by, COUNTED, "SpikeBudget.by"), max_accuracy_drop
        self.reduction = reduction
        self.initial, self.tolerance, self.ramp = initial, tolerance, Ramp(schedule, start_epoch, end_epoch)
        self._asked_baseline = baseline
        self.baseline = float(baseline) if isinstance(baseline, int | float) else None
        self.weight = 0.0  # lambda in this epoch, and between two epochs in the next one
        self._first: float | None = None  # what was counted before the ramp
        self._error: float | None = None  # at the last move: log of counted over the aim, or the accuracy's room
        self._gain = FIRST_GAIN if max_accuracy_drop is None else FIRST_GAIN_BY_ACCURACY
        self._within = False  # the drop, at least once
        self._measured: tuple[int, float] | None = None  # epoch and value of the newest validation

    @property
    def active(self) -> bool:  # type: ignore[override]
        """Whether a budget is asked for."""
        return not (self.target is None and self.drop is None and self.reduction is None)

    @property
    def chooses_by(self) -> tuple[str, str] | None:  # type: ignore[override]
        """Metric and mode of the best checkpoint: the quietest within a drop; else the most accurate."""
        return None if self.drop is None else (f"{COUNTED[self.by][0]}/val", "min")

    @property
    def watched(self) -> str:
        """Tag of the value that is controlled."""
        return "accuracy/val" if self.drop is not None else f"{COUNTED[self.by][0]}/val"

    def value_at(self, epoch: int) -> float:
        """Lambda in ``epoch``, which must be the one that comes next or is under way."""
        return self.weight

    def allowed(self, epoch: int) -> float | None:
        """What the budget allows in ``epoch``: a count per image, or an accuracy; None before the ramp starts."""
        if self.drop is not None:
            assert self.baseline is not None, "the baseline is known once training starts"
            return self.baseline - self.drop
        if self._first is None or epoch < self.ramp.start_epoch:
            return None
        assert self.target is not None
        share, whole = self.ramp.share(epoch), self.target / self._first
        if not math.isfinite(share):
            raise UserError(f"`schedule`: it makes the share of the way {share} in epoch {epoch}.")
        return self._first * math.pow(whole, max(0.0, min(1.0, share)))

    def move(self, epoch: int, value: float) -> None:
        """Settle lambda for the epoch after ``epoch``, whose validation measured ``value``."""
        following = epoch + 1
        if following < self.ramp.start_epoch:
            return
        if self.drop is not None:
            self._move_by_accuracy(value)
            return
        assert self.target is not None
        if self._first is None:
            self._first = max(value, self.target)
        allowed = self.allowed(following)
        assert allowed is not None
        # A network that has fallen silent counts 0: far below what is allowed, but its logarithm must exist.
        error = math.log(max(value, 1e-3 * allowed) / (AIM * allowed))
        if self._error is None or not self.weight:
            self.weight = self.weight or self.initial
        else:
            self._gain = adapted(self._gain, error, self._error)
            self.weight = moved(self.weight, step_by_count(self._gain, error, self._error))
        self._error = error

    def _move_by_accuracy(self, accuracy: float) -> None:
        assert self.drop is not None
        assert self.baseline is not None
        room = accuracy - (self.baseline - self.drop)
        started = self.weight > 0
        self.weight = self.weight or self.initial
        self._within |= room >= 0
        if started and self._within:
            gain = adapted(self._gain, room, room if self._error is None else self._error)
            self._gain = min(FIRST_GAIN_BY_ACCURACY, gain)
            self.weight = moved(self.weight, self._gain * step_by_accuracy(room, self.drop))
        self._error = room

    def may_choose(self, pl_module: LightningModule, epoch: int) -> bool:
        """Whether ``epoch``, just validated, keeps the budget."""
        measured = measured_of(pl_module, self.watched)
        if self.drop is not None:
            assert self.baseline is not None
            return measured >= self.baseline - self.drop - 1e-9  # of rounding
        assert self.target is not None
        return self.ramp.over(epoch) and measured <= self.target * (1 + self.tolerance)

    @property
    def choice(self) -> str:
        """What the best checkpoint is chosen among."""
        asked = self.target if self.reduction is None else f"less {self.reduction}"
        return f"{asked} {self.by} {self.tolerance} {self.drop} {self._asked_baseline}"

    @property
    def none_chosen(self) -> str:
        """What to say where no epoch kept the budget."""
        if self.drop is not None:
            return f"no epoch was within `max_accuracy_drop={self.drop:g}` of the baseline {self.baseline:.2%}"
        assert self.target is not None
        most, name = self.target * (1 + self.tolerance), COUNTED[self.by][1]
        return f"no epoch from {self.ramp.end_epoch} (the first is 0) on spent at most {most:,.0f} {name}"

    def warning(self, max_epochs: int) -> str | None:
        """What to say of a training that ends before the target holds."""
        if self.drop is not None or self.ramp.over(max_epochs - 1):
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
        if self.reduction is not None and self.target is None:
            assert isinstance(self._asked_baseline, str), "a reduction has a checkpoint as its baseline"
            self.target = (1.0 - self.reduction) * told_by(self._asked_baseline, self.watched, data)
        if self.drop is not None and self.baseline is None and isinstance(self._asked_baseline, str):
            self.baseline = told_by(self._asked_baseline, self.watched, data)
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
            print(self._line(trainer.current_epoch + 1, value, before), flush=True)

    def _line(self, following: int, value: float, before: float) -> str:
        allowed = self.allowed(following)
        change = f"lambda {before:.3g} -> {self.weight:.3g}" if self.weight != before else f"lambda stays {before:.3g}"
        if self.drop is not None:
            wait = " until accuracy is there once" if self.weight == before and self.weight and not self._within else ""
            return f"budget: val accuracy {value:.2%}, at least {allowed:.2%} allowed: {change}{wait}"
        name = COUNTED[self.by][1]
        if allowed is None:
            return f"budget: {value:,.0f} {name}, {self.target:,.0f} in the end, from epoch {self.ramp.start_epoch}"
        end = "" if self.ramp.over(following) else f" now ({self.target:,.0f} in the end)"
        return f"budget: {value:,.0f} {name}, {allowed:,.0f} allowed{end}: {change}"

    def state_dict(self) -> dict[str, Any]:
        """All that the next move hangs on; nothing while it is off."""
        if not self.active:
            return {}
        return {
            **{"watched": self.watched, "end_epoch": self.ramp.end_epoch, "weight": self.weight},
            **{"first": self._first, "error": self._error, "gain": self._gain, "within": self._within},
            **{"measured": self._measured, "baseline": (self._asked_baseline, self.baseline)},
            "reduced": (self.reduction, self._asked_baseline, self.target),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where the checkpoint stopped, towards what is asked for now."""
        self.ramp.restore(state_dict["end_epoch"])
        self.weight = state_dict["weight"]
        if state_dict["watched"] != self.watched:  # another kind of budget: only lambda goes over
            return
        self._first, self._error, self._gain = (state_dict[name] for name in ("first", "error", "gain"))
        self._within = state_dict["within"]
        self._measured = None if state_dict["measured"] is None else tuple(state_dict["measured"])
        asked, known = state_dict["baseline"]
        if asked == self._asked_baseline:  # its file may be gone
            self.baseline = known
        *reduced, target = state_dict.get("reduced", (None, None, None))
        if self.reduction is not None and reduced == [self.reduction, self._asked_baseline]:
            self.target = target
