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
    places: Tensor

    def __init__(self, per_layer: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.per_layer = per_layer
        self.layers: tuple[str, ...] = ()
        for state in ("counts", "places"):  # one number a layer from the first update on
            self.add_state(state, torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def _add(self, counted: Tensor, places: dict[str, int]) -> None:
        """Add per-sample counts (layers, B), whole numbers in float64, of so many places per image in each layer."""
        self.layers = tuple(places)
        self.counts = self.counts + counted.detach().to(torch.int64).sum(1)
        self.places = self.places + torch.tensor(list(places.values()), device=counted.device) * counted.shape[1]

    def compute(self) -> Any:
        """The ratio, a float64 scalar, or a dict of one per layer; 0 of nothing is 0."""
        if self.per_layer:
            ratios = self.counts.to(torch.float64) / self.places.clamp(min=1).to(torch.float64)
            return dict(zip(self.layers, ratios.flatten(), strict=bool(self.layers)))
        return self.counts.sum().to(torch.float64) / self._all_places().clamp(min=1).to(torch.float64)

    def _all_places(self) -> Tensor:
        """What the sum over all layers is divided by: the images, which every layer has seen."""
        return self.places.max()
