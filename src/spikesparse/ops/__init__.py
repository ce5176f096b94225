"""The multi-step neuron scan: one definition (reference.py), several backends, one dispatcher (backends.py)."""

from spikesparse.ops.scan import neuron_scan
from spikesparse.ops.spec import NeuronSpec

__all__ = ["NeuronSpec", "neuron_scan"]
