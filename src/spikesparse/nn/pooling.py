"""Pooling between spiking layers, on the folded (T * B, C, H, W) or over time."""

from __future__ import annotations

from torch import Tensor, nn

from spikesparse.nn.neurons import IF
from spikesparse.ops.surrogate import Surrogate

POOLINGS = ("max", "average", "spiking_average", "strided")


def fold_time(module: nn.Module, x: Tensor) -> Tensor:
    """Apply a stateless layer to (T, B, ...) once, as (T * B, ...)."""
    y: Tensor = module(x.flatten(0, 1))
    return y.reshape(*x.shape[:2], *y.shape[1:])


class SpikingAvgPool2d(nn.Module):
    """Lee et al. 2020's pooling: an integrate-and-fire neuron on the average of each window.

    Its threshold is 0.75, hard reset, and it fires strictly above: for a 2x2 window of binary spikes, once four
    quarters have arrived, in one step or over several.

    Args:
        kernel_size: side of the window, also its stride.
        surrogate: surrogate gradient of the pooling neurons.
    """

    def __init__(self, kernel_size: int = 2, surrogate: str | Surrogate = "atan") -> None:
        super().__init__()
        self.average = nn.AvgPool2d(kernel_size)
        self.neuron = IF(threshold=0.75, surrogate=surrogate, strict=True)

    def forward(self, spikes: Tensor) -> Tensor:
        """Spikes (T, B, C, H, W) -> spikes (T, B, C, H // k, W // k)."""
        pooled: Tensor = self.neuron(fold_time(self.average, spikes))
        return pooled
