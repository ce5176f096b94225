"""The fast path of a layer: its neurons as one operation, its spikes kept as bits.

Tensors between layers are (T, B, C, H, W), laid out channels-last in memory; the operators of :mod:`spikesparse.ops`
take the same memory as (T, B, H, W, C).
"""

from __future__ import annotations

import math
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from spikesparse.nn.counter import Packed, SpikeCounter
from spikesparse.nn.hooks import hooked
from spikesparse.nn.neurons import LIF
from spikesparse.nn.norm import normalization_of, update_statistics, why_not_folded
from spikesparse.nn.pooling import fold_time
from spikesparse.ops.bits import pack_bits
from spikesparse.ops.fire import Fired, fire
from spikesparse.ops.recompute import convolve_and_fire
from spikesparse.ops.weights import Convolution, spike_conv2d, spike_linear


class Layer(Protocol):
    """The attributes of a :class:`spikesparse.SpikingLayer` that this module reads."""

    recompute: bool
    shares_statistics: bool
    shape: tuple[int, ...]

    @property
    def weights(self) -> nn.Conv2d | nn.Linear: ...
    @property
    def norm(self) -> nn.BatchNorm1d | nn.BatchNorm2d | None: ...
    @property
    def neuron(self) -> nn.Module | None: ...
    @property
    def dropout(self) -> nn.Module | None: ...
    @property
    def pool(self) -> nn.Module | None: ...


def why_not_fused(layer: Layer) -> str | None:
    """Why norm and neurons of a layer cannot be one operation, if so."""
    neuron, norm = layer.neuron, layer.norm
    if not isinstance(neuron, LIF) or type(neuron).forward is not LIF.forward:
        return f"neuron is a {type(neuron).__name__}"
    for part in (layer.weights, norm, neuron, layer.dropout, layer.pool):
        if part is not None and hooked(part):
            return f"{type(part).__name__} has a hook, which is shown what passes it"
    return why_not_folded(norm) if norm is not None else None


def drops(layer: Layer) -> bool:
    """Whether its dropout is on; it can be on in evaluation, too (Gal & Ghahramani 2016)."""
    return layer.dropout is not None and layer.dropout.training


def fire_layer(layer: Layer, x: Tensor, timesteps: int, counter: SpikeCounter) -> tuple[Tensor, bool]:
    """Weights, norm, neurons, and if it can be the pool, with what they have to be counted for.

    Returns:
        Spikes (T, B, ...), and whether they have left the layer's pool.
    """
    neuron, norm, constant = layer.neuron, layer.norm, x.dim() == 4
    assert isinstance(neuron, LIF)
    pool = _pools_fused(layer, counter)
    dropped = drops(layer)
    neurons: dict[str, Any] = {
        "decay": neuron.decay,
        "threshold": neuron.threshold,
        "initial": neuron.initial_potential,
        "spec": neuron.spec,
        "timesteps": timesteps,
        "normalization": None if norm is None else normalization_of(norm, layer.shares_statistics),
        "pool": pool,
        "pack": torch.is_grad_enabled() and not dropped,
        "count": not counter.recording,
    }
    fired = _recomputed(layer, x, counter, neurons) if layer.recompute else None
    if fired is None:
        y = into_weights(layer.weights, x, counter)
        fired = fire(_channels_last(y[None] if constant else y), **neurons)
    if norm is not None and norm.training:
        values = timesteps * counter.shape[1] * math.prod(layer.shape[1:])
        update_statistics(norm, fired.moments, timesteps if constant else 1, values)
    spikes, bits = fired.spikes, fired.bits if neurons["pack"] else None
    events = fired.events if pool else fired.fired
    if isinstance(layer.weights, nn.Linear):
        spikes, bits, events = spikes.flatten(2), None if bits is None else bits.flatten(2), events.flatten()
    else:
        spikes = spikes.permute(0, 1, 4, 2, 3)
    if counter.recording:
        counter.neurons(spikes, neuron.unit)
    else:
        counter.neuron_events(spikes, neuron.unit, fired.fired, events, bits)
    return spikes, pool


