"""Does a contestant compute what the reference computes?"""

from __future__ import annotations

import dataclasses
import importlib
from typing import Any

import torch
from torch import Tensor

from .adapters import reference
from .contender import Contender
from .contestants import Contestant
from .same_weights import draw_weights, shapes
from .setting import Setting
from .step import Step

#: Distance over length, of centred logits and of gradients; and of the number of spikes.
TOLERANCE = 1e-3


def build(contestant: Contestant, setting: Setting) -> Contender:
    """The contestant with everybody's weights, not compiled."""
    contender: Contender = importlib.import_module(contestant.adapter).build(setting, **contestant.options)
    contender.module.to(setting.device)
    draw_weights(contender.module)
    return contender


def agreement(contestant: Contestant, setting: Setting, draws: int = 5) -> dict[str, Any]:
    """Logits in evaluation and training, gradients and spikes beside the reference's, in float32 on a small batch.

    Sums in another order may let a neuron at its threshold fire in one library and not in the other, and what follows
    then differs. Different functions differ on every batch, so one of ``draws`` batches has to agree.

    Returns:
        "agrees", and the distances on the batch that was nearest.
    """
    small = dataclasses.replace(setting, timesteps=4, batch=2, precision="float32")
    plain = reference.build(small)
    plain.module.to(small.device)
    draw_weights(plain.module)
    contender = dataclasses.replace(build(contestant, small), extra=None)
    if shapes(plain.module) != shapes(contender.module):
        return {"agrees": False, "shapes": "the layers have other shapes"}
    if not contestant.spikes:
        return {"agrees": True}
    tf32, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, False
    nearest: dict[str, float] = {}
    for seed in range(draws):
        ours, theirs = (_look(c, small, seed) for c in (contender, plain))
        found = {name: _distance(ours[name], theirs[name]) for name in theirs}
        if not nearest or max(found.values()) < max(nearest.values()):
            nearest = found
        if max(nearest.values()) <= TOLERANCE:
            break
    torch.backends.cudnn.allow_tf32 = tf32
    return {"agrees": max(nearest.values()) <= TOLERANCE, **nearest}


def _look(contender: Contender, setting: Setting, seed: int) -> dict[str, Tensor]:
    images, labels = setting.batch_of(1 + seed)
    step = Step(contender, setting, "contiguous", images, labels)
    module, counted = contender.module, [torch.zeros((), device=setting.device)]
    hooks = [
        neurons.register_forward_hook(lambda _, __, out: counted.append(out.sum())) for neurons in contender.neurons
    ]
    module.eval()
    with torch.no_grad():
        output, _ = step.forward()
    for hook in hooks:
        hook.remove()
    spikes = torch.stack(counted).sum() if contender.spikes is None else contender.spikes(output)
    evaluation = contender.logits(output)
    module.train()
    # The running statistics move with each draw, and so they would differ from the next batch's on.
    kept = {name: buffer.clone() for name, buffer in module.named_buffers()}
    output, loss = step.forward()
    loss.backward()
    gradient = torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None])
    step.optimizer.zero_grad(set_to_none=True)
    for name, buffer in module.named_buffers():
        if "running" in name:
            buffer.copy_(kept[name])
    training = contender.logits(output).detach()
    looks = {"evaluation": evaluation, "training": training, "gradients": gradient}
    return {name: value.double() - value.double().mean(0) for name, value in looks.items()} | {
        "spikes": spikes.double()
    }


def _distance(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm()) if a.shape == b.shape else float("inf")


def in_words(found: dict[str, Any]) -> str:
    """For the CSV: the verdict and the distances."""
    if "shapes" in found:
        return f"NO: {found['shapes']}"
    distances = ", ".join(f"{name} {value:.0e}" for name, value in found.items() if name != "agrees")
    return f"{'yes' if found['agrees'] else 'NO'}: {distances}" if distances else "same shapes"
