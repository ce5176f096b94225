"""Callbacks that accompany every run: non-finite numbers, silent layers, the time that it took."""

from __future__ import annotations

import time
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.utilities.rank_zero import rank_zero_warn
from torch import Tensor

from spikesparse.nonfinite_guard import NonFiniteGuard as NonFiniteGuard


class TrainingTime(Callback):
    """Seconds of training, all sittings of a run together, without the pauses between them.

    Lightning's ``Timer`` would do, but for two things: ``--trainer.max_time`` adds one, which Lightning throws out
    where the module has a Timer too; and testing a checkpoint loads its state, which adds the time up to there again.
    """

    def __init__(self) -> None:
        self._before = 0.0  # of earlier sittings
        self._began: float | None = None  # this one, by a clock that nobody sets
        self._fitting = False

    @property
    def seconds(self) -> float:
        """So far; while nothing trains, it stands still."""
        return self._before + (0.0 if self._began is None else time.monotonic() - self._began)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Note whether a checkpoint that is read now is gone on from, or only tested."""
        self._fitting = stage == "fit"

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._began = time.monotonic()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop it."""
        self._before, self._began = self.seconds, None

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Stop it."""
        self._before, self._began = self.seconds, None

    def state_dict(self) -> dict[str, Any]:
        """In the form of Lightning's Timer, as it has always been kept."""
        return {"time_elapsed": {"train": self.seconds}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from the time of the sittings before, where training does."""
        if self._fitting:
            self._before = float(state_dict["time_elapsed"]["train"])


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
