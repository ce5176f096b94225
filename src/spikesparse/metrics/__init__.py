"""Spike and operation counts as torchmetrics."""

from spikesparse.metrics.bill import EnergyConstants, SpikeBill
from spikesparse.metrics.counts import SpikeCounts
from spikesparse.metrics.energy import Energy
from spikesparse.metrics.spikes import MembraneUpdates, SaturatedNeurons, SilentNeurons, SpikeRate, SpikesPerImage
from spikesparse.metrics.synops import MultiplyAccumulates, SynapticOperations

__all__ = [
    "Energy",
    "EnergyConstants",
    "MembraneUpdates",
    "MultiplyAccumulates",
    "SaturatedNeurons",
    "SilentNeurons",
    "SpikeBill",
    "SpikeCounts",
    "SpikeRate",
    "SpikesPerImage",
    "SynapticOperations",
]
