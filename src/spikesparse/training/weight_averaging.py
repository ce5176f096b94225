"""Lightning's weight averaging (EMA and the like), and what it leaves open: checkpoints of what was validated."""

from __future__ import annotations

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import WeightAveraging
from pytorch_lightning.trainer.states import TrainerFn


def average_before_validation(trainer: Trainer, pl_module: LightningModule) -> None:
    """Average what is averaged once an epoch before the validation at its end, in place of behind it.

    The epoch's checkpoints keep the averaged weights with what was measured in that validation. The callback knows that
    the epoch is done, and does not average it once more behind it.
    """
    if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking and trainer.is_last_batch:
        for callback in _averaging(trainer):
            callback.on_train_epoch_end(trainer, pl_module)


def forget_averages(trainer: Trainer) -> None:
    """Once training is over the module has the averaged weights; drop the copy that was kept beside it.

    A checkpoint keeps averaged weights as its own, and those that were trained on apart, to go on from. As long as the
    callback has its copy, it takes a checkpoint that is read to be tested for one to go on from, and puts the latter
    into the module: the numbers would not be those of the checkpoint. The next fit makes a copy anew.
    """
    for callback in _averaging(trainer):
        callback._average_model = None  # there is no public way


def _averaging(trainer: Trainer) -> list[WeightAveraging]:
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    return [callback for callback in callbacks if isinstance(callback, WeightAveraging)]
