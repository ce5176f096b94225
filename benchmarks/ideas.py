"""Ideas that the plan tries and the package does not hold."""

from __future__ import annotations

import torch
from torch import Tensor

from spikesparse import SpikePenalty, SpikeTally


class GuardedPenalty(SpikePenalty):
    """The spike penalty, and a price on layers that fire too little: a guard against dead neurons.

    After the low-rate guard of sinabs' tutorials: the squared shortfall of a layer's mean rate below ``least``,
    relative to it, summed over layers.

    Args:
        least: spikes per neuron and step.
        price: of a layer that is wholly silent.
    """

    def __init__(self, least: float = 0.01, price: float = 0.05) -> None:
        super().__init__()
        self.least, self.price = least, price

    def forward(self, tally: SpikeTally) -> Tensor:
        """Penalty of a batch: a float64 scalar."""
        neurons = torch.tensor(list(tally.layers.neurons.values()), dtype=torch.float64, device=tally.spikes.device)
        rates = tally.spikes.mean(1) / (neurons * tally.timesteps)
        shortfall = (1.0 - rates / self.least).clamp(min=0.0).square().sum()
        return super().forward(tally) + self.price * shortfall
