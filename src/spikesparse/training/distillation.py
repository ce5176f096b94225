"""Distillation: a trained network's logits as a second target, beside the labels."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from spikesparse.errors import UserError


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
