"""Synaptic operations."""

from __future__ import annotations

from spikesparse.metrics.counts import CountRatio
from spikesparse.nn.tally import SpikeTally


class SynapticOperations(CountRatio):
    """Synaptic operations (accumulates) per image: events that enter a weight layer, each times its exact fan-out.

    Of all layers together, or ``per_layer``. The first layer's multiply-accumulates under analog input are not among
    them: see :class:`Energy`.
    """

    def update(self, tally: SpikeTally) -> None:
        """Add a batch's operations."""
        self._add(tally.synops, dict.fromkeys(tally.layers.synapses, 1))
