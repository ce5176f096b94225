"""NeuroBench's SynapticOperations and ActivationSparsity of the frozen networks."""

from __future__ import annotations

from typing import Any

import torch
from neurobench.benchmarks import Benchmark
from neurobench.metrics.workload import ActivationSparsity, SynapticOperations
from neurobench.models import NeuroBenchModel
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from witness import Neuron, hidden_neurons, run


class Model(NeuroBenchModel):
    """Hands NeuroBench a network; only the hidden neurons are activations, as pools report apart."""

    def __init__(self, net: nn.Module, timesteps: int, constant: bool) -> None:
        super().__init__()
        self.net, self.timesteps, self.constant = net, timesteps, constant
        for neuron in hidden_neurons(net):
            neuron.__class__ = Hidden
        self.add_activation_module(Hidden)

    def __call__(self, batch: Tensor) -> Tensor:
        """Class of each image of (B, T, ...) or (B, ...)."""
        x = batch if self.constant else batch.transpose(0, 1).flatten(0, 1)
        return self.net(x).unflatten(0, (self.timesteps, -1)).mean(0).argmax(1)

    def __net__(self) -> nn.Module:
        """The torch network."""
        return self.net


class Hidden(Neuron):
    """A class of its own for the hooks to find."""


def count(net: nn.Sequential, x: Tensor, case: dict[str, Any]) -> dict[str, float]:
    """All images as one batch."""
    constant = case["x"].dim() == 4
    images = case["x"].double() if constant else case["x"].double().transpose(0, 1)
    loader = DataLoader(TensorDataset(images, torch.zeros(len(images))), batch_size=len(images))
    model = Model(net, case["timesteps"], constant)
    sizes = {}
    for neuron in hidden_neurons(net):
        neuron.register_forward_hook(lambda module, args, output: sizes.update({module: output.numel()}))
    benchmark = Benchmark(model, loader, [], [], [[], [ActivationSparsity, SynapticOperations]])
    results = benchmark.run(quiet=True, device=None)
    operations = {name: float(value) * len(images) for name, value in results["SynapticOperations"].items()}
    return {
        "nonzero synops": operations["Effective_ACs"],
        "macs": operations["Effective_MACs"],
        "dense operations": operations["Dense"],
        "hidden spikes": (1.0 - results["ActivationSparsity"]) * sum(sizes.values()),
    }


run("neurobench", count)
