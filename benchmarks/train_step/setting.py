"""What is the same for every contestant."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

LAYOUTS = ("contiguous", "channels-last")
PRECISIONS = ("float32", "bf16-mixed")


@dataclass(frozen=True)
class Setting:
    """A network, its input and how it is computed."""

    architecture: str = "vgg9"
    timesteps: int = 4
    batch: int = 32
    precision: str = "float32"
    device: str = "cpu"
    layout: str = "auto"
    classes: int = 10
    image: tuple[int, int, int] = (3, 32, 32)
    decay: float = 0.5
    threshold: float = 1.0
    slope: float = 2.0

    def batch_of(self, seed: int = 0) -> tuple[Tensor, Tensor]:
        """Images and labels: the same for every contestant and device."""
        generator = torch.Generator().manual_seed(seed)
        images = torch.randn(self.batch, *self.image, generator=generator)
        labels = torch.randint(self.classes, (self.batch,), generator=generator)
        return images.to(self.device), labels.to(self.device)

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """The precision, as Lightning's plugin of the same name sets it."""
        if self.precision == "float32":
            return contextlib.nullcontext()
        return torch.autocast(torch.device(self.device).type, torch.bfloat16)


def memory_format(layout: str) -> torch.memory_format:
    """Of images and of the weights of convolutions."""
    return torch.channels_last if layout == "channels-last" else torch.contiguous_format
