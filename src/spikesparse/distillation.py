"""Distillation: a trained network's logits as a second target, beside the labels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spikesparse.errors import UserError
from spikesparse.files.checkpoint import check_state_dict, read_checkpoint, settings_of
from spikesparse.settings.build import build_network
from spikesparse.settings.build_errors import SettingsErrors
from spikesparse.settings.same_data import check_same_input

_FLAG = "--model.distillation.teacher"


@dataclass(frozen=True)
class Distillation:
    """Learning from a trained network's logits too: a sparse one, say, from its accurate twin.

    The task loss becomes (1 - weight) * loss + weight * t^2 * KL(teacher || student), both softened by the temperature
    t (Hinton et al. 2015, arXiv 1503.02531).

    Args:
        teacher: checkpoint of the teacher, trained on the same images and encoding; None distils nothing.
        weight: of the teacher in the loss, in (0, 1].
        temperature: > 0; the larger, the more the teacher's small probabilities count.

    Raises:
        UserError: for a weight or temperature that cannot be.
    """

    teacher: str | None = None
    weight: float = 0.5
    temperature: float = 4.0

    def __post_init__(self) -> None:
        if not 0.0 < self.weight <= 1.0:
            raise UserError(f"--model.distillation.weight={self.weight}: it must lie in (0, 1]; 0.5 is usual.")
        if not (self.temperature > 0.0 and math.isfinite(self.temperature)):
            raise UserError(f"--model.distillation.temperature={self.temperature}: it must be above 0; 4 is usual.")

    def loss(self, task: Tensor, student: Tensor, teacher: Tensor) -> Tensor:
        """The mixed loss of a batch: a scalar.

        Args:
            task: the loss against the labels, a scalar.
            student: logits (B, classes).
            teacher: logits (B, classes).
        """
        learned, taught = (F.log_softmax(logits.float() / self.temperature, 1) for logits in (student, teacher))
        divergence = F.kl_div(learned, taught, log_target=True, reduction="batchmean") * self.temperature**2
        return (1.0 - self.weight) * task + self.weight * divergence.to(task.dtype)


def load_teacher(path: str, data: Any) -> nn.Module:
    """The network of a checkpoint, frozen and in evaluation mode.

    Args:
        path: a checkpoint written by this command line.
        data: the student's data module.

    Raises:
        UserError: if there is none, or it was trained on other images, classes or image shapes, or another encoding.
    """
    checkpoint = read_checkpoint(path, _FLAG)
    settings = settings_of(checkpoint, f"{_FLAG}={path}")
    with SettingsErrors():
        check_same_input(settings["data"], data, f"{_FLAG}={path}")
        with torch.random.fork_rng(
            devices=[]
        ):  # the weights drawn here are overwritten: the student's draws stay its own
            theirs = build_network(
                settings["model"]["net"], settings["data"]["timesteps"], data.num_classes, data.input_shape
            )
        weights = {
            name.removeprefix("net."): value
            for name, value in checkpoint["state_dict"].items()
            if name.startswith("net.")
        }
        check_state_dict(weights, theirs.state_dict(), f"{_FLAG}={path}")
        theirs.load_state_dict(weights)
    return theirs.eval().requires_grad_(False)


@torch.no_grad()
def logits_of(teacher: nn.Module, images: Tensor) -> Tensor:
    """What a teacher makes of a batch: (B, classes)."""
    logits: Tensor = teacher(images).logits
    return logits
