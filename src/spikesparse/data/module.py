"""The data module."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader

from spikesparse.data.arrays import Dataset, Images, to_images
from spikesparse.data.augment import augmentation_draws, crop_and_flip, cut_out
from spikesparse.data.encoding import Encoder, make_encoder
from spikesparse.data.loading import Batch, BatchRows, IndexedImages, batch_loader
from spikesparse.data.philox import SHUFFLE, permutation
from spikesparse.data.sources import SOURCES, image_files, load_source, stack_images
from spikesparse.data.splits import stratified_split
from spikesparse.errors import ArgumentError, UserError, choose

# Per-channel mean and standard deviation of the training pixels in [0, 1].
CIFAR_STATISTICS = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
}
EVALUATION_SEED = 2003_01250  # evaluation draws the same Poisson spikes in every epoch, run and seed
VALIDATION_SHARE = 0.1  # of CIFAR-10's training set: 5,000


class CIFAR10DataModule(LightningDataModule):
    """CIFAR-10, CIFAR-100, a folder of images, an npz, or the embedded digits; batches are ready for the network.

    Images are held once as uint8 tensors; a batch is fetched by one indexing, and cropped, flipped, normalised and
    encoded on its device. Every random draw is a function of (draw_seed, epoch, sample index, step, pixel); in
    evaluation the key is fixed. Argument names follow lightning-bolts' CIFAR10DataModule.

    Args:
        data_dir: where the data is: a folder (cifar10, cifar100, folder) or a file (npz).
        source: "cifar10" or "cifar100" (downloaded and verified by torchvision), "folder"
            (``{train,test}/<class>/*.png|jpg``), "npz" (``x_train, y_train, x_test, y_test``) or "digits".
        val_split: validation images out of the training set, a number or a fraction; stratified. None is 0.1:
            5,000 for CIFAR.
        train_images: train on so many of the images that are left, each class in proportion: a proxy of the whole. None
            is all of them.
        batch_size: images per batch and process.
        timesteps: T, for the encoder and, linked, for the network.
        encoder: "direct", "poisson" (signed), "poisson_unsigned", or an Encoder.
        crop_padding: in training, shift images by up to so many pixels.
        flip: in training, mirror half of the images.
        cutout: in training, blacken a square of so many pixels a side in each image; 0 is none, 8 to 16 suit CIFAR.
        normalize: give the encoder images normalised as it asks; false hands on pixels in [0, 1].
        num_workers: loader processes; 0 is best, since a batch is one indexing.
        seed: of the validation split.
        draw_seed: of shuffling, augmentation and Poisson spikes; the command line fills in seed_everything.
        shuffle: new order in every training epoch.
        pin_memory: page-locked batches, if there is a CUDA device.
        drop_last: leave out a last training batch that is not full.
        resident: hold all images on the device that trains, as uint8 (CIFAR-10: 184 MB); no batch is copied to it then.
        predict_on: what `predict` reads: "val", "test", or a folder of images.

    Raises:
        UserError: for a value that cannot be, or data that is missing or damaged.
    """

    def __init__(
        self,
        data_dir: str = "data",
        source: str = "cifar10",
        val_split: int | float | None = None,
        train_images: int | None = None,
        batch_size: int = 128,
        timesteps: int = 4,
        encoder: Encoder | str = "direct",
        crop_padding: int = 4,
        flip: bool = True,
        cutout: int = 0,
        normalize: bool = True,
        num_workers: int = 0,
        seed: int = 42,
        draw_seed: int = 0,
        shuffle: bool = True,
        pin_memory: bool = True,
        drop_last: bool = False,
        resident: bool = False,
        predict_on: str = "val",
    ) -> None:
        super().__init__()
        for name, value, least in (
            ("timesteps", timesteps, 1),
            ("batch_size", batch_size, 1),
            ("crop_padding", crop_padding, 0),
            ("cutout", cutout, 0),
            ("num_workers", num_workers, 0),
        ):
            if value < least:
                raise ArgumentError(name, value, f"it must be at least {least}.")
        self.source = choose("data source", source, SOURCES, "source")
        self.data_dir, self.val_split, self.train_images = data_dir, val_split, train_images
        self.batch_size = batch_size
        self.timesteps, self.encoder = timesteps, make_encoder(encoder)
        self.crop_padding, self.flip, self.cutout, self.normalize = crop_padding, flip, cutout, normalize
        self.num_workers, self.seed, self.draw_seed = num_workers, seed, draw_seed
        self.shuffle, self.pin_memory, self.drop_last = shuffle, pin_memory, drop_last
        self.resident, self.predict_on = resident, predict_on
        if resident and num_workers:
            raise ArgumentError(
                "num_workers",
                num_workers,
                "worker processes cannot reach images that lie on the device; with `resident=true` leave it at 0.",
            )
        self._on_device: dict[int, Images] = {}
        self._draws: tuple[tuple[int, int, torch.device], Tensor] | None = None  # of an epoch's augmentation
        self._statistics: dict[torch.device, tuple[Tensor, ...]] = {}  # of pixels, by the device where they are used
        self._predicted_folder: tuple[Images, list[Path]] | None = None

    # What the network is built from

    @property
    def num_classes(self) -> int:
        """Classes; for the two CIFARs known without reading them."""
        return {"cifar10": 10, "cifar100": 100}.get(self.source) or len(self.dataset.classes)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of an image."""
        if self.source in CIFAR_STATISTICS:
            return (3, 32, 32)
        channels, height, width = self.dataset.train.images.shape[1:]
        return (channels, height, width)

    @property
    def dims(self) -> tuple[int, int, int]:
        """The name that lightning-bolts gives to :attr:`input_shape`."""
        return self.input_shape

    @cached_property
    def dataset(self) -> Dataset:
        """The source's images, read at first use."""
        return load_source(self.source, self.data_dir)

    @cached_property
    def split(self) -> tuple[Tensor, Tensor]:
        """Training and validation indices into the source's training set."""
        size = VALIDATION_SHARE if self.val_split is None else self.val_split
        labels = self.dataset.train.labels
        training, validation = stratified_split(labels, size, self.seed)
        if self.train_images is not None and self.train_images != len(training):
            kept = stratified_split(labels[training], self.train_images, self.seed, "train_images")[1]
            training = training[kept]
        return training, validation

    @cached_property
    def pixel_statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation per channel of the training pixels in [0, 1], each (C, 1, 1)."""
        if self.source in CIFAR_STATISTICS:
            mean, std = (torch.tensor(values) for values in CIFAR_STATISTICS[self.source])
        else:
            # From the histogram of pixel values: exact, and no float copy of the images.
            channels = self.dataset.train.images[self.split[0]].transpose(0, 1).flatten(1)
            counts = torch.stack([torch.bincount(c, minlength=256) for c in channels]).double()
            values = torch.arange(256, dtype=torch.float64) / 255
            share = counts / counts.sum(1, keepdim=True)
            mean = share @ values
            std = (share @ values.square() - mean.square()).clamp(min=1e-4).sqrt()
        return mean.float()[:, None, None], std.float()[:, None, None]

    # Lightning's hooks

    def prepare_data(self) -> None:
        """Download, once per machine, if there is something to download."""
        if self.source in CIFAR_STATISTICS:
            _ = self.dataset

    def setup(self, stage: str) -> None:
        """Read the images.

        Raises:
            UserError: if they are to be trained on, and there is nothing to tell apart.
        """
        _ = self.dataset
        if stage == "fit":
            self._check_classes()

    def check(self) -> None:
        """See that training and validation have batches, and more than one class.

        Raises:
            UserError: if they have not.
        """
        self._check_classes()
        self.train_dataloader()
        self.val_dataloader()

    def _check_classes(self) -> None:
        if self.num_classes < 2:
            raise ArgumentError(
                "data_dir",
                self.data_dir,
                f"all images are of one class, {self.dataset.classes[0]}; a network learns to tell two or more apart.",
            )

    def train_dataloader(self) -> DataLoader[Batch]:
        """Training batches in a new order each epoch.

        Raises:
            UserError: for an augmentation that may leave nothing of an image, or no batch.
        """
        height, width = self.input_shape[1:]
        for name, pixels in (("crop_padding", self.crop_padding), ("cutout", self.cutout)):
            if pixels >= min(height, width):
                raise ArgumentError(
                    name, pixels, f"of some images of {width}x{height} pixels nothing would be left; lower it."
                )
        return self._loader(self.dataset.train, self.split[0], training=True)

    def val_dataloader(self) -> DataLoader[Batch]:
        """Validation batches."""
        return self._loader(self.dataset.train, _mixed(self.split[1]))

    def test_dataloader(self) -> DataLoader[Batch]:
        """Test batches."""
        return self._loader(self.dataset.test, _mixed(torch.arange(len(self.dataset.test))))

    def predict_dataloader(self) -> DataLoader[Batch]:
        """Batches of what ``predict_on`` names."""
        if self.predict_on == "val":
            return self.val_dataloader()
        if self.predict_on == "test":
            return self.test_dataloader()
        return self._loader(self.predicted_folder[0])

    @property
    def predicted_folder(self) -> tuple[Images, list[Path]]:
        """The unlabelled images of the folder that ``predict_on`` names, and their files."""
        if self._predicted_folder is None:
            folder, where = Path(self.predict_on), f"`predict_on={self.predict_on}`"
            if not folder.is_dir():
                raise UserError(f"{where}: neither val nor test nor a folder of images.")
            paths = image_files(folder)
            if not paths:
                raise UserError(f"{where}: no PNG or JPEG image in it.")
            arrays = stack_images(paths, where)
            images = to_images(arrays, np.full(len(paths), -1), where)
            height, width = self.input_shape[1:]
            if tuple(images.images.shape[2:]) != (height, width):
                raise UserError(
                    f"{where}: images are {arrays.shape[2]}x{arrays.shape[1]} pixels; the "
                    f"network was trained on {width}x{height}. Resize them."
                )
            self._predicted_folder = (images, paths)
        return self._predicted_folder

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Augment (in training), normalise and encode on the batch's device."""
        training = self.trainer is not None and self.trainer.training
        epoch = self.trainer.current_epoch if training and self.trainer is not None else 0
        return self.encode(batch, training, epoch)

    def encode(self, batch: Batch, training: bool = False, epoch: int = 0) -> Batch:
        """Make a loader's batch ready for the network."""
        images = batch.images
        seed, epoch = (self.draw_seed, epoch) if training else (EVALUATION_SEED, 0)
        if training and (self.crop_padding or self.flip or self.cutout):
            draws = self._draws_of(batch.indices, epoch)
            images = crop_and_flip(images, draws, self.crop_padding, self.flip)
            if self.cutout:
                images = cut_out(images, draws, self.cutout)
        images = self._normalized(images.float() / 255)
        return Batch(self.encoder(images, batch.indices, self.timesteps, seed, epoch), batch.labels, batch.indices)

    def _draws_of(self, indices: Tensor, epoch: int) -> Tensor:
        """What a batch draws, out of what all images draw in the epoch: a hundred small operations, once an epoch."""
        drawn = self.draw_seed, epoch, indices.device
        if self._draws is None or self._draws[0] != drawn:
            everyone = torch.arange(len(self.dataset.train), device=indices.device)
            self._draws = drawn, augmentation_draws(self.draw_seed, epoch, everyone)
        return self._draws[1][:, indices]

    def _normalized(self, images: Tensor) -> Tensor:
        if not self.normalize or self.encoder.normalization == "unit":
            return images
        if images.device not in self._statistics:  # a copy for each batch would wait for the device
            self._statistics[images.device] = tuple(each.to(images.device) for each in self.pixel_statistics)
        mean, std = self._statistics[images.device]
        if self.encoder.normalization == "signed_unit":
            std = torch.maximum(mean, 1 - mean)  # the largest distance from the mean: values fill [-1, 1]
        return (images - mean) / std

    def _loader(self, images: Images, index: Tensor | None = None, training: bool = False) -> DataLoader[Batch]:
        dataset = IndexedImages(self._placed(images), torch.arange(len(images)) if index is None else index)
        world, rank = (1, 0) if self.trainer is None else (self.trainer.world_size, self.trainer.global_rank)
        order = (training, self.drop_last, self.shuffle, self.draw_seed)
        rows = BatchRows(len(dataset), self.batch_size, *order, world, rank, dataset.index.device)
        if training and len(rows) == 0:
            raise ArgumentError(
                "batch_size",
                self.batch_size,
                f"{len(dataset)} training images make no batch for {world} process(es); lower it.",
            )
        pin_memory = self.pin_memory and torch.cuda.is_available() and not self.resident
        return batch_loader(dataset, rows, self.num_workers, pin_memory)

    def _placed(self, images: Images) -> Images:
        """On the device that trains, if they are to stay there; training and validation share one copy."""
        if not self.resident or self.trainer is None:
            return images
        key = images.images.data_ptr()
        if key not in self._on_device:
            self._on_device[key] = images.to(self.trainer.strategy.root_device)
        return self._on_device[key]


def _mixed(index: Tensor) -> Tensor:
    """In an order that is the same in every run, and mixes the classes.

    Images often lie sorted by class: a part of an evaluation (the Trainer's ``limit_val_batches``) is to be a fair
    sample.
    """
    return index[permutation(EVALUATION_SEED, SHUFFLE, 0, len(index))]
