"""Writing checkpoints to go on from: whole or not at all, at the end of every epoch and within long ones."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.plugins.io.wrapper import _WrappingCheckpointIO
from pytorch_lightning.utilities.exceptions import SIGTERMException
from pytorch_lightning.utilities.rank_zero import rank_zero_warn
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from torch.utils.tensorboard.writer import SummaryWriter

from spikesparse.errors import UserError
from spikesparse.files.checkpoint import read_checkpoint
from spikesparse.files.whole_files import partial_name, remove_leftovers, whole_file
from spikesparse.runs.checkpoints import MovableCheckpoint

LAST, STEP, PREVIOUS = "last.ckpt", "step.ckpt", "previous.ckpt"


class WholeFileIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place, down to the disk, and then renames it into it.

    Lightning's own goes through the system's temporary folder: from there to another disk it is copied, and a process
    that is killed in between leaves half a checkpoint.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint; one at a remote address is left to Lightning."""
        if "://" in str(path) or storage_options is not None:
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        place = Path(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(place) as file:
            try:
                torch.save(checkpoint, file)
            except RuntimeError as error:  # what torch makes of a file that cannot be written
                if isinstance(error.__context__, OSError):
                    raise error.__context__ from error
                raise

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint without running code, even if the caller allows it."""
        if "://" in str(path):
            return super().load_checkpoint(path, map_location, weights_only=True)
        return read_checkpoint(path)


class _SurvivedIO(_WrappingCheckpointIO):
    """Keeps the error of a file that cannot be written.

    Only the first process writes: an error that left it would leave the others waiting for it, in the barrier behind
    the writing.
    """

    error: OSError | None = None

    def save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        try:
            super().save_checkpoint(*args, **kwargs)
        except OSError as error:
            self.error = error


class LastCheckpoint(MovableCheckpoint):
    """Writes the checkpoints that a run resumes from.

    ``last.ckpt`` is the state at the end of the last epoch, ``previous.ckpt`` at the end of the one before, in case the
    other is damaged. ``step.ckpt`` is the state within an epoch, after every so many optimizer steps without a
    checkpoint, and where a signal asks training to stop; the end of the epoch removes it. Where one cannot be written,
    the disk being full, training goes on with a warning, and the one before it stays.

    Args:
        every_n_steps: a run that is killed loses at most so many optimizer steps; 0 writes at the ends of epochs only.

    Raises:
        UserError: for a negative number.
    """

    def __init__(self, every_n_steps: int = 500) -> None:
        super().__init__(filename="last", save_top_k=1, save_on_train_epoch_end=True, enable_version_counter=False)
        if every_n_steps < 0:
            raise UserError(f"--checkpoint.every_n_steps={every_n_steps}: it must be at least 0.")
        self.every_n_steps = every_n_steps
        self._kept_step = self._seen_step = 0  # optimizer steps: at the newest checkpoint, after the newest batch

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count steps from here; what TensorBoard has of steps behind this one was of a training that is gone."""
        super().on_train_start(trainer, pl_module)
        if trainer.ckpt_path and trainer.global_step:
            for writer in _writers(trainer):
                start = Event(step=trainer.global_step, session_log=SessionLog(status=SessionLog.START))
                writer._get_file_writer().add_event(start)
        self._kept_step = self._seen_step = trainer.global_step

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Have TensorBoard write what it was told of the epoch before, behind that epoch's last.ckpt."""
        for writer in _writers(trainer):
            writer.flush()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write step.ckpt, if it is time to, between two optimizer steps."""
        between, self._seen_step = trainer.global_step != self._seen_step, trainer.global_step
        if not self.every_n_steps or not between or self._seen_step - self._kept_step < self.every_n_steps:
            return
        # Lightning would go on behind a validation that follows now, without it; at the last batch last.ckpt is next.
        if not trainer.is_last_batch and not _validation_follows(trainer):
            self._write(trainer, STEP)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write last.ckpt, and keep the one that it takes the place of."""
        if self._should_skip_saving_checkpoint(trainer):
            return
        self._write(trainer, LAST)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Write step.ckpt where a signal stopped training between two steps."""
        if isinstance(exception, SIGTERMException) and trainer.global_step != self._kept_step:
            self._write(trainer, STEP)

    def _write(self, trainer: Trainer, name: str) -> None:
        folder = Path(str(self.dirpath))
        for writer in _writers(trainer):  # what it has of the steps up to here is not written again
            writer.flush()
        if name == LAST and trainer.is_global_zero:
            _keep_previous(folder)
        strategy = trainer.strategy
        own = strategy.checkpoint_io
        strategy.checkpoint_io = io = _SurvivedIO(own)
        try:
            trainer.save_checkpoint(folder / name, weights_only=False)  # stated, or Lightning remarks on it every time
        finally:
            strategy.checkpoint_io = own
        if io.error is not None:
            reason = f"{folder / name} cannot be written ({io.error})"
            rank_zero_warn(f"{reason}: training goes on, and would resume earlier.")
        elif name == LAST and trainer.is_global_zero:
            with suppress(OSError):  # of an earlier step than last.ckpt: it harms nothing
                (folder / STEP).unlink(missing_ok=True)
        self._kept_step = trainer.global_step


def _validation_follows(trainer: Trainer) -> bool:
    """Whether Lightning validates behind this batch, by its own judgment: there are many ways to ask for it."""
    loop = trainer.fit_loop
    return loop._data_fetcher is not None and loop.epoch_loop._should_check_val_fx(loop._data_fetcher)


def _writers(trainer: Trainer) -> list[SummaryWriter]:
    """TensorBoard's, in the process that has them."""
    loggers = trainer.loggers if trainer.is_global_zero else []
    return [logger.experiment for logger in loggers if isinstance(logger, TensorBoardLogger)]


def _keep_previous(folder: Path) -> None:
    """A second name for last.ckpt: no copy, and the file that comes next does not touch it."""
    remove_leftovers(folder / PREVIOUS)
    link = partial_name(folder / PREVIOUS)
    with suppress(OSError):  # no last.ckpt yet, or a file system without links
        os.link(folder / LAST, link)
        os.replace(link, folder / PREVIOUS)
