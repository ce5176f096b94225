"""Spiking layers and networks: plain torch modules, without Lightning."""

from spikesparse.nn.counter import SpikeCounter
from spikesparse.nn.layer import SpikingLayer
from spikesparse.nn.network import SpikingNetwork, SpikingStack
from spikesparse.nn.neurons import IF, LIF, SpikingNeuron
from spikesparse.nn.pooling import SpikingAvgPool2d
from spikesparse.nn.tally import LayerSizes, SpikeRecord, SpikeTally, SpikingOutput
from spikesparse.nn.vgg import SpikingVGG

__all__ = [
    "IF",
    "LIF",
    "LayerSizes",
    "SpikeCounter",
    "SpikeRecord",
    "SpikeTally",
    "SpikingAvgPool2d",
    "SpikingLayer",
    "SpikingNetwork",
    "SpikingNeuron",
    "SpikingOutput",
    "SpikingStack",
    "SpikingVGG",
]
