"""Callbacks that accompany every run: non-finite numbers, silent layers, the time that it took."""

from __future__ import annotations

from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.utilities.rank_zero import rank_zero_warn
from torch import Tensor

from spikesparse.training.nonfinite_guard import NonFiniteGuard as NonFiniteGuard


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
        spikes = trainer.strategy.reduce(self._spikes, reduce_op="sum")  # a layer may be silent on one process alone
        silent = {name for name, n in zip(tally.layers.neurons, spikes.tolist(), strict=True) if n == 0}
        for name in [name for name in tally.layers.neurons if name in silent - self._silent]:
            rank_zero_warn(
                f"layer {name} has fallen silent: not one spike since the last look (step {trainer.global_step}, epoch "
                f"{trainer.current_epoch}, lambda {getattr(pl_module, 'sparsity_weight', 0.0):.3g}). Lower "
                "--sparsity.end_value (or grant a larger --budget.target), let lambda rise later "
                "(--sparsity.start_epoch, --sparsity.end_epoch), lower --model.net.threshold, or use "
                "--model.net.norm=batch."
            )
        self._silent, self._spikes = silent, None
