"""Lightning's weight averaging (EMA and the like), beside what it leaves open."""

from __future__ import annotations

from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import WeightAveraging


def forget_averages(trainer: Trainer) -> None:
    """Once training is over the module has the averaged weights; drop the copy that was trained beside it.

    A checkpoint keeps averaged weights as its own, and those that were trained on apart, to go on from. As long as the
    callback has its copy, it takes a checkpoint that is read to be tested for one to go on from, and puts the latter
    into the module: the numbers would not be those of the checkpoint. The next fit makes a copy anew.
    """
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, WeightAveraging):
            callback._average_model = None  # there is no public way
