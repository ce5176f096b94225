"""Callbacks that guard a run: non-finite numbers, silent layers."""

from __future__ import annotations

from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.utilities.rank_zero import rank_zero_warn
from torch import Tensor

from spikesparse.errors import UserError


class NonFiniteGuard(Callback):
    """Stops a run whose loss or gradient is no longer finite, before a checkpoint is written.

    The gradient's norm is looked at before every optimizer step: behind the all-reduce, so that every process sees
    the same. The verdict stays on the device and is read every ``log_every_n_steps`` steps (every step on a CPU,
    where reading is free) and at the epoch's end, ahead of the checkpoints.
    """

    def __init__(self) -> None:
        self._first_bad_step: Tensor | None = None

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        """Note the first step whose gradient is not finite."""
        if getattr(trainer.precision_plugin, "scaler", None) is not None:
            return  # float16's loss scaling makes infinite gradients on purpose and skips those steps
        gradients = [p.grad for p in pl_module.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        pl_module.log("health/gradient_norm", norm, on_step=False, on_epoch=True)
        if self._first_bad_step is None:
            self._first_bad_step = torch.full((), -1, dtype=torch.int64, device=norm.device)
        new = ~norm.isfinite() & (self._first_bad_step < 0)
        self._first_bad_step = torch.where(new, trainer.global_step, self._first_bad_step)
        if norm.device.type == "cpu" or trainer.global_step % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            self._stop_if_bad(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look once more, and at the weights themselves: checkpoints are written after this."""
        self._stop_if_bad(trainer, pl_module)
        weights = [v for v in pl_module.state_dict().values() if v.is_floating_point()]
        if not bool(torch.nn.utils.get_total_norm(weights).isfinite()):
            self._first_bad_step = torch.tensor(trainer.global_step)
            self._stop_if_bad(trainer, pl_module)

    def _stop_if_bad(self, trainer: Trainer, pl_module: LightningModule) -> None:
        step = -1 if self._first_bad_step is None else int(self._first_bad_step)
        if step < 0:
            return
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        weight = getattr(pl_module, "sparsity_weight", 0.0)
        raise UserError(
            f"the loss, its gradient or a weight is not finite (NaN or infinity) at step {step}, epoch "
            f"{trainer.current_epoch}: learning rate {rate:.3g}, lambda {weight:.3g}. Training stopped; checkpoints of "
            "earlier epochs are kept. Lower --model.optimizer.lr, or set --trainer.gradient_clip_val=1."
        )


class SilentLayers(Callback):
    """Reports a hidden layer that no longer fires at all in training, once for each time that it falls silent."""

    def __init__(self) -> None:
        self._spikes: Tensor | None = None
        self._silent: set[str] = set()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Add up the spikes; look at them at the logging rhythm, and at the end of an epoch."""
        tally = outputs.get("tally") if isinstance(outputs, dict) else None
        if tally is None:
            return
        spikes = tally.spikes.sum(1)
        self._spikes = spikes if self._spikes is None else self._spikes + spikes
        if (batch_idx + 1) % trainer.log_every_n_steps and not trainer.is_last_batch:  # type: ignore[attr-defined]
            return
        silent = {name for name, n in zip(tally.layers.neurons, self._spikes.tolist(), strict=True) if n == 0}
        for name in [name for name in tally.layers.neurons if name in silent - self._silent]:
            rank_zero_warn(
                f"layer {name} has fallen silent: not one spike since the last look (step {trainer.global_step}, epoch "
                f"{trainer.current_epoch}, lambda {getattr(pl_module, 'sparsity_weight', 0.0):.3g}). Lower "
                "--sparsity.end_value (or grant a larger --budget.target), let lambda rise later "
                "(--sparsity.start_epoch, --sparsity.end_epoch), lower --model.net.threshold, or use "
                "--model.net.norm=batch."
            )
        self._silent, self._spikes = silent, None
