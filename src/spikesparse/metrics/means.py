"""Means over images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric


class ImageMeans(Metric):
    """Means of some values over all images, whatever the batches and the number of processes.

    The sums are float64, also in a network of another dtype, and nothing is read back from the device before a value
    is asked for. (torchmetrics' MeanMetric looks for NaN in every update, which waits for the device, or, told not to,
    forgets how many images a batch had.)

    Args:
        values: how many.
        kwargs: of :class:`torchmetrics.Metric`.
    """

    full_state_update = False
    sums: Tensor
    images: Tensor

    def __init__(self, values: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("sums", torch.zeros(values, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("images", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, sums: Tensor, images: int) -> None:
        """Add a batch: the sums of its values over its images, (values,), and how many images these are."""
        self.sums = self.sums + sums
        self.images = self.images + images

    def compute(self) -> Tensor:
        """The means, float64 (values,); of no image, NaN."""
        return self.sums / self.images

    def _apply(self, fn: Callable[[Tensor], Tensor], exclude_state: Sequence[str] = "") -> nn.Module:
        """Move to another device; to no other dtype."""
        return super()._apply(lambda tensor: tensor.to(fn(tensor.new_zeros(1)).device), exclude_state)
