"""snnTorch: Leaky with reset to zero, in a loop over time.

Its reset waits for the next step and then zeroes the potential before it decays: the same as zeroing at once.
"""

from __future__ import annotations

import snntorch
import torch
from snntorch import surrogate
from torch import Tensor, nn

from ..contender import Contender
from ..folded import FoldedNet
from ..setting import Setting


class Neurons(nn.Module):
    """A Leaky over all time steps."""

    def __init__(self, setting: Setting) -> None:
        super().__init__()
        self.leaky = snntorch.Leaky(
            beta=setting.decay,
            threshold=setting.threshold,
            spike_grad=surrogate.atan(alpha=setting.slope),
            reset_mechanism="zero",
        )

    def forward(self, current: Tensor) -> Tensor:
        """(T, B, ...) -> spikes."""
        membrane, spikes = self.leaky.reset_mem(), []
        for x in current:
            fired, membrane = self.leaky(x, membrane)
            spikes.append(fired)
        return torch.stack(spikes)


def build(setting: Setting) -> Contender:
    """The network."""
    net = FoldedNet(setting, lambda: Neurons(setting)).to(setting.device)
    return Contender(net, net.neurons())
