"""Augmentation of whole batches on their device."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from spikesparse.philox import AUGMENT, words


def augmentation_draws(seed: int, epoch: int, index: Tensor) -> Tensor:
    """Three random words in [0, 2**32) for each sample index (int64, (B,)), by seed, epoch and index alone: (3, B)."""
    return torch.stack(words(seed, AUGMENT, epoch, index)[:3])


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
    down, right, mirror = draws
    if padding:
        shifts = 2 * padding + 1
        height, width = images.shape[2:]
        padded = F.pad(images, (padding,) * 4)
        windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # a view: (B, C, shifts, shifts, H, W)
        images = windows[torch.arange(len(images), device=images.device), :, down % shifts, right % shifts]
    if flip:
        images = torch.where((mirror & 1).bool()[:, None, None, None], images.flip(3), images)
    return images
