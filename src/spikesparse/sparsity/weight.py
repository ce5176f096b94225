"""What the callbacks that set lambda have in common, and which of them is in force."""

from __future__ import annotations

import logging

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.utilities.rank_zero import rank_zero_warn

from spikesparse.sparsity.ramp import Ramp

logger = logging.getLogger(__name__)


class SparsityWeight(Callback):
    """Sets the weight of the sparsity penalty, ``module.sparsity_weight``, at the start of every epoch.

    Attributes:
        ramp: the epochs over which it tightens.
        active: whether it sets anything at all.
        precedence: among the active ones of a trainer, the highest is in force; the others do nothing.
        chooses_by: metric and mode by which the best checkpoint is chosen; None leaves that to the checkpoint.
    """

    ramp: Ramp
    active = True
    precedence = 0
    chooses_by: tuple[str, str] | None = None

    def value_at(self, epoch: int) -> float:
        """Lambda in ``epoch`` (from 0)."""
        raise NotImplementedError

    def may_choose(self, pl_module: LightningModule, epoch: int) -> bool:
        """Whether the best checkpoint may be of ``epoch``, which has just been trained and validated."""
        return self.ramp.over(epoch)

    @property
    def choice(self) -> str:
        """What the best checkpoint is chosen among, as far as two of one run could differ in it."""
        return ""

    @property
    def none_chosen(self) -> str:
        """What to say where no epoch may be chosen."""
        return "no epoch had lambda at its end value"

    def warning(self, max_epochs: int) -> str | None:
        """What to say of a training that ends too early, if this one does."""
        return None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Settle the end of the ramp."""
        if stage == "fit":
            self.ramp.settle(trainer.max_epochs)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say so if the run ends before the ramp, or goes on with that of a shorter or longer one."""
        if _is_set_by_another(self, trainer):
            return
        if self.ramp.overruled is not None and trainer.is_global_zero:
            logger.warning(
                f"warning: `max_epochs={trainer.max_epochs}` differs from the checkpoint's, whose ramp of lambda stays "
                f"in force: it ends in epoch {self.ramp.end_epoch}, not {self.ramp.overruled}. To move it name "
                "`end_epoch`."
            )
        if trainer.max_epochs is not None and trainer.max_epochs > 0:
            text = self.warning(trainer.max_epochs)
            if text:
                rank_zero_warn(text)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Set lambda for the epoch, and log it."""
        if _is_set_by_another(self, trainer):  # logged by both, it would be their mean
            return
        weight = self.value_at(trainer.current_epoch)
        pl_module.sparsity_weight = weight  # type: ignore[assignment]
        pl_module.log("schedule/lambda", weight, on_step=False, on_epoch=True)


def in_force(trainer: Trainer) -> SparsityWeight | None:
    """The callback that sets lambda: an active budget, or else the annealing."""
    callbacks = getattr(trainer, "callbacks", ())
    setters = [c for c in callbacks if isinstance(c, SparsityWeight) and c.active]
    return max(setters, key=lambda callback: callback.precedence, default=None)


def _is_set_by_another(callback: SparsityWeight, trainer: Trainer) -> bool:
    return not callback.active or in_force(trainer) not in (None, callback)
