"""The limit: the same folded network with ReLU in place of the neurons, first layer once.

No spiking network that runs its convolutions on all time steps is faster than this, unless it makes use of zeros.
"""

from __future__ import annotations

from torch import nn

from ..contender import Contender
from ..folded import FoldedNet
from ..setting import Setting


def build(setting: Setting) -> Contender:
    """Without spikes, and so without neurons to count them of."""
    return Contender(FoldedNet(setting, nn.ReLU, first_once=True))
