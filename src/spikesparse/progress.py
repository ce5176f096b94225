"""One line per epoch, for people and for log files."""

from __future__ import annotations

import time

from pytorch_lightning import Callback, LightningModule, Trainer


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
