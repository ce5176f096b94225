"""One line per epoch, for people and for log files."""

from __future__ import annotations

import time
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from spikesparse.training.nonfinite_guard import NonFiniteGuard as NonFiniteGuard


class EpochLines(Callback):
    """Prints, after every epoch, accuracy, spikes, lambda and the time left."""

    def __init__(self) -> None:
        self._started = 0.0
        self._epochs_before = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock, in the middle of an epoch perhaps."""
        self._started, self._epochs_before = time.monotonic(), float(trainer.current_epoch)
        if trainer.fit_loop.restarted_mid_epoch:
            batches = trainer.fit_loop.epoch_loop.batch_progress.current.ready
            whole = trainer.num_training_batches
            self._epochs_before += batches % whole / whole  # after the last one, Lightning has counted the epoch

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the line."""
        if not trainer.is_global_zero:
            return
        values = trainer.callback_metrics
        epochs, last = trainer.current_epoch + 1, trainer.max_epochs or -1
        parts = [f"epoch {epochs}/{last}" if last > 0 else f"epoch {epochs}"]
        for tag, text in (
            ("loss/task/val", "val loss {:.3f}"),
            ("accuracy/val", "val accuracy {:.2%}"),
            ("efficiency/spikes_per_image/val", "spikes/image {:,.0f}"),
            ("efficiency/synops_per_image/val", "SynOps/image {:,.0f}"),
        ):
            if tag in values:
                parts.append(text.format(float(values[tag])))
        parts.append(f"lambda {getattr(pl_module, 'sparsity_weight', 0.0):.3g}")
        if last > 0:
            left = (time.monotonic() - self._started) / (epochs - self._epochs_before) * (last - epochs)
            parts.append(f"{left / 60:.0f} min left" if left > 90 else f"{left:.0f} s left")
        print("  ".join(parts), flush=True)


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
        """Note whether training resumes from the checkpoint that is read now, or only tests it."""
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
        """Add to the time of the sittings before, if training resumes."""
        if self._fitting:
            self._before = float(state_dict["time_elapsed"]["train"])
