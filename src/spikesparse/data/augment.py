"""Augmentation of whole batches on their device."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from spikesparse.data.philox import AUGMENT, words


def augmentation_draws(seed: int, epoch: int, index: Tensor) -> Tensor:
    """Four random words in [0, 2**32) for each sample index (int64, (B,)), by seed, epoch and index alone: (4, B)."""
    return torch.stack(words(seed, AUGMENT, epoch, index))


def crop_and_flip(images: Tensor, draws: Tensor, padding: int, flip: bool) -> Tensor:
    """Shift each image by up to ``padding`` pixels, black coming in, and mirror half of them.

    Args:
        images: (B, C, H, W), any dtype.
        draws: the images' :func:`augmentation_draws`.
        padding: largest shift in pixels; 0 leaves images in place.
        flip: mirror left and right with probability 1/2.

    Returns:
        Same shape and dtype.
    """
    down, right, mirror, _ = draws
    if padding:
        shifts = 2 * padding + 1
        height, width = images.shape[2:]
        padded = F.pad(images, (padding,) * 4)
        windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # a view: (B, C, shifts, shifts, H, W)
        images = windows[torch.arange(len(images), device=images.device), :, down % shifts, right % shifts]
    if flip:
        images = torch.where((mirror & 1).bool()[:, None, None, None], images.flip(3), images)
    return images


def cut_out(images: Tensor, draws: Tensor, side: int) -> Tensor:
    """Blacken a square of each image, around any of its pixels (DeVries & Taylor 2017, arXiv 1708.04552).

    Args:
        images: (B, C, H, W), any dtype.
        draws: the images' :func:`augmentation_draws`.
        side: of the square in pixels; what of it lies outside the image is lost.

    Returns:
        Same shape and dtype.
    """
    height, width = images.shape[2:]
    place = draws[3] % (height * width)
    rows = _covered(place // width, height, side)
    columns = _covered(place % width, width, side)
    return images.masked_fill((rows[:, :, None] & columns[:, None, :])[:, None], 0)


def _covered(centre: Tensor, size: int, side: int) -> Tensor:
    """Which of ``size`` positions lie on a segment of ``side`` around each centre: (B, size)."""
    offset = torch.arange(size, device=centre.device) - (centre - side // 2)[:, None]
    return (offset >= 0) & (offset < side)
