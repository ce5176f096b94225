"""sinabs: LIF with single spikes and reset to zero, on (B, T, ...) as it wants it."""

from __future__ import annotations

import sinabs
import torch
from sinabs.activation import MembraneReset, SingleSpike
from sinabs.layers import LIF
from torch import Tensor, nn

from ..contender import Contender
from ..folded import FoldedNet, atan
from ..setting import Setting


def build(setting: Setting) -> Contender:
    """The network. Its decay is a parameter; here it is fixed, so that no gradient is computed for it."""

    def surrogate(potential: Tensor, threshold: Tensor) -> Tensor:
        return atan(potential - threshold, setting.slope)

    def neurons() -> nn.Module:
        lif = LIF(
            tau_mem=1.0,
            spike_threshold=torch.tensor(setting.threshold),
            spike_fn=SingleSpike,
            reset_fn=MembraneReset(),
            surrogate_grad_fn=surrogate,
            train_alphas=True,
            norm_input=False,
        )
        lif.alpha_mem.data.fill_(setting.decay)
        lif.alpha_mem.requires_grad_(False)
        return lif

    net = FoldedNet(setting, neurons, batch_first=True).to(setting.device)
    return Contender(net, net.neurons(), before=lambda: sinabs.reset_states(net))
