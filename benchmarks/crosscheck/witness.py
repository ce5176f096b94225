"""What the witnesses share: the frozen networks rebuilt of plain torch layers. Knows nothing of spikesparse.

Run by the interpreter of a witness's own environment: python <tool>_counts.py FOLDER. Writes FOLDER/<tool>.json.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


class Neuron(nn.Module):
    """Leaky integrate-and-fire, one step after the other, on (T * B, ...); a constant (B, ...) is held for T steps."""

    def __init__(self, timesteps: int, decay: float, threshold: float, soft: bool, constant: bool = False) -> None:
        super().__init__()
        self.timesteps, self.decay, self.threshold, self.soft = timesteps, decay, threshold, soft
        self.constant = constant

    def forward(self, x: Tensor) -> Tensor:
        """Spikes (T * B, ...)."""
        steps = [x] * self.timesteps if self.constant else list(x.unflatten(0, (self.timesteps, -1)))
        v, spikes = torch.zeros_like(steps[0]), []
        for current in steps:
            h = self.decay * v + current
            s = (h >= self.threshold).to(h)
            v = h - self.threshold * s if self.soft else h * (1 - s)
            spikes.append(s)
        return torch.cat(spikes)


def build(case: dict[str, Any], make_neuron: Callable[..., nn.Module] = Neuron) -> nn.Sequential:
    """The network as a flat nn.Sequential on the folded (T * B, ...), in float64."""
    timesteps, parts = case["timesteps"], []
    for index, layer in enumerate(case["layers"]):
        if "conv" in layer:
            channels = layer["weight"].shape[1] * layer["conv"]["groups"]
            weights = nn.Conv2d(channels, len(layer["weight"]), **layer["conv"])
        else:
            if index and "conv" in case["layers"][index - 1]:
                parts.append(nn.Flatten())
            weights = nn.Linear(layer["weight"].shape[1], len(layer["weight"]))
        weights.weight.data, weights.bias.data = layer["weight"], layer["bias"]
        parts.append(weights)
        if norm := layer.get("norm"):
            bn = nn.BatchNorm2d(len(norm["mean"]), eps=norm["eps"])
            bn.weight.data, bn.bias.data = norm["weight"], norm["bias"]
            bn.running_mean, bn.running_var = norm["mean"], norm["var"]
            parts.append(bn)
        if neuron := layer.get("neuron"):
            parts.append(make_neuron(timesteps, **neuron, constant=index == 0 and case["x"].dim() == 4))
        if pool := layer.get("pool"):
            parts.append(nn.MaxPool2d(2) if pool == "max" else nn.AvgPool2d(2))
        if pool == "spiking_average":  # fires strictly above 0.75: quarters reach 1.0 next
            parts.append(make_neuron(timesteps, decay=1.0, threshold=1.0, soft=False))
    return nn.Sequential(*parts).double().eval()


def hidden_neurons(net: nn.Sequential) -> list[nn.Module]:
    """The neuron modules behind weights; not those that pool."""
    found = []
    for before, module in zip(list(net), list(net)[1:], strict=False):
        if hasattr(module, "threshold") and not isinstance(before, nn.AvgPool2d):
            found.append(module)
    return found


def run(tool: str, count: Callable[[nn.Sequential, Tensor, dict[str, Any]], dict[str, float]], **settings: Any) -> None:
    """Count every case, after a look that this network does what the original did."""
    folder, counts = Path(sys.argv[1]), {}
    for path in sorted(folder.glob("case*.pt")):
        case = torch.load(path, weights_only=True)
        net = build(case, **settings)
        x = case["x"].double()
        x = x if x.dim() == 4 else x.flatten(0, 1)
        with torch.no_grad():
            logits = net(x).unflatten(0, (case["timesteps"], -1)).mean(0)
            assert torch.equal(logits, case["logits"].double()), f"{case['name']}: this is not the same network"
            counts[case["name"]] = count(net, x, case)
    (folder / f"{tool}.json").write_text(json.dumps(counts))
