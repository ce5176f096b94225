"""What an adapter hands over."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn


class Unavailable(Exception):
    """This contestant cannot run here; the message says why."""


def _itself(output: Any) -> Tensor:
    return output


def _nothing() -> None:
    pass


@dataclass
class Contender:
    """A network and how a user of its library would call it.

    Attributes:
        module: images (B, C, H, W) -> whatever ``logits`` understands.
        neurons: the modules whose outputs are the hidden spikes, unless ``spikes`` counts them.
        spikes: what ``module`` returned -> all its hidden spikes.
        logits: what ``module`` returned -> (B, classes).
        extra: what ``module`` returned -> a term of the loss beside cross-entropy.
        before: called before each step, outside what is compiled: clears the library's states.
        autocast: replaces the setting's own precision.
        recomputes: part of the forward pass runs once more in the backward pass.
    """

    module: nn.Module
    neurons: list[nn.Module] = field(default_factory=list)
    spikes: Callable[[Any], Tensor] | None = None
    logits: Callable[[Any], Tensor] = _itself
    extra: Callable[[Any], Tensor] | None = None
    before: Callable[[], None] = _nothing
    autocast: Callable[[], contextlib.AbstractContextManager[Any]] | None = None
    recomputes: bool = False
