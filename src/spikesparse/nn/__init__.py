"""Spiking layers and networks: plain torch modules, without Lightning."""

from spikesparse.nn.neurons import IF, LIF
from spikesparse.nn.pooling import SpikingAvgPool2d
from spikesparse.nn.tally import LayerSizes, SpikeCounter, SpikeTally, SpikingOutput
from spikesparse.nn.vgg import SpikingNetwork, SpikingVGG

__all__ = [
    "IF",
    "LIF",
    "LayerSizes",
    "SpikeCounter",
    "SpikeTally",
    "SpikingAvgPool2d",
    "SpikingNetwork",
    "SpikingOutput",
    "SpikingVGG",
]
