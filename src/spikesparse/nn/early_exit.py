"""Early exit: once the network is confident of an image, the remaining time steps are skipped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from spikesparse.errors import ArgumentError, UserError, choose, path_of
from spikesparse.nn import SpikingOutput
from spikesparse.nn.network import output_of, takes

#: What confidence is: the softmax probability of the likeliest class, or how far it is above that of the second.
MEASURES = ("probability", "margin")
_PAGE = "docs/own_network.md"


@dataclass(frozen=True)
class EarlyExit:
    """When evaluation is done with an image: by the network's confidence (SEENN-I of Li et al. 2023, arXiv 2304.01230).

    Training runs all T steps all the same. Validation exits as a test does: so the best checkpoint is chosen, and a
    budget kept, by what the network answers and spends once it is used.

    Args:
        confidence: an image is done after the first step at which the network is at least so sure of it; None runs
            all T steps. One number, or one for each step but the last: the later it is, the less another step mends,
            and the less should be asked for. They are hyper-parameters: choose them on validation (``spikesparse
            exits``).
        measure: how sure it is: by the softmax of an image's logits so far, the "probability" of the likeliest class,
            or the "margin" between it and the second (Park et al. 2015).

    Raises:
        UserError: for a confidence outside (0, 1], or an unknown measure.
    """

    confidence: float | list[float] | None = None
    measure: str = "probability"

    def __post_init__(self) -> None:
        choose("measure of confidence", self.measure, MEASURES, "measure")
        if not all(0.0 < each <= 1.0 for each in self._each(1)):
            raise ArgumentError(
                "confidence", self.confidence, "it must lie in (0, 1]; 0.9 is usual, null runs all steps."
            )

    def steps(self, step_logits: Tensor) -> Tensor:
        """Steps that each image runs: int64 (B,), of logits after each step (T, B, classes); T without a confidence.

        Raises:
            UserError: for as many confidences as do not go with T.
        """
        timesteps, images = step_logits.shape[:2]
        if self.confidence is None:
            return torch.full((images,), timesteps, device=step_logits.device)
        needed = self._each(timesteps - 1)
        if len(needed) != timesteps - 1:
            raise UserError(
                f"`confidence={self.confidence}`: {len(needed)} confidences for T={timesteps} steps; one number is "
                f"needed, or {timesteps - 1}, one for each step but the last."
            )
        sure = confidence_of(step_logits, self.measure)[:-1] >= step_logits.new_tensor(needed)[:, None]
        sure = torch.cat([sure, sure.new_ones(1, images)])
        return sure.to(torch.uint8).argmax(0) + 1  # the first of several largest

    def answers(self, net: Any, x: Tensor, **record: Any) -> list[tuple[Tensor, SpikingOutput]]:
        """What a network makes of each image up to its exit, and what that costs: no step behind it is counted.

        Args:
            net: the network, in evaluation mode.
            x: its input, (T, B, C, H, W) or a constant current (B, C, H, W).
            record: handed on to its forward.

        Returns:
            Parts of the batch, one for each number of steps that occurs: which images (int64), and their output. Its
            tally is one of so many steps.

        Raises:
            UserError: if the network cannot be stopped early.
        """
        images = torch.arange(x.shape[-4], device=x.device)
        if self.confidence is None or not len(images):
            return [(images, output_of(net, x, **record))]
        step_logits = output_of(net, x).step_logits
        if step_logits is None:
            raise UserError(f"`confidence={self.confidence}`: {path_of(net)} returns no step_logits; see {_PAGE}.")
        steps = self.steps(step_logits)  # later steps do not reach back, so stopping there is what was seen here
        parts = []
        for t in steps.unique().tolist():
            of = images[steps == t]
            parts.append((of, stopped_after(net, x.index_select(-4, of), t, **record)))
        return parts

    def _each(self, steps: int) -> list[float]:
        """The confidence after each of the first steps, as it was given."""
        if self.confidence is None:
            return []
        return [self.confidence] * steps if isinstance(self.confidence, (int, float)) else list(self.confidence)


def confidence_of(logits: Tensor, measure: str = "probability") -> Tensor:
    """How sure a network is, in [0, 1], by one of the measures: (..., classes) -> (...).

    Raises:
        UserError: for the margin of a network that has one class.
    """
    probability = logits.softmax(-1)
    if measure == "probability":
        return probability.amax(-1)
    if logits.shape[-1] < 2:
        raise ArgumentError("measure", "margin", "the network has one class, and a margin is between two.")
    first, second = probability.topk(2).values.unbind(-1)
    return first - second


def stopped_after(net: Any, x: Tensor, timesteps: int, **record: Any) -> SpikingOutput:
    """What a network makes of the first steps of its input, and what they cost.

    Args:
        net: the network.
        x: its input, (T, B, C, H, W) or a constant current (B, C, H, W).
        timesteps: how many steps.
        record: handed on to its forward.

    Raises:
        UserError: if the network runs a constant current for as many steps as it likes.
    """
    if x.dim() == 5:
        return output_of(net, x[:timesteps], **record)
    if not takes(net, "timesteps"):
        raise UserError(f"early exit: the forward of {path_of(net)} takes no `timesteps`; see {_PAGE}.")
    return output_of(net, x, timesteps=timesteps, **record)
