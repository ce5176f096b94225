"""One layer of a spiking network: weights, normalisation, neurons, dropout, pooling."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spikesparse.errors import UserError
from spikesparse.nn.counter import SpikeCounter
from spikesparse.nn.fanout import Incoming
from spikesparse.nn.fast import drops, fire_layer, into_weights, why_not_fused
from spikesparse.nn.hooks import unit_behind
from spikesparse.nn.norm import normalize
from spikesparse.nn.pooling import SpikingAvgPool2d, fold_time
from spikesparse.ops.backends import say_once
from spikesparse.own import path_of


class TimeSharedDropout(nn.Module):
    """Dropout with one mask per sample for all time steps, on (T, B, ...). Lee et al. 2020."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """Same shape; the identity in evaluation."""
        return x * F.dropout(torch.ones(x.shape[1:], dtype=x.dtype, device=x.device), self.p) if self.training else x

    def extra_repr(self) -> str:
        return f"p={self.p}"


class SpikingLayer(nn.Module):
    """Weights, normalisation, neurons, dropout and pooling; without a neuron, the weights alone (a classifier).

    Args:
        weights: convolution (zero padding) or linear layer.
        norm: BatchNorm, or None.
        neuron: spiking neurons, or None. Its attribute ``unit``, if it has one, is the only value besides zero that
            its spikes take: :class:`LIF` has 1. A neuron without it may put out spikes of either sign.
        dropout: probability of dropping a neuron for the whole of a sample.
        pool: pooling behind the neurons: ``nn.MaxPool2d``, ``nn.AvgPool2d`` (plain), :class:`SpikingAvgPool2d` or None.

    Raises:
        ValueError: for another kind of pool, whose events could not be counted.
    """

    fanout: Tensor

    def __init__(
        self,
        weights: nn.Conv2d | nn.Linear,
        norm: nn.BatchNorm1d | nn.BatchNorm2d | None = None,
        neuron: nn.Module | None = None,
        dropout: float = 0.0,
        pool: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if not (pool is None or isinstance(pool, (nn.MaxPool2d, nn.AvgPool2d, SpikingAvgPool2d))):
            raise ValueError(
                f"{pool} is none of the pools whose events are counted: MaxPool2d, AvgPool2d, SpikingAvgPool2d"
            )
        self.weights, self.norm, self.neuron, self.pool = weights, norm, neuron, pool
        self.dropout = TimeSharedDropout(dropout) if dropout else None
        self.unit: float | None = getattr(neuron, "unit", None)
        self.recompute = False  # these two are set by others: the network, and a strategy for several processes
        self.shares_statistics = False

    def connect(self, incoming: Incoming) -> None:
        """Tell the layer what reaches it, once the network is put together.

        Raises:
            ValueError: if its weights do not take that shape.
        """
        self.incoming, self.shape = incoming, incoming.after(self.weights).shape
        # No buffer: weight averaging (EMA, SWA) averages those, and to_empty() leaves nothing of them. What the
        # architecture gives is neither learned nor measured. int64, so that no .to(dtype) rounds it.
        self.fanout = incoming.fanout(self.weights)
        self._take_fanout_to(self.weights.weight.device)

    def forward(self, x: Tensor, timesteps: int, counter: SpikeCounter) -> Tensor:
        """(T, B, ...) -> (T, B, ...); a constant (B, C, H, W) goes through weights and norm once, not T times."""
        self._check_weights()
        counter.enters(x)
        if self.neuron is None:
            y = into_weights(self.weights, x, counter)
            y = y if self.norm is None else fold_time(self.norm, y)
            self._count_into_weights(counter)
            return y
        if why_not := why_not_fused(self):
            say_once(f"{why_not}: such a layer runs part by part, slower and with more memory kept.")
            x = self._fire_apart(x, timesteps, counter)
            self._count_into_weights(counter)
            counter.neurons(x, unit_behind(x, self.unit, self.neuron))
            pooled = False
        else:
            self._count_into_weights(counter)
            x, pooled = fire_layer(self, x, timesteps, counter)
        return x if pooled else self._drop_and_pool(x, counter)

    def _count_into_weights(self, counter: SpikeCounter) -> None:
        """Count what has entered the weights; by now hooks, such as those of pruning, have made the weights."""
        # The fan-out is there already, but for what copies parameters alone to a device, as torch.nn.DataParallel does.
        counter.weights(self.fanout.to(counter.device), self._nonzero_fanout)

    def _check_weights(self) -> None:
        if not isinstance(self.weights, (nn.Conv2d, nn.Linear)):  # quantize_dynamic() puts others in their place
            raise UserError(
                f"the weights of a spiking layer are a {type(self.weights).__name__}: only torch.nn.Conv2d and "
                "torch.nn.Linear are counted, not quantised ones."
            )

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> SpikingLayer:
        """Move, with the fan-out."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if hasattr(self, "fanout"):
            self._take_fanout_to(fn(self.fanout.new_zeros(1)).device)
        return self

    def _take_fanout_to(self, device: torch.device) -> None:
        if device.type != "meta":  # from there it could not come back
            self.fanout = self.fanout.to(device)

    def _fire_apart(self, x: Tensor, timesteps: int, counter: SpikeCounter) -> Tensor:
        """Weights, norm and neurons as the modules that they are."""
        assert self.neuron is not None
        constant = x.dim() == 4
        y = into_weights(self.weights, x, counter)
        if self.norm is not None:
            flat = y if constant else y.flatten(0, 1)
            flat = normalize(self.norm, flat, timesteps if constant else 1, self.shares_statistics)
            y = flat.view_as(y)
        expected = (timesteps, *y.shape) if constant else tuple(y.shape)
        spikes: Tensor = self.neuron(y, timesteps if constant else None)
        if tuple(spikes.shape) != expected:
            raise UserError(
                f"--model.net.neuron={path_of(self.neuron)}: its forward returned the shape {tuple(spikes.shape)}; "
                f"(T, B, ...) is needed, here {expected}; see docs/own_neuron.md."
            )
        return spikes

    def _drop_and_pool(self, x: Tensor, counter: SpikeCounter) -> Tensor:
        unit = unit_behind(x, self.unit, self.neuron)
        if self.dropout is not None:
            shown, x = x, self.dropout(x)
            if drops(self):
                unit = None if unit is None else unit / (1.0 - self.dropout.p)
            if x is not shown:
                unit = unit_behind(x, unit, self.dropout)
                counter.changed(x, unit)
        if isinstance(self.pool, SpikingAvgPool2d):
            x = self.pool(x)
            counter.pooling_neurons(x, unit_behind(x, self.pool.neuron.unit, self.pool, self.pool.neuron))
        elif self.pool is not None:
            x = fold_time(self.pool, x)
            if isinstance(self.pool, nn.AvgPool2d):  # the next layer's fan-out reaches back through it
                counter.averaged()
            else:
                counter.changed(x, unit_behind(x, unit, self.pool))
        return x

    @torch.no_grad()
    def _nonzero_fanout(self) -> Tensor:
        """Fan-out over nonzero weights; a BatchNorm channel scaled by zero folds into weights of zero."""
        connected = self.weights.weight != 0
        if self.norm is not None and self.norm.affine:
            connected = connected & (self.norm.weight != 0).view(-1, *[1] * (connected.dim() - 1))
        return self.incoming.nonzero_fanout(self.weights, connected)
