"""Spiking VGG networks."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from torch import nn

from spikesparse.errors import ArgumentError, UserError, choose, path_of
from spikesparse.nn.architecture import parse_architecture
from spikesparse.nn.initialization import INITIALIZATIONS
from spikesparse.nn.layer import SpikingLayer
from spikesparse.nn.network import READOUTS, SpikingStack
from spikesparse.nn.neurons import LIF, SpikingNeuron
from spikesparse.nn.pooling import POOLINGS, SpikingAvgPool2d
from spikesparse.nn.vgg_layers import Parts, build_layers
from spikesparse.ops.surrogate import surrogate as make_surrogate

NORMS = ("batch", "none")


class SpikingVGG(SpikingStack):
    """A VGG of spiking neurons: 3x3 convolutions, pools, fully connected layers and a linear classifier.

    Hidden layers have no bias: BatchNorm has one, and the recipes without BatchNorm use none.

    Args:
        architecture: "vgg7", "vgg9", "vgg16", or layers such as "16-16-P-32-F64" (3x3 convolutions of 16 channels, P
            halves the image, F64 is fully connected; the classifier is not listed), also as a list.
        width: multiplies every layer's channels.
        num_classes: outputs; the data module fills it in.
        timesteps: T of a constant (4-D) input; the data module fills it in. A 5-D input brings its own T.
        input_shape: (C, H, W) of an image; the data module fills it in.
        decay: membrane decay per step in (0, 1]; 1 is integrate-and-fire.
        threshold: firing threshold.
        reset: "hard" or "soft".
        detach_reset: no gradient through the reset.
        learn_decay: train one decay per layer.
        learn_threshold: train one threshold per layer.
        initial_potential: of the membranes before the first step; above 0, early steps make more spikes.
        learn_initial_potential: train one initial potential per layer.
        surrogate: "atan", "sigmoid", "fast_sigmoid", "triangle", "rectangle" or "lee2020".
        surrogate_slope: None takes the surrogate's own.
        norm: "batch" (BatchNorm over T * B) or "none".
        initialization: without BatchNorm, "firing" (weights that keep every layer firing) or "he" (variance 2 / fan-in,
            Lee et al. 2020); with it, torch's own is taken, whose scale BatchNorm undoes.
        pooling: "max", "average" (plain), "spiking_average" (Lee 2020) or "strided" (the convolution before each P
            gets stride 2; Springenberg et al. 2015, arXiv 1412.6806).
        dropout: probability, behind every hidden neuron layer; one mask per sample for all T.
        readout: "mean" over T of the classifier's output; or "leaky": Lee's accumulator, which leaks by
            ``decay`` and never fires; its last potential is divided by (threshold * T).
        classifier_bias: give the classifier a bias.
        recompute: in training, keep no convolution's output for the backward pass but convolve once more: about a tenth
            of the memory, for a third more work in convolutions.
        neuron: makes each layer's neurons, in place of :class:`LIF`: a class, such as one of your own. It takes none of
            the settings above.

    Raises:
        UserError: naming the setting, for any that cannot be built.

    Example:
        >>> import torch
        >>> net = SpikingVGG("4-P-8", input_shape=(3, 8, 8), timesteps=2)
        >>> output = net(torch.rand(5, 3, 8, 8))
        >>> output.logits.shape, output.tally.spikes.shape
        (torch.Size([5, 10]), torch.Size([2, 5]))
    """

    def __init__(
        self,
        architecture: str | list[int | str] = "vgg7",
        width: float = 1.0,
        num_classes: int = 10,
        timesteps: int = 4,
        input_shape: tuple[int, int, int] = (3, 32, 32),
        decay: float = 0.5,
        threshold: float = 1.0,
        reset: str = "hard",
        detach_reset: bool = True,
        learn_decay: bool = False,
        learn_threshold: bool = False,
        initial_potential: float = 0.0,
        learn_initial_potential: bool = False,
        surrogate: str = "atan",
        surrogate_slope: float | None = None,
        norm: str = "batch",
        initialization: str = "firing",
        pooling: str = "max",
        dropout: float = 0.0,
        readout: str = "mean",
        classifier_bias: bool = True,
        recompute: bool = False,
        neuron: Callable[[], SpikingNeuron] | None = None,
    ) -> None:
        choose("norm", norm, NORMS, "norm")
        choose("initialization", initialization, INITIALIZATIONS, "initialization")
        if initialization != "firing" and norm == "batch":
            raise ArgumentError("initialization", initialization, "only `norm=none` reads it.")
        choose("pooling", pooling, POOLINGS, "pooling")
        choose("readout", readout, READOUTS, "readout")

        def lif() -> SpikingNeuron:
            return LIF(
                decay,
                threshold,
                reset,
                detach_reset,
                surrogate,
                surrogate_slope,
                learn_decay,
                learn_threshold,
                initial_potential=initial_potential,
                learn_initial_potential=learn_initial_potential,
            )

        def make_pool() -> nn.Module | None:
            if pooling == "spiking_average":
                return SpikingAvgPool2d(2, make_surrogate(surrogate, surrogate_slope))
            return {"max": nn.MaxPool2d(2), "average": nn.AvgPool2d(2), "strided": None}[pooling]

        lif()  # refuses wrong settings before any layer is drawn
        if neuron is not None:
            settings = dict(
                decay=decay,
                threshold=threshold,
                reset=reset,
                detach_reset=detach_reset,
                learn_decay=learn_decay,
                learn_threshold=learn_threshold,
                initial_potential=initial_potential,
                learn_initial_potential=learn_initial_potential,
                surrogate=surrogate,
                surrogate_slope=surrogate_slope,
            )
            refuse_unread(settings, _read_elsewhere(readout, norm, pooling), check_neuron(neuron()))
        if not 0.0 <= dropout < 1.0:
            raise ArgumentError("dropout", dropout, "it must lie in [0, 1); 0 is no dropout.")
        parts = Parts(norm, initialization, threshold, pooling, dropout, neuron or lif, make_pool)
        plan = parse_architecture(architecture, width)
        layers, incoming = build_layers(plan, input_shape, parts, architecture, width)
        layers["classifier"] = SpikingLayer(nn.Linear(incoming.features, num_classes, bias=classifier_bias))
        super().__init__(layers, input_shape, timesteps, readout, decay, threshold, recompute)


def _read_elsewhere(readout: str, norm: str, pooling: str) -> set[str]:
    """Settings of the neuron that another part of the network reads: the readout, or the pooling neurons."""
    read = {"decay", "threshold"} if readout == "leaky" else {"threshold"} if norm == "none" else set()
    return read | ({"surrogate", "surrogate_slope"} if pooling == "spiking_average" else set())


def check_neuron(neuron: nn.Module) -> nn.Module:
    """Refuse what cannot be a layer's neurons.

    Raises:
        UserError: if it is no module, or its forward does not take (current, timesteps).
    """
    where = f"`neuron={path_of(neuron)}`"
    if not isinstance(neuron, nn.Module):
        raise UserError(f"{where}: it is no torch.nn.Module; see docs/own_neuron.md.")
    try:
        inspect.signature(neuron.forward).bind(None, None)
    except TypeError as error:
        raise UserError(
            f"{where}: its forward must take (current, timesteps) ({error}); timesteps is None, or T of a current that "
            "is the same in every step; see docs/own_neuron.md."
        ) from error
    return neuron


def refuse_unread(settings: dict[str, Any], read: set[str], neuron: nn.Module) -> None:
    """Refuse settings of the built-in neuron where another one stands, which would not read them.

    Raises:
        UserError: naming those that differ from their defaults.
    """
    defaults = inspect.signature(SpikingVGG.__init__).parameters
    unread = [k for k, v in settings.items() if k not in read and v != defaults[k].default]
    if unread:
        given = ", ".join(f"`{name}={settings[name]}`" for name in unread)
        raise UserError(
            f"{given}: `neuron={path_of(neuron)}` does not read it. Leave it out, or set the neuron's own arguments: "
            "`neuron.<argument>`."
        )
