"""What a network returns: logits, and the bill of the spikes and synaptic operations that they took."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from torch import Tensor


@dataclass(frozen=True)
class LayerSizes:
    """What is fixed about a network's layers; every size is per image.

    Attributes:
        neurons: hidden neuron layers, name -> neurons.
        synapses: weight layers, name -> dense synapses (connections that one step of all-ones input would drive; behind
            a plain average pool, from each neuron in front of it through every window that it falls in).
        pooling_neurons: spiking pooling layers, name -> neurons.
        ann_macs: weight layers, name -> multiply-accumulates of the same layer in a network that does not spike: its
            own connections. They are its ``synapses``, unless a plain average pool stands before it.
    """

    neurons: dict[str, int]
    synapses: dict[str, int]
    pooling_neurons: dict[str, int] = field(default_factory=dict)
    ann_macs: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "ann_macs", self.ann_macs or dict(self.synapses))


@dataclass(frozen=True)
class SpikeRecord:
    """What is kept of a batch only if it is asked for; never in training.

    Attributes:
        neurons: hidden neuron layers, name -> spikes of each neuron over all steps and images: int64 (C, H, W) or
            (features,).
        nonzero_synapses: int64 (weight layers,): the dense synapses whose weight is not zero. None, like the next
            two, from a network that does not say which these are.
        nonzero_synops: int64 (weight layers,): synaptic operations over those alone, of the whole batch.
        nonzero_macs: int64 scalar: the first layer's multiply-accumulates over those alone, of the whole batch.
        spikes: with ``record="spikes"``, hidden neuron layers, name -> the spikes (T, B, ...) themselves; else empty.
    """

    neurons: dict[str, Tensor]
    nonzero_synapses: Tensor | None
    nonzero_synops: Tensor | None
    nonzero_macs: Tensor | None
    spikes: dict[str, Tensor]


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
        record: what was asked for beside these sums, or None.
        after: with ``record="steps"``, the bills after 1, 2, ..., T steps, had the network stopped there; else empty.
    """

    layers: LayerSizes
    timesteps: int
    spikes: Tensor
    synops: Tensor
    macs: Tensor
    input_spikes: Tensor
    pooling_spikes: Tensor
    record: SpikeRecord | None = None
    after: tuple[SpikeTally, ...] = ()

    @property
    def batch_size(self) -> int:
        """Images counted."""
        return self.spikes.shape[1]

    def __repr__(self) -> str:
        spikes, synops = (self._per_image(counts) for counts in (self.spikes, self.synops))
        return (
            f"SpikeTally(images={self.batch_size}, T={self.timesteps}, layers={list(self.layers.neurons)}, "
            f"spikes/image={spikes}, SynOps/image={synops})"
        )

    def _per_image(self, counts: Tensor) -> str:
        return "?" if counts.is_meta else f"{float(counts.detach().sum()) / max(1, self.batch_size):.1f}"

    def detach(self) -> SpikeTally:
        """The same counts without their graph."""
        counts = {name: getattr(self, name).detach() for name in _COUNTS}
        return replace(self, after=tuple(each.detach() for each in self.after), **counts)

    def of(self, images: Tensor) -> SpikeTally:
        """The bill of some of the images, by a mask or by their places; without what was recorded."""
        return replace(self, record=None, after=(), **{name: getattr(self, name)[..., images] for name in _COUNTS})


_COUNTS = ("spikes", "synops", "macs", "input_spikes", "pooling_spikes")


@dataclass(frozen=True)
class SpikingOutput:
    """What a spiking network returns.

    Attributes:
        logits: (B, classes).
        tally: the spike bill of the batch.
        step_logits: (T, B, classes): the logits had the network stopped after 1, 2, ..., T steps; the last are
            ``logits``. None from a network that does not say. A loss of each step and early exit need them.
    """

    logits: Tensor
    tally: SpikeTally
    step_logits: Tensor | None = None

    def __repr__(self) -> str:
        return f"SpikingOutput(logits={tuple(self.logits.shape)} {self.logits.dtype}, tally={self.tally!r})"


def checked_tally(tally: object) -> SpikeTally:
    """What counts are read from, if it is that.

    Raises:
        ValueError: for anything else, such as the output that has it.
    """
    if isinstance(tally, SpikingOutput):
        raise ValueError("a SpikeTally is needed, not a SpikingOutput: hand on output.tally")
    if not isinstance(tally, SpikeTally):
        raise ValueError(f"a SpikeTally is needed, not {type(tally).__name__}: it is the tally of a SpikingOutput")
    return tally
