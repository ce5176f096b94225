"""spikesparse: the network as it is trained, its tally computed in every step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from spikesparse import SpikePenalty, SpikingVGG

from ..contender import Contender
from ..setting import Setting


def build(setting: Setting, penalty: bool = False, recompute: bool = False, graphs: bool = False) -> Contender:
    """``penalty`` puts half of the synaptic operations' share into the loss; ``recompute`` checkpoints."""
    net = SpikingVGG(
        setting.architecture,
        num_classes=setting.classes,
        timesteps=setting.timesteps,
        input_shape=setting.image,
        decay=setting.decay,
        threshold=setting.threshold,
        surrogate="atan",
        surrogate_slope=setting.slope,
        recompute=recompute,
    ).to(setting.device)
    cost = SpikePenalty("synops").to(setting.device)

    def extra(output: Any) -> Tensor:
        return 0.5 * cost(output.tally).float()

    contender = Contender(
        net,
        spikes=lambda output: output.tally.spikes.sum(),
        logits=lambda output: output.logits,
        extra=extra if penalty else None,
        recomputes=recompute,
    )
    if graphs:
        contender.before = torch.compiler.cudagraph_mark_step_begin
    return contender
