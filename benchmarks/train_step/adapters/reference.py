"""The definition of the network in plain torch: what every contestant must compute."""

from __future__ import annotations

from ..contender import Contender
from ..folded import FoldedNet, PlainNeurons
from ..setting import Setting


def build(setting: Setting) -> Contender:
    """Not a contestant: too plain to be fast."""
    net = FoldedNet(setting, lambda: PlainNeurons(setting))
    return Contender(net, net.neurons())
