"""Fits through the command line that are watched."""

from pytorch_lightning import Callback

from spikesparse.commands.cli import SpikeCLI


class Losses(Callback):
    """Records every training loss."""

    def __init__(self):
        self.values = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.values.append(outputs["loss"].item())


def fit(args, callback=None):
    """One fit; the callback goes in where the command line cannot put one."""

    class WithCallback(SpikeCLI):
        def instantiate_trainer(self, **kwargs):
            trainer = super().instantiate_trainer(**kwargs)
            if callback is not None:
                trainer.callbacks.insert(0, callback)
            return trainer

    return WithCallback(["fit", *args])
