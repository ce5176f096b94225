"""Networks that count as they run: the base class, and a stack of layers."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from spikesparse.errors import ArgumentError, UserError, choose, path_of
from spikesparse.nn.contract import Contract
from spikesparse.nn.counter import SpikeCounter
from spikesparse.nn.fanout import Incoming
from spikesparse.nn.layer import SpikingLayer
from spikesparse.nn.pooling import SpikingAvgPool2d
from spikesparse.nn.tally import LayerSizes, SpikingOutput

READOUTS = ("mean", "leaky")


class SpikingNetwork(Contract):
    """What a network must do: ``forward`` returns a :class:`SpikingOutput`. Any module that does so is one.

    To be built by the command line, its class takes ``num_classes``, ``input_shape`` (C, H, W) and ``timesteps``
    among its arguments: the data module fills them in.
    """

    def forward(self, x: Tensor, record: str | None = None, timesteps: int | None = None) -> SpikingOutput:
        """Input (T, B, C, H, W), or a constant current (B, C, H, W) -> logits and spike tally.

        Args:
            x: the input.
            record: "neurons" asks for spikes per neuron and operations over nonzero weights, "spikes" for the spikes
                themselves as well (``tally.record``), "steps" for the bill after each step (``tally.after``).
                Evaluation asks for it, training never does.
            timesteps: T of a constant current, in place of the network's own. Early exit asks for it.
        """
        raise NotImplementedError


def takes(net: nn.Module, argument: str) -> bool:
    """Whether a network's forward has an argument of that name: ``record`` and ``timesteps`` may be left out."""
    return argument in inspect.signature(net.forward).parameters


def output_of(net: Callable[..., Any], *args: Any, **kwargs: Any) -> SpikingOutput:
    """What ``net`` makes of an input.

    Raises:
        UserError: if that is no :class:`SpikingOutput` with a row of logits per image.
    """
    output = net(*args, **kwargs)
    if not isinstance(output, SpikingOutput):
        raise UserError(
            f"`net={path_of(net)}`: its forward returned {type(output).__name__!r}; "
            "spikesparse.SpikingOutput(logits, tally) is needed; see docs/own_network.md."
        )
    if output.logits.dim() != 2 or len(output.logits) != output.tally.batch_size:
        raise UserError(
            f"`net={path_of(net)}`: its logits have the shape {tuple(output.logits.shape)}; (images, classes) is "
            f"needed, here ({output.tally.batch_size}, classes)."
        )
    return output


class SpikingStack(SpikingNetwork):
    """Layers one behind the other, each with its exact fan-out; the last is the classifier.

    Args:
        layers: name -> layer. All but the last have neurons.
        input_shape: (C, H, W) of an image.
        timesteps: T of a constant (4-D) input. A 5-D input brings its own T.
        readout: "mean" over T of the classifier's output; or "leaky": Lee et al. 2020's accumulator, which leaks and
            never fires; its last potential is divided by (threshold * T).
        decay: of the leaky readout.
        threshold: of the leaky readout.
        recompute: in training, keep no convolution's output for the backward pass but convolve once more: about a tenth
            of the memory, for a third more work in convolutions.

    Raises:
        ValueError: if a layer does not take the shape that reaches it, or has neurons where none belong, or if there
            are none at all.

    Example:
        >>> from spikesparse import LIF
        >>> net = SpikingStack(
        ...     {
        ...         "conv1": SpikingLayer(nn.Conv2d(3, 8, 5, stride=2), neuron=LIF(), pool=nn.MaxPool2d(2)),
        ...         "classifier": SpikingLayer(nn.Linear(8 * 7 * 7, 10)),
        ...     },
        ...     input_shape=(3, 32, 32),
        ... )
        >>> net.sizes.synapses
        {'conv1': 117600, 'classifier': 3920}
    """

    def __init__(
        self,
        layers: dict[str, SpikingLayer],
        input_shape: tuple[int, int, int],
        timesteps: int = 4,
        readout: str = "mean",
        decay: float = 0.5,
        threshold: float = 1.0,
        recompute: bool = False,
    ) -> None:
        super().__init__()
        self.readout = choose("readout", readout, READOUTS, "readout")
        if not isinstance(timesteps, int) or isinstance(timesteps, bool) or timesteps < 1:
            raise ArgumentError("timesteps", repr(timesteps), "it must be a whole number, at least 1; 4 is usual.")
        self.timesteps, self.input_shape = timesteps, tuple(input_shape)
        self.decay, self.threshold = decay, threshold
        neurons: dict[str, int] = {}
        synapses: dict[str, int] = {}
        pooling_neurons: dict[str, int] = {}
        ann_macs: dict[str, int] = {}
        incoming = Incoming(self.input_shape)
        if len(layers) < 2:
            raise ValueError("a spiking network needs a layer with neurons in front of its classifier")
        for name, layer in layers.items():
            if (layer.neuron is None) != (name == list(layers)[-1]):
                raise ValueError(f"layer {name}: all layers but the last have neurons")
            layer.connect(incoming)
            layer.recompute = recompute
            synapses[name] = incoming.shape[0] * int(layer.fanout.sum())
            ann_macs[name] = incoming.connections(layer.weights)
            incoming = incoming.after(layer.weights)
            if layer.neuron is not None:
                neurons[name] = incoming.features
            incoming = incoming.after(layer.pool)
            if isinstance(layer.pool, SpikingAvgPool2d):
                pooling_neurons[f"pool{1 + len(pooling_neurons)}"] = incoming.features
        self.layers = nn.ModuleDict(layers)
        self.sizes = LayerSizes(neurons, synapses, pooling_neurons, ann_macs)

    def forward(self, x: Tensor, record: str | None = None, timesteps: int | None = None) -> SpikingOutput:
        """Logits and tally of spikes or currents per step (T, B, C, H, W), or of a constant current (B, C, H, W)."""
        if x.dim() not in (4, 5) or tuple(x.shape[-3:]) != self.input_shape:
            raise ValueError(
                f"this network reads (T, B, {', '.join(map(str, self.input_shape))}), or (B, ...) as a constant "
                f"current, not {tuple(x.shape)}"
            )
        if not x.is_floating_point():
            raise ArgumentError(
                "x", x.dtype, "it must be floating-point; pixels: x.float() / 255, normalised as in training."
            )
        timesteps = x.shape[0] if x.dim() == 5 else timesteps or self.timesteps
        if x.dim() == 4:
            x = x.contiguous(memory_format=torch.channels_last)  # and so all that follows
        counter = SpikeCounter(x, self.sizes, timesteps, record)
        for layer in self.layers.values():
            x = layer(x, timesteps, counter)
        step_logits = self._read_out(x)
        return SpikingOutput(step_logits[-1], counter.tally(), step_logits)

    def _read_out(self, x: Tensor) -> Tensor:
        """The classifier's output in each step -> logits after each step; both (T, B, classes), in float32 (or 64)."""
        x = x if x.dtype == torch.float64 else x.float()
        decay, unit = (1.0, 1.0) if self.readout == "mean" else (self.decay, self.threshold)
        potential, after_each = torch.zeros_like(x[0]), []
        for step, current in enumerate(x, 1):
            potential = decay * potential + current
            after_each.append(potential / (unit * step))
        return torch.stack(after_each)
