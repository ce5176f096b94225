"""SpikingJelly: its multi-step containers and neurons, its precision and its memory optimiser.

Under plain autocast its fused neuron is skipped, because the state is then made in bfloat16; ``best`` turns on what it
has against that (PrecisionConfig with the neuron's storage), which needs Triton on CUDA.
"""

from __future__ import annotations

import torch
from spikingjelly.activation_based import functional, layer, memopt, neuron, surrogate
from spikingjelly.activation_based.precision import PrecisionConfig, prepare_model_for_precision
from torch import Tensor, nn

from ..contender import Contender
from ..folded import blocks, features
from ..setting import Setting


class Block(nn.Module):
    """Weights, norm, neurons: what the memory optimiser checkpoints as one."""

    def __init__(self, weights: nn.Module, norm: nn.Module, lif: nn.Module) -> None:
        super().__init__()
        self.weights, self.norm, self.lif = weights, norm, lif

    def forward(self, x: Tensor) -> Tensor:
        """(T, B, ...) -> spikes."""
        return self.lif(self.norm(self.weights(x)))


class Net(nn.Module):
    """The blocks, a classifier and the mean over time."""

    def __init__(self, setting: Setting) -> None:
        super().__init__()
        self.timesteps = setting.timesteps
        layers: list[nn.Module] = []
        flat = False
        for weights, norm, pooled in blocks(setting):
            if isinstance(weights, nn.Conv2d):
                weights = layer.Conv2d(weights.in_channels, weights.out_channels, 3, padding=1, bias=False)
                norm = layer.BatchNorm2d(norm.num_features)
            else:
                if not flat:
                    layers.append(layer.Flatten())
                flat = True
                weights = layer.Linear(weights.in_features, weights.out_features, bias=False)
                norm = layer.BatchNorm1d(norm.num_features)
            lif = neuron.LIFNode(
                tau=1.0 / (1.0 - setting.decay),
                decay_input=False,
                v_threshold=setting.threshold,
                v_reset=0.0,
                surrogate_function=surrogate.ATan(setting.slope),
                detach_reset=True,
            )
            layers.append(Block(weights, norm, lif))
            if pooled:
                layers.append(layer.MaxPool2d(2))
        if not flat:
            layers.append(layer.Flatten())
        layers.append(layer.Linear(features(setting), setting.classes))
        self.layers = nn.Sequential(*layers)
        functional.set_step_mode(self, "m")

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> logits (B, classes)."""
        x = images.unsqueeze(0).expand(self.timesteps, *images.shape)
        return self.layers(x).float().mean(0)


def build(setting: Setting, best: bool = False, memory: int = 0) -> Contender:
    """``best`` as above; ``memory`` is the level of its memory optimiser."""
    net: nn.Module = Net(setting).to(setting.device)
    neurons = [module for module in net.modules() if isinstance(module, neuron.LIFNode)]
    autocast = None
    if best:
        mode = "bf16" if setting.precision == "bf16-mixed" else "fp32"
        prepared = prepare_model_for_precision(net, setting.device, PrecisionConfig(mode=mode, neuron_storage=mode))
        net, autocast = prepared.model, prepared.autocast_context
    if memory:
        images, _ = setting.batch_of()

        def example(model: nn.Module) -> Tensor:
            functional.reset_net(model)
            with (autocast or setting.autocast)(), torch.no_grad():
                return model(images)

        memopt.optimize_memory(net, Block, example, level=memory)
    return Contender(
        net,
        neurons,
        before=lambda: functional.reset_net(net),
        autocast=autocast,
        recomputes=bool(memory),
    )
