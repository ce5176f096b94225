"""Stratified validation split."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from spikesparse.data.philox import SPLIT, words
from spikesparse.errors import UserError


def stratified_split(
    labels: Tensor, size: int | float, seed: int, argument: str = "val_split"
) -> tuple[Tensor, Tensor]:
    """Indices of a training and a validation part, each class in proportion; both sorted.

    Args:
        labels: int64 (N,).
        size: validation images, a number or a fraction of N.
        seed: of the draw.
        argument: what set the size, for the error.

    Returns:
        Training and validation indices. Each class gives its exact share rounded down, and the classes with the
        largest remainders one more, until the number is right.

    Raises:
        UserError: if one of the two parts would be empty.
    """
    wanted = round(size * len(labels)) if isinstance(size, float) and math.isfinite(size) else size
    if not 0 < wanted < len(labels):
        raise UserError(
            f"`{argument}={size}`: {wanted} of {len(labels)} training images; a number of images below "
            f"{len(labels)}, or a fraction such as 0.1, is needed."
        )
    wanted = int(wanted)
    classes = int(labels.max()) + 1
    counts = torch.bincount(labels, minlength=classes).tolist()
    shares = [n * wanted / len(labels) for n in counts]
    taken = [int(share) for share in shares]
    by_remainder = sorted(range(classes), key=lambda c: (taken[c] - shares[c], c))
    for c in by_remainder[: wanted - sum(taken)]:
        taken[c] += 1
    key = words(seed, SPLIT, 0, torch.arange(len(labels)))[0]
    validation = torch.cat(
        [
            (members := (labels == c).nonzero().flatten())[key[members].argsort(stable=True)][: taken[c]]
            for c in range(classes)
        ]
    )
    mask = torch.zeros(len(labels), dtype=torch.bool)
    mask[validation] = True
    return (~mask).nonzero().flatten(), mask.nonzero().flatten()
