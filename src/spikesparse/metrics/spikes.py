"""Spikes, and the neurons that spend them."""

from __future__ import annotations

from spikesparse.metrics.counts import SpikeCounts


class SpikeRate(SpikeCounts):
    """Spikes per hidden neuron and time step, in [0, 1]: of all hidden neurons, or ``per_layer``.

    Example:
        >>> import torch
        >>> from spikesparse import SpikingVGG
        >>> net, rate = SpikingVGG("4-P-8", input_shape=(3, 8, 8)).eval(), SpikeRate()
        >>> rate.update(net(torch.rand(2, 3, 8, 8)).tally)
        >>> bool(0 <= rate.compute() <= 1)
        True
    """

    column = "spike_rate"
    plot_upper_bound = 1.0


class SpikesPerImage(SpikeCounts):
    """Spikes of the hidden neurons per image, over all time steps: of all layers together, or ``per_layer``."""

    column = "spikes_per_image"


class SilentNeurons(SpikeCounts):
    """Hidden neurons that did not spike once over all images: of all layers together, or ``per_layer``.

    It needs the record of every batch: ``net(x, record="neurons")``. So does :class:`SaturatedNeurons`.

    Example:
        >>> import torch
        >>> from spikesparse import SpikingVGG
        >>> net, silent = SpikingVGG("4-P-8", input_shape=(3, 8, 8)).eval(), SilentNeurons()
        >>> silent.update(net(torch.rand(2, 3, 8, 8), record="neurons").tally)
        >>> bool(0 <= silent.compute() <= sum(net.sizes.neurons.values()))
        True
    """

    column = "silent_neurons"


class SaturatedNeurons(SpikeCounts):
    """Hidden neurons that spiked in every step of every image: of all layers together, or ``per_layer``."""

    column = "saturated_neurons"


class MembraneUpdates(SpikeCounts):
    """Membrane potentials updated per image: each neuron, pooling neurons included, in each time step."""

    column = "membrane_updates_per_image"
