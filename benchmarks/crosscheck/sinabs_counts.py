"""sinabs' synops and firing-rate hooks on the frozen networks."""

from __future__ import annotations

from typing import Any

from sinabs.hooks import firing_rate_hook, register_synops_hooks
from torch import Tensor, nn
from witness import hidden_neurons, run


def count(net: nn.Sequential, x: Tensor, case: dict[str, Any]) -> dict[str, float]:
    """The hooks give means over steps and images: times their number, these are sums again."""
    register_synops_hooks(net)
    sizes = {}
    for neuron in hidden_neurons(net):
        neuron.register_forward_hook(firing_rate_hook)
        neuron.register_forward_hook(lambda module, args, output: sizes.update({module: output.numel()}))
    net(x)
    steps = case["timesteps"] * case["x"].shape[-4]
    per_layer = list(net.hook_data["synops_per_timestep"].values())
    first = float(per_layer[0]) * (len(x) if case["x"].dim() == 4 else steps)
    behind = sum(float(value) for value in per_layer[1:]) * steps
    return {
        "synops": first + behind,
        "synops behind the first layer": behind,
        "hidden spikes": sum(float(neuron.hook_data["firing_rate"]) * sizes[neuron] for neuron in sizes),
    }


run("sinabs", count)
