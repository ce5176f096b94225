"""Learning-rate schedules."""

from __future__ import annotations

import math

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from spikesparse.errors import UserError


class LinearWarmupCosineAnnealingLR(LRScheduler):
    """Linear warm-up, then a cosine down to ``eta_min``: lightning-bolts' schedule, by its closed form.

    The learning rate of an epoch depends on the epoch alone, so a resumed run cannot drift, and one epoch of warm-up
    is allowed. As in lightning-bolts, the last epoch of warm-up already has the full learning rate: where the warm-up
    is one epoch, that is epoch 0.

    Args:
        optimizer: wrapped optimizer.
        warmup_epochs: epochs of linear warm-up.
        max_epochs: epochs in all; must be given, but the command line fills in trainer.max_epochs.
        warmup_start_lr: learning rate of epoch 0, if there are two epochs of warm-up or more.
        eta_min: learning rate at ``max_epochs``.
        last_epoch: for torch.

    Raises:
        UserError: if the warm-up does not end before training does.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        warmup_epochs: int,
        max_epochs: int | None = None,
        warmup_start_lr: float = 0.0,
        eta_min: float = 0.0,
        last_epoch: int = -1,
    ) -> None:
        if max_epochs is None:
            raise UserError("LinearWarmupCosineAnnealingLR needs max_epochs, the number of epochs in all.")
        if not 0 <= warmup_epochs < max_epochs:
            raise UserError(
                f"--model.scheduler.warmup_epochs={warmup_epochs}: the warm-up must end before training does "
                f"(--trainer.max_epochs={max_epochs}). For a short try, --model.scheduler.warmup_epochs=0."
            )
        self.warmup_epochs, self.max_epochs = warmup_epochs, max_epochs
        self.warmup_start_lr, self.eta_min = warmup_start_lr, eta_min
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float | Tensor]:
        """Learning rates of the current epoch, one per parameter group."""
        epoch = min(self.last_epoch, self.max_epochs)
        if epoch < self.warmup_epochs:
            share = epoch / (self.warmup_epochs - 1) if self.warmup_epochs > 1 else 1.0
            return [self.warmup_start_lr + share * (float(base) - self.warmup_start_lr) for base in self.base_lrs]
        progress = (epoch - self.warmup_epochs) / (self.max_epochs - self.warmup_epochs)
        share = (1.0 + math.cos(math.pi * progress)) / 2.0
        return [self.eta_min + share * (float(base) - self.eta_min) for base in self.base_lrs]
