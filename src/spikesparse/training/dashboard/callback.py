"""The callback that lays out TensorBoard and draws into it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
from matplotlib.figure import Figure
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import Logger, TensorBoardLogger
from torch import Tensor

from spikesparse.errors import UserError
from spikesparse.metrics import SpikeBill
from spikesparse.nn import LayerSizes
from spikesparse.training.dashboard.layout import custom_scalars
from spikesparse.training.dashboard.pictures import (
    as_array,
    input_and_encoding,
    layer_by_time,
    raster,
    where_spikes_fall,
)

PICTURES_PER_RUN = 10  # TensorBoard itself keeps ten images of a tag unless told otherwise


class Dashboard(Callback):
    """Lays out TensorBoard's pages when training starts, and draws pictures of a few validation images' spikes.

    The images are the same every time, so that the eye can compare epochs. Only the first process draws; nothing here
    changes training: no random number is drawn, and no state of the network is touched. Scalars go to every logger;
    pictures to TensorBoard and to loggers with a ``log_image`` method, such as Weights & Biases.

    Args:
        every_n_epochs: draw after the validation of every so many epochs, and of the last; None spreads about ten
            drawings over the run, or if it has no last epoch draws after epochs 1, 2, 4, 8, ...; 0 draws none.
        images: validation images to show.
        neurons: neurons of each layer in the raster.

    Raises:
        UserError: for a negative number, or no image.
    """

    def __init__(self, every_n_epochs: int | None = None, images: int = 4, neurons: int = 24) -> None:
        for name, value, least in (
            ("every_n_epochs", every_n_epochs, 0),
            ("images", images, 1),
            ("neurons", neurons, 1),
        ):
            if value is not None and value < least:
                raise UserError(f"--dashboard.{name}={value}: it must be at least {least}.")
        self.every_n_epochs, self.images, self.neurons = every_n_epochs, images, neurons
        self._shown: tuple[Tensor, Tensor] | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Lay the pages out."""
        sizes = getattr(pl_module.net, "sizes", None)
        for logger in trainer.loggers if trainer.is_global_zero else []:
            if isinstance(logger, TensorBoardLogger) and not _has_been_written_to(logger):
                sizes = sizes if isinstance(sizes, LayerSizes) else LayerSizes({}, {})
                logger.experiment.add_custom_scalars(custom_scalars(list(sizes.neurons), list(sizes.synapses)))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw, when it is time to."""
        if not trainer.is_global_zero or trainer.sanity_checking or not self._is_time(trainer):
            return
        takers = [logger for logger in trainer.loggers if takes_pictures(logger)]
        if not takers:
            return
        step = trainer.fit_loop.epoch_loop._batches_that_stepped  # the one at which Lightning logs this validation
        for tag, figure in self._draw(trainer, pl_module).items():
            for logger in takers:
                show(logger, tag, figure, step)
            figure.clear()  # or its cycles wait for the garbage collector, tens of megabytes later
        bill: SpikeBill = cast(Any, pl_module).bills["val"]
        for logger in takers:
            if isinstance(logger, TensorBoardLogger):
                for name, spikes in (bill.neuron_spikes or {}).items():
                    rates = torch.tensor(spikes, dtype=torch.float32) / bill.steps
                    logger.experiment.add_histogram(f"spikes/rates_of_neurons/{name}", rates, step)

    def _is_time(self, trainer: Trainer) -> bool:
        if self.every_n_epochs == 0 or trainer.state.fn != "fit":
            return False
        epochs = trainer.max_epochs if trainer.max_epochs and trainer.max_epochs > 0 else None
        done = trainer.current_epoch + 1
        if self.every_n_epochs is None and epochs is None:
            return done.bit_count() == 1  # powers of two: the files stay small, however long the run
        every = self.every_n_epochs or max(1, (epochs or 0) // PICTURES_PER_RUN)
        return done % every == 0 or done == epochs

    def _draw(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Figure]:
        raw, encoded = self._images(trainer, pl_module)
        if not len(raw):
            return {}
        figures = {"pictures/1_input": input_and_encoding(raw, encoded)}
        with torch.no_grad(), trainer.precision_plugin.forward_context():
            record = pl_module(encoded, record="spikes").tally.record
        if record is not None:
            figures |= {
                "pictures/2_raster": raster(record.spikes, 0, self.neurons),
                "pictures/3_layer_by_time": layer_by_time(record.spikes),
                "pictures/4_where_spikes_fall": where_spikes_fall(raw, record.spikes),
            }
        return figures

    def _images(self, trainer: Trainer, pl_module: LightningModule) -> tuple[Tensor, Tensor]:
        """The first validation images as loaded, and as the network reads them."""
        if self._shown is None:
            data = cast(Any, trainer).datamodule
            batch = next(iter(data.val_dataloader()))
            batch = type(batch)(*(values[: self.images].to(pl_module.device) for values in batch))
            self._shown = batch.images.cpu(), data.encode(batch).images
        return self._shown


def _has_been_written_to(logger: TensorBoardLogger) -> bool:
    """Whether an earlier sitting has laid out its pages."""
    logger.experiment.flush()  # its own file is there then
    return len(list(Path(logger.log_dir).glob("events.out.tfevents.*"))) > 1


def takes_pictures(logger: Logger) -> bool:
    """Whether there is a known way to give it a picture."""
    return isinstance(logger, TensorBoardLogger) or hasattr(logger, "log_image")


def show(logger: Any, tag: str, figure: Figure, step: int) -> None:
    """Give a logger that takes pictures this one."""
    pixels = as_array(figure)
    if isinstance(logger, TensorBoardLogger):
        logger.experiment.add_image(tag, pixels, step, dataformats="HWC")
    else:
        logger.log_image(key=tag, images=[pixels], step=step)
