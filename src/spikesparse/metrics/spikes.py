"""Spike metrics."""

from __future__ import annotations

from torch import Tensor

from spikesparse.metrics.counts import CountRatio
from spikesparse.nn.tally import SpikeTally


class SpikeRate(CountRatio):
    """Spikes per hidden neuron and time step, in [0, 1]: of all hidden neurons, or ``per_layer``.

    Example:
        >>> import torch
        >>> from spikesparse import SpikingVGG
        >>> net, rate = SpikingVGG("4-P-8", input_shape=(3, 8, 8)).eval(), SpikeRate()
        >>> rate.update(net(torch.rand(2, 3, 8, 8)).tally)
        >>> bool(0 <= rate.compute() <= 1)
        True
    """

    plot_upper_bound = 1.0

    def update(self, tally: SpikeTally) -> None:
        """Add a batch's spikes."""
        self._add(tally.spikes, {name: n * tally.timesteps for name, n in tally.layers.neurons.items()})

    def _all_places(self) -> Tensor:
        return self.places.sum()


class SpikesPerImage(CountRatio):
    """Spikes of the hidden neurons per image, over all time steps: of all layers together, or ``per_layer``."""

    def update(self, tally: SpikeTally) -> None:
        """Add a batch's spikes."""
        self._add(tally.spikes, dict.fromkeys(tally.layers.neurons, 1))
