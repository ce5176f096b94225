"""Spike metrics."""

from __future__ import annotations

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
        neurons = tally.layers.neurons
        self._add(tally.spikes, tuple(neurons), tuple(n * tally.timesteps for n in neurons.values()))

    def _total_places(self) -> int:
        return sum(self.places) or 1


class SpikesPerImage(CountRatio):
    """Spikes of the hidden neurons per image, over all time steps: of all layers together, or ``per_layer``."""

    def update(self, tally: SpikeTally) -> None:
        """Add a batch's spikes."""
        neurons = tally.layers.neurons
        self._add(tally.spikes, tuple(neurons), (1,) * len(neurons))
