"""The frozen networks that every tool counts, and our own counts of them.

All weights, inputs, decays and thresholds are small multiples of powers of two, so that every sum is exact in any order
and precision: all tools see the same spikes, bit for bit, whatever library computes them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from spikesparse import IF, LIF, SpikingLayer, SpikingStack
from spikesparse.metrics import SpikeCounts
from spikesparse.nn import SpikingAvgPool2d

SHAPE, TIMESTEPS, IMAGES = (3, 16, 16), 4, 8


def _frozen(weights: nn.Conv2d | nn.Linear, generator: torch.Generator, zeros: float = 0.0) -> nn.Conv2d | nn.Linear:
    """Weights that are multiples of 1/16 in [-1, 1], none of them zero but the share asked for."""
    with torch.no_grad():
        drawn = torch.randint(1, 17, weights.weight.shape, generator=generator) / 16.0
        sign = torch.where(torch.rand(drawn.shape, generator=generator) < 0.55, 1.0, -1.0)
        pruned = torch.rand(drawn.shape, generator=generator) < zeros
        weights.weight.copy_((drawn * sign).masked_fill(pruned, 0.0))
        if weights.bias is not None:
            weights.bias.fill_(0.125)
    return weights


def _norm(channels: int) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels, eps=1.0)  # 3 + 1 is exact; torch 2.11 refuses an eps of 0
    nn.init.constant_(norm.weight, 0.5)
    nn.init.ones_(norm.bias)
    norm.running_mean.fill_(0.25)
    norm.running_var.fill_(3.0)
    return norm


def stack(
    pool: nn.Module | None = None, norm: bool = False, zeros: float = 0.0, conv: dict[str, Any] | None = None
) -> SpikingStack:
    """Three convolutions, a pool behind the second, a hidden fully connected layer and a classifier."""
    generator = torch.Generator().manual_seed(0)
    conv2 = nn.Conv2d(8, 8, **({"kernel_size": 3, "padding": 1} | (conv or {})))
    spatial = conv2(torch.zeros(1, 8, *SHAPE[1:])).shape[2:]
    if pool is not None:
        spatial = getattr(pool, "average", pool)(torch.zeros(1, 8, *spatial)).shape[2:]
    conv3 = nn.Conv2d(8, 16, 3, stride=2, padding=1)
    features = conv3(torch.zeros(1, 8, *spatial))[0].numel()
    layers = {
        "conv1": SpikingLayer(nn.Conv2d(3, 8, 3, padding=1), _norm(8) if norm else None, LIF(0.5, 2.0)),
        "conv2": SpikingLayer(conv2, _norm(8) if norm else None, LIF(0.5, 2.0, reset="soft"), pool=pool),
        "conv3": SpikingLayer(conv3, _norm(16) if norm else None, LIF(0.5, 1.0)),
        "fc1": SpikingLayer(nn.Linear(features, 32), None, IF(1.0)),
        "classifier": SpikingLayer(nn.Linear(32, 10)),
    }
    for layer in layers.values():
        _frozen(layer.weights, generator, zeros)
    return SpikingStack(layers, SHAPE, TIMESTEPS).eval()


def inputs(kind: str) -> Tensor:
    """Input "constant" (B, C, H, W); "current", "spikes" or "signed" (T, B, C, H, W). Currents hold no zero."""
    generator = torch.Generator().manual_seed(1)
    shape = (TIMESTEPS, IMAGES, *SHAPE)
    current = (torch.randint(0, 32, shape, generator=generator) - 15.5) / 8.0
    kinds = {
        "constant": current[0],
        "current": current,
        "spikes": (current > 0.75).float(),
        "signed": (current.abs() > 1.0).float() * current.sign(),
    }
    return kinds[kind]


def cases() -> dict[str, tuple[SpikingStack, Tensor]]:
    """Name -> network and input."""
    odd = {"kernel_size": (3, 5), "stride": (2, 1), "padding": (2, 1), "dilation": (2, 1), "groups": 4}
    return {
        "max pool, spikes in": (stack(nn.MaxPool2d(2)), inputs("spikes")),
        "max pool, constant current in": (stack(nn.MaxPool2d(2)), inputs("constant")),
        "max pool, another current in each step": (stack(nn.MaxPool2d(2)), inputs("current")),
        "max pool, signed spikes in": (stack(nn.MaxPool2d(2)), inputs("signed")),
        "max pool, BatchNorm": (stack(nn.MaxPool2d(2), norm=True), inputs("spikes")),
        "max pool, half the weights zero": (stack(nn.MaxPool2d(2), zeros=0.5), inputs("spikes")),
        "stride, padding, dilation, groups": (stack(conv=odd), inputs("spikes")),
        "spiking average pool": (stack(SpikingAvgPool2d(2)), inputs("spikes")),
        "plain average pool": (stack(nn.AvgPool2d(2)), inputs("spikes")),
    }


def describe(layer: SpikingLayer) -> dict[str, Any]:
    """A layer in plain values and tensors, for a witness that does not know this package."""
    weights, neuron, norm, pool = layer.weights, layer.neuron, layer.norm, layer.pool
    plain: dict[str, Any] = {"weight": weights.weight.detach(), "bias": weights.bias.detach()}
    if isinstance(weights, nn.Conv2d):
        names = ("kernel_size", "stride", "padding", "dilation", "groups")
        plain["conv"] = {name: getattr(weights, name) for name in names}
    if norm is not None:
        plain["norm"] = {
            **{"weight": norm.weight.detach(), "bias": norm.bias.detach()},
            **{"mean": norm.running_mean, "var": norm.running_var, "eps": norm.eps},
        }
    if isinstance(neuron, LIF):
        plain["neuron"] = {"decay": neuron.decay, "threshold": neuron.threshold, "soft": neuron.spec.soft_reset}
    if pool is not None:
        plain["pool"] = {nn.MaxPool2d: "max", nn.AvgPool2d: "average", SpikingAvgPool2d: "spiking_average"}[type(pool)]
    return plain


def our_counts(net: SpikingStack, x: Tensor) -> dict[str, float]:
    """Integers over the batch, named as the witnesses name theirs."""
    counts = SpikeCounts()
    with torch.no_grad():
        counts.update(net(x, record="neurons").tally)
    bill = counts.bill()
    total = bill.rows()["total"]
    first = next(iter(bill.synops))
    assert bill.nonzero_synops is not None
    return {
        "synops": total["synops"],
        "synops behind the first layer": total["synops"] - bill.synops[first],
        "nonzero synops": total["nonzero_synops"],
        "macs": total["macs"],
        "dense operations": total["dense_synops"] + total["macs"],
        "hidden spikes": total["spikes"],
    }


def export(folder: Path) -> dict[str, dict[str, float]]:
    """Write every case for the witnesses; our own counts by case."""
    counts = {}
    for number, (name, (net, x)) in enumerate(cases().items()):
        counts[name] = our_counts(net, x)
        with torch.no_grad():
            logits = net(x).logits
        layers = [describe(layer) for layer in net.layers.values()]
        whole = {"name": name, "timesteps": TIMESTEPS, "layers": layers, "x": x, "logits": logits}
        torch.save(whole, folder / f"case{number}.pt")
    return counts
