"""Synaptic operations and multiply-accumulates."""

from __future__ import annotations

from typing import Any

from spikesparse.metrics.counts import SpikeCounts


class SynapticOperations(SpikeCounts):
    """Synaptic operations (accumulates) per image: events that enter a weight layer, each times its exact fan-out.

    Of all layers together, or ``per_layer``. The first layer's multiply-accumulates under analog input are not among
    them: see :class:`MultiplyAccumulates`.

    Args:
        per_layer: compute a dict, layer name -> value.
        nonzero_weights: count only synapses whose weight is not zero; needs the record of every batch:
            ``net(x, record="neurons")``.
        kwargs: of :class:`torchmetrics.Metric`.
    """

    column = "synops_per_image"

    def __init__(self, per_layer: bool = False, nonzero_weights: bool = False, **kwargs: Any) -> None:
        super().__init__(per_layer, **kwargs)
        self.column = _over(self.column, nonzero_weights)


class MultiplyAccumulates(SpikeCounts):
    """Multiply-accumulates of the first layer under analog input, per image; ``nonzero_weights`` as above.

    Once if the input is a constant current, else in every step; 0 for a spiking input.
    """

    column = "macs_per_image"

    def __init__(self, per_layer: bool = False, nonzero_weights: bool = False, **kwargs: Any) -> None:
        super().__init__(per_layer, **kwargs)
        self.column = _over(self.column, nonzero_weights)


def _over(column: str, nonzero_weights: bool) -> str:
    return f"nonzero_{column}" if nonzero_weights else column
