"""What the counting metrics share: whole numbers in, whole numbers kept, one division at the end."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric


class CountRatio(Metric):
    """A count per layer over a count, exact for any batch size and number of processes.

    The states are int64 sums: float32 stops counting at 2**24, and a float64 state would not survive
    ``module.to(bfloat16)``. Each process adds up its own images; the sums are added when the value is asked for.

    Args:
        per_layer: compute a dict, layer name -> value, instead of one value for the whole network.
        kwargs: of :class:`torchmetrics.Metric`.
    """

    full_state_update = False
    higher_is_better = False
    plot_lower_bound = 0.0
    counts: Tensor
    images: Tensor

    def __init__(self, per_layer: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.per_layer = per_layer
        self.layers: tuple[str, ...] = ()
        self.places: tuple[int, ...] = ()  # what each layer's count per image is divided by
        self.add_state("counts", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("images", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def _add(self, counted: Tensor, layers: tuple[str, ...], places: tuple[int, ...]) -> None:
        """Add per-sample counts (layers, B), whole numbers in float64."""
        self.layers, self.places = layers, places
        self.counts = self.counts + counted.detach().to(torch.int64).sum(1)
        self.images += counted.shape[1]

    def compute(self) -> Tensor | dict[str, Tensor]:
        """The ratio, float64, or a dict of one per layer; 0 of nothing is 0."""
        images = self.images.clamp(min=1).to(torch.float64)
        if self.per_layer:
            return {
                layer: self.counts[i].to(torch.float64) / (self.places[i] * images)
                for i, layer in enumerate(self.layers)
            }
        return self.counts.sum().to(torch.float64) / (self._total_places() * images)

    def _total_places(self) -> int:
        return 1