def into_weights(weights: nn.Conv2d | nn.Linear, x: Tensor, counter: SpikeCounter) -> Tensor:
    """The weights' output of (T, B, ...), or of a constant (B, C, H, W) once. Spikes are kept as bits if they can."""
    packed = _packed(weights, x, counter)
    constant = x.dim() == 4
    if isinstance(weights, nn.Linear) and x.dim() > 3:
        x = x.flatten(1 if constant else 2)
    if packed is None:
        return weights(x) if constant else _fold_seen(weights, x, counter)
    bits, unit = packed
    steps_and_batch, dtype = x.shape[:2], _compute_dtype(x)
    x, weight = x.to(dtype), weights.weight.to(dtype)
    bias = weights.bias
    bias = None if bias is None else bias.to(dtype)
    if isinstance(weights, nn.Linear):
        if bits is None or bits.dim() > 3:  # packed in the order of the features
            bits = pack_bits(x)
        flat = spike_linear(x.flatten(0, 1), bits.flatten(0, 1), unit, weight, bias)
        return flat.view(*steps_and_batch, weights.out_features)  # an empty batch leaves no size to infer
    x = _channels_last(x)
    bits = pack_bits(x) if bits is None else bits
    y = spike_conv2d(x.flatten(0, 1), bits.flatten(0, 1), unit, weight, bias, _settings(weights))
    return y.view(*steps_and_batch, *y.shape[1:]).permute(0, 1, 4, 2, 3)


def _fold_seen(weights: nn.Module, x: Tensor, counter: SpikeCounter) -> Tensor:
    """:func:`fold_time`; what a hook in front of the weights puts in the place of their input is counted."""
    if not weights._forward_pre_hooks:
        return fold_time(weights, x)

    def see(module: nn.Module, args: tuple[Any, ...]) -> None:
        if args[0] is not folded:
            counter.enters(args[0])

    folded = x.flatten(0, 1)
    behind_all_others = weights.register_forward_pre_hook(see)
    try:
        y: Tensor = weights(folded)
    finally:
        behind_all_others.remove()
    return y.reshape(*x.shape[:2], *y.shape[1:])


def _packed(weights: nn.Conv2d | nn.Linear, x: Tensor, counter: SpikeCounter) -> Packed | None:
    kept = torch.is_grad_enabled() and _is_plain(weights) and _learns(weights)
    return counter.packed(x) if kept else None


def _is_plain(weights: nn.Module) -> bool:
    """Whether its forward is torch's own, on its weight, and it has no hooks."""
    return parametrize.type_before_parametrizations(weights) in (nn.Conv2d, nn.Linear) and not hooked(weights)


def _learns(weights: nn.Conv2d | nn.Linear) -> bool:
    if parametrize.is_parametrized(weights, "weight"):  # asked for its weight, spectral_norm would take another step
        return any(each.requires_grad for each in weights.get_submodule("parametrizations.weight").parameters())
    return weights.weight.requires_grad


def _recomputed(layer: Layer, x: Tensor, counter: SpikeCounter, neurons: dict[str, Any]) -> Fired | None:
    weights = layer.weights
    if not isinstance(weights, nn.Conv2d) or not _is_plain(weights):
        return None
    if weights.bias is not None or not torch.is_grad_enabled():
        return None
    dtype = _compute_dtype(x)
    packed = _packed(weights, x, counter)
    x = _channels_last(x[None] if x.dim() == 4 else x).to(dtype)
    bits, unit = (None, 1.0) if packed is None else (pack_bits(x) if packed.bits is None else packed.bits, packed.unit)
    return convolve_and_fire(x, bits, unit, weights.weight.to(dtype), _settings(weights), **neurons)


def _pools_fused(layer: Layer, counter: SpikeCounter) -> bool:
    pool = layer.pool
    if not isinstance(pool, nn.MaxPool2d) or counter.recording or drops(layer):
        return False
    plain = (pool.kernel_size, pool.stride, pool.padding, pool.dilation, pool.ceil_mode, pool.return_indices)
    return plain == (2, 2, 0, 1, False, False) and min(layer.shape[1:]) >= 2


def _channels_last(x: Tensor) -> Tensor:
    """(T, B, C, H, W) or (T, B, C) -> (T, B, H, W, C), contiguous."""
    return (x.permute(0, 1, 3, 4, 2) if x.dim() == 5 else x[:, :, None, None]).contiguous()


def _settings(conv: nn.Conv2d) -> Convolution:
    assert not isinstance(conv.padding, str)
    return Convolution(list(conv.stride), list(conv.padding), list(conv.dilation), conv.groups)


def _compute_dtype(x: Tensor) -> torch.dtype:
    """The dtype in which a convolution computes: autocast's, if it is on."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
