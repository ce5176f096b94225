"""The same weights in every contestant, drawn anew in each process."""

from __future__ import annotations

import math

import torch
from torch import nn


def layers(net: nn.Module) -> list[nn.Module]:
    """Whatever has weights, in the order of the network: weights and norm of each layer, then the classifier."""
    return [m for m in net.modules() if isinstance(m, (nn.Conv2d, nn.Linear, nn.BatchNorm1d, nn.BatchNorm2d))]


def shapes(net: nn.Module) -> list[tuple[int, ...]]:
    """Of the weights, to see that two networks are built alike."""
    return [tuple(layer.weight.shape) for layer in layers(net)]


@torch.no_grad()
def draw_weights(net: nn.Module, seed: int = 0) -> None:
    """Weights that keep the network firing, and running statistics that are no zeros and ones."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(to: torch.Tensor, low: float, high: float) -> None:
        to.copy_(torch.empty(to.shape).uniform_(low, high, generator=generator))

    for layer in layers(net):
        if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)):
            uniform(layer.weight, 0.8, 1.2)
            uniform(layer.bias, -0.1, 0.3)
            uniform(layer.running_mean, -0.1, 0.1)
            uniform(layer.running_var, 0.2, 0.6)
            continue
        bound = math.sqrt(6 / layer.weight[0].numel())
        uniform(layer.weight, -bound, bound)
        if layer.bias is not None:
            uniform(layer.bias, -0.1, 0.1)
