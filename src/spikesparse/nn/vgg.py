"""Spiking VGG networks."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from spikesparse.errors import UserError, choose
from spikesparse.nn.architecture import parse_architecture
from spikesparse.nn.fanout import conv_fanout, through_average_pool
from spikesparse.nn.initialization import init_firing, mean_square_after
from spikesparse.nn.layer import SpikingLayer
from spikesparse.nn.neurons import LIF
from spikesparse.nn.pooling import POOLINGS, SpikingAvgPool2d
from spikesparse.nn.tally import LayerSizes, SpikeCounter, SpikingOutput
from spikesparse.ops.surrogate import surrogate as make_surrogate

NORMS = ("batch", "none")
READOUTS = ("mean", "leaky")


class SpikingNetwork(nn.Module):
    """Base of networks that the command line builds: ``forward`` returns a :class:`SpikingOutput`.

    A subclass takes ``num_classes``, ``input_shape`` (C, H, W) and ``timesteps`` among its arguments: the data
    module fills them in.
    """

    def forward(self, x: Tensor) -> SpikingOutput:
        """Input (T, B, C, H, W), or a constant current (B, C, H, W) -> logits and spike tally."""
        raise NotImplementedError


class SpikingVGG(SpikingNetwork):
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
        surrogate: "atan", "sigmoid", "fast_sigmoid", "triangle", "rectangle" or "lee2020".
        surrogate_slope: None takes the surrogate's own.
        norm: "batch" (BatchNorm over T * B) or "none" (with an initialisation that keeps the network firing).
        pooling: "max", "average" (plain), "spiking_average" (Lee 2020) or "strided" (the convolution before each P
            gets stride 2; Springenberg et al. 2015, arXiv 1412.6806).
        dropout: probability, behind every hidden neuron layer; one mask per sample for all T.
        readout: "mean" over T of the classifier's output; or "leaky": Lee's accumulator, which leaks by
            ``decay`` and never fires; its last potential is divided by (threshold * T).
        classifier_bias: give the classifier a bias.

    Raises:
        UserError: naming the setting, for any that cannot be built.

    Example:
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
        surrogate: str = "atan",
        surrogate_slope: float | None = None,
        norm: str = "batch",
        pooling: str = "max",
        dropout: float = 0.0,
        readout: str = "mean",
        classifier_bias: bool = True,
    ) -> None:
        super().__init__()
        choose("norm", norm, NORMS, "--model.net.norm")
        choose("pooling", pooling, POOLINGS, "--model.net.pooling")
        choose("readout", readout, READOUTS, "--model.net.readout")
        if timesteps < 1:
            raise UserError(f"--data.timesteps={timesteps}: a network needs at least 1 time step; 4 is usual.")

        def neuron() -> LIF:
            return LIF(decay, threshold, reset, detach_reset, surrogate, surrogate_slope, learn_decay, learn_threshold)

        neuron()  # refuses wrong settings before any layer is drawn
        if not 0.0 <= dropout < 1.0:
            raise UserError(f"--model.net.dropout={dropout}: a probability in [0, 1) is needed; 0 is no dropout.")
        self.timesteps, self.input_shape, self.readout = timesteps, tuple(input_shape), readout
        self.decay, self.threshold = decay, threshold  # of the leaky readout

        plan = parse_architecture(architecture, width)
        shape = _Shape(*input_shape)
        layers: dict[str, SpikingLayer] = {}
        synapses: dict[str, int] = {}
        neurons: dict[str, int] = {}
        pooling_neurons: dict[str, int] = {}
        mean_square = 1.0  # of a normalised image
        for index, (kind, size) in enumerate(plan):
            if kind == "pool":  # made with the convolution before it
                continue
            name = f"{kind}{1 + sum(known.startswith(kind) for known in layers)}"
            pooled = index + 1 < len(plan) and plan[index + 1][0] == "pool"
            if pooled and min(shape.height, shape.width) < 2:
                raise UserError(
                    f"--model.net.architecture={architecture!r}: images of {input_shape[1]}x{input_shape[2]} pixels "
                    "are too small for so many pools (P); list fewer of them."
                )
            weights: nn.Conv2d | nn.Linear
            if kind == "conv":
                stride = 2 if pooled and pooling == "strided" else 1
                weights = nn.Conv2d(shape.channels, size, 3, stride=stride, padding=1, bias=False)
            else:
                weights = nn.Linear(shape.features, size, bias=False)
            if norm == "none":
                init_firing(weights, mean_square, threshold)
            mean_square = mean_square_after(pooling if pooled else None)
            fanout = shape.fanout(weights)
            synapses[name] = shape.synapses(fanout)
            shape.move_through(weights)
            neurons[name] = shape.features
            pool: nn.Module | None = None
            if pooled and pooling == "max":
                pool = nn.MaxPool2d(2)
            elif pooled and pooling == "average":
                pool = nn.AvgPool2d(2)
            elif pooled and pooling == "spiking_average":
                pool = SpikingAvgPool2d(2, make_surrogate(surrogate, surrogate_slope))
            if pool is not None:
                shape.move_through(pool)
            if isinstance(pool, SpikingAvgPool2d):
                pooling_neurons[f"pool{1 + len(pooling_neurons)}"] = shape.features
            layers[name] = SpikingLayer(
                weights,
                fanout,
                (nn.BatchNorm2d if kind == "conv" else nn.BatchNorm1d)(size) if norm == "batch" else None,
                neuron(),
                dropout,
                pool,
            )
        if not layers:
            raise UserError(f"--model.net.architecture={architecture!r}: at least one hidden layer is needed.")
        classifier = nn.Linear(shape.features, num_classes, bias=classifier_bias)
        fanout = shape.fanout(classifier)
        synapses["classifier"] = shape.synapses(fanout)
        layers["classifier"] = SpikingLayer(classifier, fanout)
        self.layers = nn.ModuleDict(layers)
        self.sizes = LayerSizes(neurons, synapses, pooling_neurons)

    def forward(self, x: Tensor) -> SpikingOutput:
        """Logits and tally of spikes or currents per step (T, B, C, H, W), or of a constant current (B, C, H, W)."""
        if x.dim() not in (4, 5) or tuple(x.shape[-3:]) != self.input_shape:
            raise ValueError(
                f"this network reads (T, B, {', '.join(map(str, self.input_shape))}), or (B, ...) as a constant "
                f"current, not {tuple(x.shape)}"
            )
        timesteps = self.timesteps if x.dim() == 4 else x.shape[0]
        counter = SpikeCounter(x, self.sizes, timesteps)
        for layer in self.layers.values():
            x = layer(x, timesteps, counter)
        return SpikingOutput(self._read_out(x), counter.tally())

    def _read_out(self, x: Tensor) -> Tensor:
        """(T, B, classes) -> (B, classes), in float32 (float64 if x is)."""
        x = x if x.dtype == torch.float64 else x.float()
        if self.readout == "mean":
            return x.mean(0)
        potential = torch.zeros_like(x[0])
        for current in x:
            potential = self.decay * potential + current
        return potential / (self.threshold * len(x))


class _Shape:
    """The shape that reaches the next layer, and the plain average pool, if any, that its events still pass."""

    def __init__(self, channels: int, height: int, width: int) -> None:
        self.channels, self.height, self.width = channels, height, width
        self.spatial = True
        self.behind: tuple[nn.AvgPool2d, int, int] | None = None  # the pool, and the height and width before it

    @property
    def features(self) -> int:
        return self.channels * self.height * self.width

    def fanout(self, weights: nn.Conv2d | nn.Linear) -> Tensor:
        """Synapses into ``weights`` of one event, at each position where events are counted."""
        if isinstance(weights, nn.Conv2d):
            fanout = conv_fanout(weights, self.height, self.width)
        else:
            fanout = torch.full((self.height, self.width) if self.spatial else (), weights.out_features)
        return fanout if self.behind is None else through_average_pool(self.behind[0], fanout, *self.behind[1:])

    def synapses(self, fanout: Tensor) -> int:
        """Synapses that an event in every neuron would drive."""
        return self.channels * int(fanout.sum())

    def move_through(self, layer: nn.Module) -> None:
        if isinstance(layer, nn.Conv2d):
            self.behind = None
            self.channels = layer.out_channels
            self.height = (self.height - 1) // layer.stride[0] + 1  # 3x3, padding 1
            self.width = (self.width - 1) // layer.stride[1] + 1
        elif isinstance(layer, nn.Linear):
            self.behind = None
            self.channels, self.height, self.width, self.spatial = layer.out_features, 1, 1, False
        else:
            self.behind = (layer, self.height, self.width) if isinstance(layer, nn.AvgPool2d) else None
            self.height, self.width = self.height // 2, self.width // 2
