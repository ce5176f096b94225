"""Whole batches by index, in an order that is a function of (seed, epoch)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from spikesparse.data.arrays import Images
from spikesparse.data.philox import SHUFFLE, permutation


class Batch(NamedTuple):
    """A batch.

    Attributes:
        images: uint8 (B, 3, H, W) from the loader; what the encoder makes of them once on the device.
        labels: int64 (B,); -1 where there is none.
        indices: int64 (B,): each image's place in its source's training or test set.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor


class IndexedImages(Dataset[Batch]):
    """Images that are fetched a batch at a time, ``dataset[rows]``, from where they lie.

    Args:
        images: the source's images, on any device.
        index: int64: those of them that belong to the dataset.
    """

    def __init__(self, images: Images, index: Tensor) -> None:
        self.images, self.index = images, index.to(images.images.device)

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, rows: Tensor) -> Batch:
        index = self.index[rows]
        return Batch(self.images.images[index], self.images.labels[index], index)


class BatchRows(DistributedSampler[Tensor]):
    """Rows of each batch of this process.

    Every process knows the whole order and takes its share, so that each row is read exactly once: no padding. In
    training, batch k of all processes together is rows [k * world * B, (k + 1) * world * B) of the epoch's order,
    and a last batch too small to give every process a row is left out. In evaluation each process gets a contiguous
    share; one that has no row at all gets one empty batch, because Lightning refuses a loader without any.

    It is a DistributedSampler by type only: Lightning leaves those in place, and calls their ``set_epoch``.

    The rows are on ``device``, where the images are: put there once, since a copy for each batch waits for the device.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        training: bool,
        drop_last: bool,
        shuffle: bool,
        seed: int,
        world: int,
        rank: int,
        device: torch.device | str = "cpu",
    ) -> None:
        self.device = device
        self.size, self.batch_size, self.training = size, batch_size, training
        self.drop_last, self.shuffle, self.seed = drop_last, shuffle, seed
        self.num_replicas, self.rank, self.epoch = world, rank, 0
        self.skipped = 0  # batches at the start of the next pass, in training

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning at the start of each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        if not self.training:
            return max(1, -(-len(self._share()) // self.batch_size))
        full, rest = divmod(self.size, self.batch_size * self.num_replicas)
        return full + (0 if self.drop_last or rest < self.num_replicas else 1)

    def __iter__(self) -> Iterator[Tensor]:
        if not self.training:
            yield from self._share().split(self.batch_size) if len(self._share()) else (self._share(),)
            return
        order = permutation(self.seed, SHUFFLE, self.epoch, self.size) if self.shuffle else torch.arange(self.size)
        skipped, self.skipped = self.skipped, 0
        for whole in order.to(self.device).split(self.batch_size * self.num_replicas)[skipped : len(self)]:
            yield whole.tensor_split(self.num_replicas)[self.rank]

    def _share(self) -> Tensor:
        return torch.arange(self.size, device=self.device).tensor_split(self.num_replicas)[self.rank]


class ResumableLoader(DataLoader[Batch]):
    """A loader that can leave out the batches which an interrupted epoch has had already."""

    sampler: BatchRows

    def skip(self, batches: int) -> None:
        """Leave out so many batches at the start of the next pass."""
        self.sampler.skipped = batches

    def __iter__(self) -> Any:
        """The batches; nothing is fetched before the first is asked for, when the sampler knows its epoch."""
        yield from super().__iter__()

    def state_dict(self) -> dict[str, Any]:
        """Nothing: Lightning counts the batches, and asks for this to know that they can be left out."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take what :meth:`state_dict` gave."""


def batch_loader(dataset: IndexedImages, rows: BatchRows, num_workers: int, pin_memory: bool) -> ResumableLoader:
    """A loader that asks the dataset for whole batches."""
    return ResumableLoader(
        dataset,
        batch_size=None,
        sampler=rows,
        num_workers=num_workers,
        pin_memory=pin_memory,
        persistent_workers=num_workers > 0,
        # An iterator draws a seed for its workers: from here, so that torch's own generator stays where it was.
        generator=torch.Generator(),
    )
