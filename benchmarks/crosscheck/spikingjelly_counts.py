"""SpikingJelly's SynOpCounter on the frozen networks, with SpikingJelly's own neurons."""

from __future__ import annotations

from typing import Any

import torch
from spikingjelly.activation_based import functional, neuron, surrogate
from spikingjelly.activation_based.op_counter import DispatchCounterMode, SynOpCounter
from torch import Tensor, nn
from witness import hidden_neurons, run


class Neuron(nn.Module):
    """SpikingJelly's multi-step LIFNode or IFNode behind the witnesses' folded interface."""

    def __init__(self, timesteps: int, decay: float, threshold: float, soft: bool, constant: bool = False) -> None:
        super().__init__()
        self.timesteps, self.constant, self.threshold = timesteps, constant, threshold
        settings = {"v_threshold": threshold, "v_reset": None if soft else 0.0, "step_mode": "m"}
        settings["surrogate_function"] = surrogate.ATan()
        if decay == 1.0:
            self.node = neuron.IFNode(**settings)
        else:
            self.node = neuron.LIFNode(tau=1.0 / (1.0 - decay), decay_input=False, **settings)

    def forward(self, x: Tensor) -> Tensor:
        """Spikes (T * B, ...)."""
        steps = x.expand(self.timesteps, *x.shape) if self.constant else x.unflatten(0, (self.timesteps, -1))
        return self.node(steps.contiguous()).flatten(0, 1)


def count(net: nn.Sequential, x: Tensor, case: dict[str, Any]) -> dict[str, float]:
    """Reset, then one pass under the counter."""
    spikes = []
    hooks = [m.register_forward_hook(lambda m, a, out: spikes.append(out.sum())) for m in hidden_neurons(net)]
    functional.reset_net(net)
    counter = SynOpCounter()
    with torch.no_grad(), DispatchCounterMode([counter]):
        net(x)
    for hook in hooks:
        hook.remove()
    return {"synops": float(counter.get_total()), "hidden spikes": float(sum(spikes))}


run("spikingjelly", count, make_neuron=Neuron)
