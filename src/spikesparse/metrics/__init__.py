"""Spike and operation counts as torchmetrics."""

from spikesparse.metrics.energy import Energy
from spikesparse.metrics.spikes import SpikeRate, SpikesPerImage
from spikesparse.metrics.synops import SynapticOperations

__all__ = ["Energy", "SpikeRate", "SpikesPerImage", "SynapticOperations"]
