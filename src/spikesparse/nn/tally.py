"""Counting spikes and synaptic operations inside the forward pass, differentiably, keeping sums only."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class LayerSizes:
    """What is fixed about a network's layers; every size is per image.

    Attributes:
        neurons: hidden neuron layers, name -> neurons.
        synapses: weight layers, name -> dense synapses (connections that one step of all-ones input would drive).
        pooling_neurons: spiking pooling layers, name -> neurons.
    """

    neurons: dict[str, int]
    synapses: dict[str, int]
    pooling_neurons: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class SpikeTally:
    """The spike bill of a batch, per sample. Counts are whole numbers in float64 and differentiable.

    Attributes:
        layers: the static sizes.
        timesteps: T.
        spikes: (hidden neuron layers, B): nonzero outputs over all neurons and steps.
        synops: (weight layers, B): nonzeros entering the layer, each times its exact fan-out. The first layer's row
            is zero for an analog input, whose work is in ``macs``.
        macs: (B,): the first layer's multiply-accumulates under analog input: once if the current is constant, else
            in every step; 0 for spiking input.
        input_spikes: (B,): nonzeros of a spiking input; 0 for an analog one.
        pooling_spikes: (spiking pooling layers, B).
    """

    layers: LayerSizes
    timesteps: int
    spikes: Tensor
    synops: Tensor
    macs: Tensor
    input_spikes: Tensor
    pooling_spikes: Tensor

    @property
    def batch_size(self) -> int:
        """Images counted."""
        return self.spikes.shape[1]

    def detach(self) -> SpikeTally:
        """The same counts without their graph."""
        names = ("spikes", "synops", "macs", "input_spikes", "pooling_spikes")
        return replace(self, **{name: getattr(self, name).detach() for name in names})


@dataclass(frozen=True)
class SpikingOutput:
    """What a spiking network returns.

    Attributes:
        logits: (B, classes).
        tally: the spike bill of the batch.
    """

    logits: Tensor
    tally: SpikeTally


def count_events(x: Tensor, binary: bool = False) -> Tensor:
    """Nonzeros of (T, B, C, ...) over time and channels: float64 (B, ...), exact.

    The gradient of a count with respect to each value is 1, as it is for spikes in {0, 1}.

    Args:
        x: spikes or what became of them.
        binary: promise that ``x`` holds zeros and ones only: its sum is then the count, without a look at each value.
    """
    events: Tensor = _CountEvents.apply(x, binary)
    return events


class _CountEvents(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, binary: bool) -> Tensor:
        ctx.like = (x.shape, x.dtype)
        # Ones are summed over channels in float32 (exact below 2^24 of them, and several times faster than integers
        # on a CPU), then over time in float64: no dtype of x and no autocast rounds a count.
        assert x.shape[2] < 2**24
        ones = x.to(torch.float32) if binary else x.to(torch.float32, copy=True).ne_(0)
        return ones.sum(2).sum(0, dtype=torch.float64)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        shape, dtype = ctx.like
        return grad.to(dtype)[None, :, None].expand(shape), None  # the same for every step and channel


class SpikeCounter:
    """Follows one forward pass and makes its :class:`SpikeTally`.

    A network calls, in the order of its layers: :meth:`weights` before each weight layer, with that layer's fan-out
    at the positions of the tensor last shown; :meth:`neurons` or :meth:`pooling_neurons` with each spiking layer's
    output; and :meth:`changed` where the values that travel on are no longer those (max pooling, dropout). A plain
    average pool is not shown: the fan-out of the layer behind it already stands for it.

    Args:
        x: the network's input: (T, B, C, H, W), or a constant analog (B, C, H, W).
        layers: the network's static sizes.
        timesteps: T.
    """

    def __init__(self, x: Tensor, layers: LayerSizes, timesteps: int) -> None:
        constant = x.dim() == 4
        self._layers, self._timesteps = layers, timesteps
        self._spikes: list[Tensor] = []
        self._pooling: list[Tensor] = []
        self._synops: list[Tensor] = []
        first = next(iter(layers.synapses.values()))
        batch = x.shape[0] if constant else x.shape[1]
        nothing = torch.zeros(batch, dtype=torch.float64, device=x.device)
        if constant:
            self._spiking = None
            self._macs, self._input_spikes = nothing + first, nothing
            self._entering, self._events = None, None
        else:
            # Decided per sample and on the device: values in {-1, 0, 1} are spikes, anything else is a current.
            spiking = ((x == 0) | (x.abs() == 1)).flatten(2).all(2).all(0)
            self._spiking = spiking.to(torch.float64)
            self._macs = (1.0 - self._spiking) * (first * timesteps)
            self._entering, self._events = x, count_events(x)
            self._input_spikes = self._events.flatten(1).sum(1) * self._spiking
        self._nothing, self._binary = nothing, False

    def weights(self, fanout: Tensor) -> None:
        """The tensor last shown enters a weight layer; ``fanout``: int64, (H, W) or a scalar."""
        if self._entering is None:
            self._synops.append(self._nothing)
            return
        if self._events is None:
            self._events = count_events(self._entering, self._binary)
        synops = (self._events * fanout).flatten(1).sum(1) if self._events.dim() > 1 else self._events * fanout
        if not self._synops and self._spiking is not None:
            synops = synops * self._spiking
        self._synops.append(synops)

    def neurons(self, spikes: Tensor, binary: bool = False) -> None:
        """Output (T, B, ...) of a hidden neuron layer; ``binary`` promises zeros and ones only, which count faster."""
        self._spikes.append(self._count(spikes, binary))

    def pooling_neurons(self, spikes: Tensor, binary: bool = False) -> None:
        """Output (T, B, ...) of a layer of pooling neurons; ``binary`` as in :meth:`neurons`."""
        self._pooling.append(self._count(spikes, binary))

    def changed(self, x: Tensor, binary: bool = False) -> None:
        """``x`` (T, B, ...) travels on instead of the tensor last shown; ``binary`` as in :meth:`neurons`."""
        self._entering, self._events, self._binary = x, None, binary

    def tally(self) -> SpikeTally:
        """The bill."""
        pooling = torch.stack(self._pooling) if self._pooling else self._nothing.new_zeros(0, len(self._nothing))
        return SpikeTally(
            self._layers,
            self._timesteps,
            torch.stack(self._spikes),
            torch.stack(self._synops),
            self._macs,
            self._input_spikes,
            pooling,
        )

    def _count(self, spikes: Tensor, binary: bool) -> Tensor:
        self._entering, self._events = spikes, count_events(spikes, binary)
        return self._events.flatten(1).sum(1) if self._events.dim() > 1 else self._events
