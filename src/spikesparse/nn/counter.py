"""Counting spikes and synaptic operations inside the forward pass, differentiably, keeping sums only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from spikesparse.nn.hooks import unit_kept
from spikesparse.nn.tally import LayerSizes, SpikeRecord, SpikeTally

RECORDS = ("neurons", "spikes", "steps")


def count_events(x: Tensor, unit: float | None = None, after_each: bool = False) -> Tensor:
    """Nonzeros of (T, B, C, ...) over time and channels: float64 (B, ...), exact.

    Args:
        x: spikes or what became of them.
        unit: promise that ``x`` holds zeros and this value only. A count is then x / unit, and its gradient 1 / unit
            everywhere: a neuron that was silent learns, too, what a spike would cost. Without the promise the count
            is that of the nonzeros, of either sign, and its gradient is that of |x| at whole numbers: the sign.
        after_each: give the counts up to each step, (T, B, ...), in place of those up to the last.
    """
    events: Tensor = _CountEvents.apply(x, unit, after_each)
    return events


class _CountEvents(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, unit: float | None, after_each: bool) -> Tensor:
        ctx.like, ctx.unit, ctx.after_each = (x.shape, x.dtype), unit, after_each
        if unit is None and ctx.needs_input_grad[0]:
            ctx.save_for_backward(x.sign().to(torch.int8))
        # Ones are summed over channels in float32 (exact below 2^24 of them, and several times faster than integers
        # on a CPU), then over time in float64: no dtype of x and no autocast rounds a count.
        assert x.shape[2] < 2**24
        ones = x.to(torch.float32) if unit == 1.0 else x.to(torch.float32, copy=True).ne_(0)
        per_step = ones.sum(2)
        return per_step.cumsum(0, dtype=torch.float64) if ctx.after_each else per_step.sum(0, dtype=torch.float64)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        shape, dtype = ctx.like
        # The same for every channel, and for every step but where a spike counts in its own and in all that follow.
        steps = grad.flip(0).cumsum(0).flip(0) if ctx.after_each else grad[None]
        each = steps.to(dtype)[:, :, None]
        if ctx.unit is None:
            return each * ctx.saved_tensors[0], None, None
        return (each / ctx.unit).expand(shape), None, None


class Packed(NamedTuple):
    """Spikes that a weight layer may keep as bits.

    Attributes:
        bits: uint8 (T, B, H, W, ceil(C / 8)) or (T, B, ceil(features / 8)); None if they are not packed yet.
        unit: the value of a spike.
    """

    bits: Tensor | None
    unit: float


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
        record: "neurons" or "spikes" to make a :class:`SpikeRecord` as well, "steps" for the bill after each step.

    Raises:
        ValueError: for another ``record``, or a network whose counts could pass 2**53: float64 is exact up to there.
    """

    def __init__(self, x: Tensor, layers: LayerSizes, timesteps: int, record: str | None = None) -> None:
        if record is not None and record not in RECORDS:
            raise ValueError(f"record={record!r}: None, {' or '.join(map(repr, RECORDS))} is needed")
        if x.is_meta:
            raise ValueError("the network is on the meta device, where there are no values: no spike can be counted")
        self._layers, self._timesteps, self._record = layers, timesteps, record
        self._after_each, self._keeps_neurons = record == "steps", record in ("neurons", "spikes")
        self._spikes: list[Tensor] = []
        self._pooling: list[Tensor] = []
        self._synops: list[Tensor] = []
        self._per_neuron: list[Tensor] = []  # of each hidden layer, if a record is kept; so are the next two
        self._trains: list[Tensor] = []
        self._nonzero: list[tuple[Tensor, Tensor]] = []  # of each weight layer: synapses, operations
        self._first = next(iter(layers.synapses.values()))
        constant = x.dim() == 4
        batch = x.shape[0] if constant else x.shape[1]
        if (most := max(layers.synapses.values()) * timesteps * (batch if record else 1)) >= 2**53:
            raise ValueError(f"up to {most:,} synaptic operations in a layer: beyond 2**53 no count is exact")
        # All that is counted has this shape: (B,), or (T, B) where the bill after each step is asked for.
        shape = (timesteps, batch) if self._after_each else (batch,)
        self._nothing = torch.zeros(shape, dtype=torch.float64, device=x.device)
        if constant:
            self._spiking = None
            self._macs, self._input_spikes = self._nothing + self._first, self._nothing
            self._entering, self._events = None, None
        else:
            # Decided per sample and on the device: values in {-1, 0, 1} are spikes, anything else is a current.
            spiking = ((x == 0) | (x.abs() == 1)).flatten(2).all(2)
            steps: Tensor | int = timesteps
            if self._after_each:  # by the steps so far
                self._spiking = spiking.to(torch.float64).cumprod(0)
                steps = torch.arange(1, timesteps + 1, device=x.device)[:, None]
            else:
                self._spiking = spiking.all(0).to(torch.float64)
            self._macs = (1.0 - self._spiking) * (self._first * steps)
            self._entering, self._events = x, count_events(x, after_each=self._after_each)
            self._input_spikes = self._total(self._events) * self._spiking
        self._unit: float | None = None
        self._bits: Tensor | None = None
        self._averaged = False
        self.shape = (timesteps, batch)
        self._entering_per_neuron: Tensor | None = None

    def weights(self, fanout: Tensor, nonzero_fanout: Callable[[], Tensor] | None = None) -> None:
        """The tensor last shown enters a weight layer.

        Args:
            fanout: int64, (H, W) or a scalar: synapses that one event drives at its position.
            nonzero_fanout: gives the same over the synapses of nonzero weight alone, for each input neuron: whole
                numbers in float64, (C, H, W) or (features,). It is asked when a record is; None leaves them out.
        """
        first = not self._synops
        if self._keeps_neurons and nonzero_fanout is not None:
            self._record_nonzero(nonzero_fanout(), first)
        if self._entering is None:
            self._synops.append(self._nothing)
            return
        if self._events is None:
            self._events = count_events(self._entering, self._unit, self._after_each)
        synops = self._total(self._events * fanout)
        if first and self._spiking is not None:
            synops = synops * self._spiking
        self._synops.append(synops)

    def neurons(self, spikes: Tensor, unit: float | None = None) -> None:
        """Output (T, B, ...) of a hidden neuron layer; ``unit`` as in :func:`count_events`."""
        self._spikes.append(self._count(spikes, unit))
        if self._keeps_neurons:
            self._per_neuron.append(self._events_per_neuron())
        if self._record == "spikes":
            self._trains.append(spikes.detach())

    def neuron_events(self, x: Tensor, unit: float, fired: Tensor, events: Tensor, bits: Tensor | None) -> None:
        """:meth:`neurons`, and :meth:`changed` where a pool follows, for spikes that were counted as they were made.

        Args:
            x: what travels on, (T, B, ...).
            unit: as in :func:`count_events`.
            fired: float64 (B, ...): spikes of the neurons, over whatever places; differentiable.
            events: float64 (B, H, W) or (B,): spikes in ``x`` over time and channels; differentiable.
            bits: ``x`` as :class:`Packed` has it, or None.
        """
        self._spikes.append(self._total(fired))
        self.changed(x, unit)
        self._events, self._bits = events, bits

    def enters(self, x: Tensor) -> None:
        """``x``, of any shape, enters the next layer: if a hook has put it where the tensor last shown was, it counts.

        Behind a plain average pool nothing changes: what was shown in front of it still counts.
        """
        shown = self._entering
        if shown is None or x is shown or self._averaged or x.numel() != shown.numel():
            return
        x = x.reshape(shown.shape)
        self.changed(x, unit_kept(x, self._unit))

    def packed(self, x: Tensor) -> Packed | None:
        """``x``, as it may be kept: if it is the tensor last shown and all its spikes have one value."""
        return Packed(self._bits, self._unit) if x is self._entering and self._unit is not None else None

    @property
    def device(self) -> torch.device:
        """Where is counted."""
        return self._nothing.device

    @property
    def recording(self) -> bool:
        """Is anything asked for beside the sums?"""
        return self._record is not None

    def pooling_neurons(self, spikes: Tensor, unit: float | None = None) -> None:
        """Output (T, B, ...) of a layer of pooling neurons; ``unit`` as in :func:`count_events`."""
        self._pooling.append(self._count(spikes, unit))

    def averaged(self) -> None:
        """The tensor last shown goes through a plain average pool, whose output may well have the same size."""
        self._averaged = True

    def changed(self, x: Tensor, unit: float | None = None) -> None:
        """``x`` (T, B, ...) travels on instead of the tensor last shown; ``unit`` as in :func:`count_events`."""
        self._averaged = False
        self._entering, self._events, self._unit, self._bits, self._entering_per_neuron = x, None, unit, None, None

    def tally(self) -> SpikeTally:
        """The bill."""
        pooling = torch.stack(self._pooling) if self._pooling else self._nothing.new_zeros(0, *self._nothing.shape)
        counts = (torch.stack(self._spikes), torch.stack(self._synops), self._macs, self._input_spikes, pooling)
        if not self._after_each:
            return SpikeTally(self._layers, self._timesteps, *counts, self._make_record() if self._record else None)
        after = []
        for t in range(self._timesteps):
            spikes, synops, macs, input_spikes, pooling = (each.select(-2, t) for each in counts)
            after.append(SpikeTally(self._layers, t + 1, spikes, synops, macs, input_spikes, pooling))
        return replace(after[-1], after=tuple(after))

    def _count(self, spikes: Tensor, unit: float | None) -> Tensor:
        self.changed(spikes, unit)
        self._events = count_events(spikes, unit, self._after_each)
        return self._total(self._events)

    def _total(self, events: Tensor) -> Tensor:
        """Sum over all places of an image."""
        places = self._nothing.dim()
        return events.flatten(places).sum(places) if events.dim() > places else events

    def _record_nonzero(self, fanout: Tensor, first: bool) -> None:
        """Synapses and operations over nonzero weights, of the whole batch."""
        synapses = fanout.sum()
        if self._entering is None:
            operations = synapses.new_zeros(())
        else:
            if first and self._spiking is not None:  # what is no spike costs no synaptic operation
                analog = (self._spiking == 0).view(-1, *[1] * (self._entering.dim() - 2))
                self.changed(self._entering.masked_fill(analog, 0))
            operations = (self._events_per_neuron().view_as(fanout) * fanout).sum()
        self._nonzero.append((synapses, operations))

    def _events_per_neuron(self) -> Tensor:
        """Events of the tensor last shown, of each neuron over time and batch: float64 (...), exact."""
        assert self._entering is not None
        if self._entering_per_neuron is None:
            x = self._entering.detach().flatten(0, 1)
            assert len(x) < 2**24  # float32 adds up as many ones
            ones = x.to(torch.float32) if self._unit == 1.0 else x.ne(0).to(torch.float32)
            self._entering_per_neuron = ones.sum(0).to(torch.float64)
        return self._entering_per_neuron

    def _make_record(self) -> SpikeRecord:
        names = list(self._layers.neurons)
        synapses = synops = macs = None
        if self._nonzero:
            synapses, synops = (torch.stack(column).to(torch.int64) for column in zip(*self._nonzero, strict=True))
            analog = self._nothing + 1.0 if self._spiking is None else (1.0 - self._spiking) * self._timesteps
            macs = synapses[0] * analog.sum().to(torch.int64)
        return SpikeRecord(
            {name: events.to(torch.int64) for name, events in zip(names, self._per_neuron, strict=True)},
            synapses,
            synops,
            macs,
            dict(zip(names, self._trains, strict=bool(self._trains))),
        )
