"""Weights that keep a deep spiking network firing without BatchNorm."""

from __future__ import annotations

import math

from torch import nn

HIDDEN_RATE = 0.2  # the firing rate that the initialisation aims at, in every layer and step
# P(N(0, 1) >= q) = HIDDEN_RATE: a current of standard deviation threshold / q drives a resting neuron at that rate.
_QUANTILE = 0.8416212335729143

INITIALIZATIONS = ("firing", "he")  # for networks without BatchNorm

# Mean square of what arrives behind each pooling of spikes at HIDDEN_RATE r: max of four, mean of four, a fourth.
_AFTER_POOL = {
    "max": 1 - (1 - HIDDEN_RATE) ** 4,
    "average": (HIDDEN_RATE + 3 * HIDDEN_RATE**2) / 4,
    "spiking_average": HIDDEN_RATE / 2,
    "strided": HIDDEN_RATE,
}


def mean_square_after(pooling: str | None) -> float:
    """Expected mean square of the values that enter a layer, behind neurons and, if any, a pool."""
    return HIDDEN_RATE if pooling is None else _AFTER_POOL[pooling]


def init_firing(layer: nn.Conv2d | nn.Linear, mean_square: float, threshold: float) -> None:
    """Draw zero-mean weights whose current has the standard deviation that keeps neurons firing.

    With inputs of mean square m on n synapses and weights of variance s^2, the current's variance is n * m * s^2.
    It is set to (threshold / q)^2, with q the quantile that a neuron at rest exceeds at the rate HIDDEN_RATE. (He's
    initialisation, made for ReLU, has m = 1/2 in mind: behind spikes at low rates the current falls layer by layer,
    and below the threshold a spiking network goes silent where a ReLU network only shrinks.)
    """
    fan_in = layer.weight[0].numel()
    nn.init.normal_(layer.weight, 0.0, threshold / _QUANTILE / math.sqrt(fan_in * mean_square))
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def init_he(layer: nn.Conv2d | nn.Linear) -> None:
    """Draw normal weights of variance 2 / fan-in: He et al. 2015 (arXiv 1502.01852), as Lee et al. 2020 start."""
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
