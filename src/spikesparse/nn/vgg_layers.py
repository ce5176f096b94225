"""The layers of a VGG, from its plan: weights drawn, norms, neurons and pools put behind them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from spikesparse.errors import UserError
from spikesparse.nn.fanout import Incoming
from spikesparse.nn.initialization import init_firing, init_he, mean_square_after
from spikesparse.nn.layer import SpikingLayer
from spikesparse.nn.neurons import SpikingNeuron

MOST_WEIGHTS = 10**9  # 4 GB; VGG16 has 15 million


@dataclass(frozen=True)
class Parts:
    """What the layers are made of; the settings are those of :class:`spikesparse.SpikingVGG`.

    Attributes:
        norm: "batch" or "none".
        initialization: of the weights, without BatchNorm.
        threshold: of the neurons.
        pooling: the kind of pools.
        dropout: behind every hidden layer.
        make_neuron: the neurons of a layer.
        make_pool: a pool; None for strides in its place.
    """

    norm: str
    initialization: str
    threshold: float
    pooling: str
    dropout: float
    make_neuron: Callable[[], SpikingNeuron]
    make_pool: Callable[[], nn.Module | None]


def build_layers(
    plan: list[tuple[str, int]], input_shape: tuple[int, int, int], parts: Parts, architecture: object, width: float
) -> tuple[dict[str, SpikingLayer], Incoming]:
    """The hidden layers of a plan, and what reaches the layer behind them.

    Args:
        plan: ("conv", channels), ("pool", 0) and ("fc", features), from the image on.
        input_shape: (C, H, W) of an image.
        parts: what the layers are made of.
        architecture: as the user named it, for errors.
        width: the same.

    Raises:
        UserError: if images are too small for the pools, or there are too many weights or no layer.
    """
    layers: dict[str, SpikingLayer] = {}
    incoming = Incoming(tuple(input_shape))
    mean_square = 1.0  # of a normalised image
    drawn = 0
    for index, (kind, size) in enumerate(plan):
        if kind == "pool":  # made with the convolution before it
            continue
        name = f"{kind}{1 + sum(known.startswith(kind) for known in layers)}"
        pooled = index + 1 < len(plan) and plan[index + 1][0] == "pool"
        if pooled and min(incoming.shape[1:]) < 2:
            raise UserError(
                f"`architecture={architecture!r}`: images of {input_shape[1]}x{input_shape[2]} pixels "
                "are too small for so many pools (P); list fewer of them."
            )
        drawn += size * (9 * incoming.shape[0] if kind == "conv" else incoming.features)
        if drawn > MOST_WEIGHTS:
            raise UserError(
                f"`architecture={str(architecture)[:80]!r}`, `width={width}`: up to "
                f"{name} these are {drawn:,} weights; the most are {MOST_WEIGHTS:,}."
            )
        weights = _weights(kind, size, incoming, stride=2 if pooled and parts.pooling == "strided" else 1)
        if parts.norm == "none" and parts.initialization == "firing":
            init_firing(weights, mean_square, parts.threshold)
        elif parts.norm == "none":
            init_he(weights)
        mean_square = mean_square_after(parts.pooling if pooled else None)
        pool = parts.make_pool() if pooled else None
        layers[name] = SpikingLayer(weights, _norm(kind, size, parts.norm), parts.make_neuron(), parts.dropout, pool)
        incoming = incoming.after(weights).after(pool)
    if not layers:
        raise UserError(f"`architecture={architecture!r}`: at least one hidden layer is needed.")
    return layers, incoming


def _weights(kind: str, size: int, incoming: Incoming, stride: int) -> nn.Conv2d | nn.Linear:
    if kind == "conv":
        return nn.Conv2d(incoming.shape[0], size, 3, stride=stride, padding=1, bias=False)
    return nn.Linear(incoming.features, size, bias=False)


def _norm(kind: str, size: int, norm: str) -> nn.BatchNorm1d | nn.BatchNorm2d | None:
    if norm == "none":
        return None
    return nn.BatchNorm2d(size) if kind == "conv" else nn.BatchNorm1d(size)
