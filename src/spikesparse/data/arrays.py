"""What every data source gives: checked uint8 arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from spikesparse.errors import UserError
from spikesparse.files.names import printable

_LONGEST_NAME = 1020  # four for each byte of a file's name, if all of them are escaped
UInt8 = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Images:
    """A labelled set of images of one size.

    Attributes:
        images: uint8 (N, 3, H, W).
        labels: int64 (N,), in range(classes).
    """

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device) -> Images:
        """The same on a device."""
        return Images(self.images.to(device), self.labels.to(device))


@dataclass(frozen=True)
class Dataset:
    """A source's training and test images, and its classes' names in label order, as printable text."""

    train: Images
    test: Images
    classes: list[str]


def to_images(images: npt.NDArray[np.generic], labels: npt.NDArray[np.generic], where: str) -> Images:
    """Check arrays and make tensors of them; grey images are repeated to three channels.

    Args:
        images: uint8 (N, H, W), (N, H, W, 1) or (N, H, W, 3).
        labels: integers (N,).
        where: what to call them in an error.

    Raises:
        UserError: for a wrong dtype, shape, or number of labels.
    """
    if images.dtype != np.uint8:
        raise UserError(f"{where}: images are {images.dtype}, not uint8 (0 to 255); convert them first.")
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.shape[3] not in (1, 3) or len(images) == 0:
        raise UserError(f"{where}: images have shape {images.shape}; (N, H, W, 3) or grey (N, H, W) is needed.")
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise UserError(f"{where}: labels are {labels.dtype} {labels.shape}; integers (N,) are needed.")
    most = np.iinfo(np.int64).max
    if labels.size and int(labels.max()) > most:  # as int64 it would be negative, or another class
        raise UserError(f"{where}: a label is {int(labels.max())}, above {most}; labels must be 0, 1, 2, ...")
    if len(labels) != len(images):
        raise UserError(f"{where}: {len(images)} images but {len(labels)} labels.")
    tensor = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
    if tensor.shape[1] == 1:
        tensor = tensor.expand(-1, 3, -1, -1).contiguous()
    return Images(tensor, torch.from_numpy(labels.astype(np.int64)))


def to_dataset(train: Images, test: Images, classes: list[str] | None, where: str) -> Dataset:
    """Check that the two sets belong together.

    Raises:
        UserError: for labels outside the classes, a class without training images, or different image sizes.
    """
    if train.images.shape[1:] != test.images.shape[1:]:
        sizes = [f"{i.images.shape[3]}x{i.images.shape[2]}" for i in (train, test)]
        raise UserError(f"{where}: training images are {sizes[0]}, test images {sizes[1]}; they must be of one size.")
    if classes is None and int(train.labels.max()) >= len(train):
        raise UserError(
            f"{where}: training labels run up to {int(train.labels.max())}, with {len(train)} images; labels must be "
            "0, 1, 2, ... without gaps."
        )
    names = [printable(name) for name in classes or map(str, range(int(train.labels.max()) + 1))]
    longest = max(map(len, names), default=0)
    if longest > _LONGEST_NAME:
        raise UserError(f"{where}: a class's name has {longest:,} characters; {_LONGEST_NAME} are the most.")
    for split, part in (("training", train), ("test", test)):
        low, high = int(part.labels.min()), int(part.labels.max())
        if low < 0 or high >= len(names):
            raise UserError(
                f"{where}: {split} labels run from {low} to {high}; with {len(names)} classes they must lie in "
                f"0..{len(names) - 1}."
            )
    empty = [names[c] for c in range(len(names)) if not bool((train.labels == c).any())]
    if empty:
        raise UserError(f"{where}: no training image of class {', '.join(empty)}; add some, or remove the class.")
    return Dataset(train, test, names)
