"""A whole training step: forward, cross-entropy, backward, SGD with momentum."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .contender import Contender
from .setting import Setting, memory_format


class Step:
    """Calls one contestant's training step on one batch that stays on the device.

    Args:
        contender: what to train; its module is moved to ``layout``.
        setting: device and precision.
        layout: one of LAYOUTS.
        images: in place of the setting's batch; with ``labels``.
        labels: of ``images``.
    """

    def __init__(
        self,
        contender: Contender,
        setting: Setting,
        layout: str,
        images: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> None:
        if images is None:
            images, labels = setting.batch_of()
        self.contender, self.setting, self.labels = contender, setting, labels
        self.images = images.contiguous(memory_format=memory_format(layout))
        contender.module.to(memory_format=memory_format(layout))
        self.optimizer = torch.optim.SGD(contender.module.parameters(), lr=1e-3, momentum=0.9)

    def forward(self) -> tuple[Any, Tensor]:
        """The network's output and the loss."""
        contender = self.contender
        contender.before()
        with (contender.autocast or self.setting.autocast)():
            output = contender.module(self.images)
            loss = F.cross_entropy(contender.logits(output).float(), self.labels)
            if contender.extra is not None:
                loss = loss + contender.extra(output)
        return output, loss

    def __call__(self) -> Tensor:
        """One step; the loss before it."""
        _, loss = self.forward()
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    def error(self) -> float:
        """Cross-entropy, without what else is in the loss."""
        output, _ = self.forward()
        return float(F.cross_entropy(self.contender.logits(output).detach().float(), self.labels))

    def timed(self) -> float:
        """Milliseconds of one step."""
        return milliseconds(self, self.setting.device)


def milliseconds(call: Callable[[], Any], device: str) -> float:
    """Of one call, synchronised at both ends."""
    synchronize(device)
    start = time.perf_counter()
    call()
    synchronize(device)
    return 1e3 * (time.perf_counter() - start)


def synchronize(device: str) -> None:
    """Wait until the device has done all it was asked to."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()
