"""The multi-step neuron scan."""

from spikesparse.ops.scan import NeuronSpec, neuron_scan

__all__ = ["NeuronSpec", "neuron_scan"]
