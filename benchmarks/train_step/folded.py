"""The network around the neurons, for a library without containers: stateless layers run once on (T * B, ...).

Also the reference: the same with the plainest neuron there is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from spikesparse.nn.architecture import parse_architecture

from .setting import Setting


def blocks(setting: Setting) -> Iterator[tuple[nn.Module, nn.Module, bool]]:
    """Weights, norm and whether a pool follows, of each hidden layer."""
    plan = parse_architecture(setting.architecture)
    channels, height, width = setting.image
    for index, (kind, size) in enumerate(plan):
        if kind == "pool":
            continue
        pooled = index + 1 < len(plan) and plan[index + 1][0] == "pool"
        if kind == "conv":
            yield nn.Conv2d(channels, size, 3, padding=1, bias=False), nn.BatchNorm2d(size), pooled
        else:
            yield nn.Linear(channels * height * width, size, bias=False), nn.BatchNorm1d(size), pooled
            height = width = 1
        channels = size
        if pooled:
            height, width = height // 2, width // 2


def features(setting: Setting) -> int:
    """Values that enter the classifier."""
    channels, height, width = setting.image
    for kind, size in parse_architecture(setting.architecture):
        height, width = {"conv": (height, width), "pool": (height // 2, width // 2), "fc": (1, 1)}[kind]
        channels = size or channels
    return channels * height * width


def hidden_neurons(setting: Setting) -> int:
    """Of one image."""
    total, (_, height, width) = 0, setting.image
    for kind, size in parse_architecture(setting.architecture):
        height, width = {"conv": (height, width), "pool": (height // 2, width // 2), "fc": (1, 1)}[kind]
        total += size * height * width
    return total


class FoldedNet(nn.Module):
    """Weights, norm, neurons and pool of each layer; a classifier; the mean over time.

    Args:
        setting: what to build.
        make_neurons: makes a module (T, B, ...) -> spikes of the same shape.
        batch_first: fold (B, T) and not (T, B); neurons then get (B, T, ...).
        first_once: the layers before the first neurons run once, and not T times on the same image.
    """

    def __init__(
        self,
        setting: Setting,
        make_neurons: Callable[[], nn.Module],
        batch_first: bool = False,
        first_once: bool = False,
    ) -> None:
        super().__init__()
        self.timesteps, self.time, self.first_once = setting.timesteps, int(batch_first), first_once
        layers = [(weights, norm, make_neurons(), pooled) for weights, norm, pooled in blocks(setting)]
        self.layers = nn.ModuleList(nn.ModuleList(parts) for *parts, _ in layers)
        self.pooled = [pooled for *_, pooled in layers]
        self.pool = nn.MaxPool2d(2)
        self.classifier = nn.Linear(features(setting), setting.classes)

    def neurons(self) -> list[nn.Module]:
        """Of each hidden layer."""
        return [parts[2] for parts in self.layers]

    def over_time(self, x: Tensor) -> Tensor:
        """(B, ...) -> the same in every step, folded."""
        shape = list(x.shape)
        shape.insert(self.time, self.timesteps)
        return x.unsqueeze(self.time).expand(shape).flatten(0, 1)

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> logits (B, classes)."""
        steps = (self.timesteps, -1) if self.time == 0 else (-1, self.timesteps)
        x = images if self.first_once else self.over_time(images)
        for index, (weights, norm, neurons) in enumerate(self.layers):
            x = norm(weights(x.flatten(1) if isinstance(weights, nn.Linear) else x))
            if index == 0 and self.first_once:
                x = self.over_time(neurons(x))
            else:
                x = neurons(x.unflatten(0, steps)).flatten(0, 1)
            x = self.pool(x) if self.pooled[index] else x
        return self.classifier(x.flatten(1)).unflatten(0, steps).float().mean(self.time)


class ATan(torch.autograd.Function):
    """A spike above 0; (slope / 2) / (1 + (pi / 2 * slope * d)^2) on the way back."""

    @staticmethod
    def forward(d: Tensor, slope: float) -> Tensor:
        return (d >= 0).to(d.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float], output: Tensor) -> None:
        d, ctx.slope = inputs
        ctx.save_for_backward(d)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad * atan(ctx.saved_tensors[0], ctx.slope), None


def atan(d: Tensor, slope: float) -> Tensor:
    """The surrogate derivative at a distance ``d`` from the threshold."""
    return (slope / 2) / (1 + (math.pi / 2 * slope * d) ** 2)


class PlainNeurons(nn.Module):
    """The definition, a step at a time: h = decay * v + x; a spike where h >= threshold; then zero."""

    def __init__(self, setting: Setting) -> None:
        super().__init__()
        self.setting = setting

    def forward(self, current: Tensor) -> Tensor:
        """(T, B, ...) -> spikes."""
        v, spikes = torch.zeros_like(current[0]), []
        for x in current:
            h = self.setting.decay * v + x
            s = ATan.apply(h - self.setting.threshold, self.setting.slope)
            v = h * (1 - s.detach())
            spikes.append(s)
        return torch.stack(spikes)
