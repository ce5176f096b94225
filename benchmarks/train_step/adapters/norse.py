"""norse: its box LIF in its own module over time, SNN.

Its update multiplies the current by (1 - decay), so its threshold is multiplied by that as well and its surrogate's
slope divided: the same spikes and the same gradients. The detached reset is one of its parameters. Its list of
surrogates, chosen by name, has no atan, so one is added to it.
"""

from __future__ import annotations

from typing import Any

import torch
from norse.torch.functional import lif_box
from norse.torch.functional.lif_box import LIFBoxFeedForwardState, LIFBoxParameters, lif_box_feed_forward_step
from norse.torch.functional.reset import reset_value
from norse.torch.module.snn import SNN
from torch import Tensor, nn

from ..contender import Contender
from ..folded import FoldedNet, atan
from ..setting import Setting

_stock = lif_box.threshold


class _ATan(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, alpha: float) -> Tensor:
        return lif_box.threshold(x, "heaviside", alpha)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float], output: Tensor) -> None:
        x, ctx.alpha = inputs
        ctx.save_for_backward(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad * atan(ctx.saved_tensors[0], ctx.alpha), None


def _threshold(x: Tensor, method: str, alpha: float) -> Tensor:
    return _ATan.apply(x, alpha) if method == "atan" else _stock(x, method, alpha)


lif_box.threshold = _threshold


def _detached_reset(z: Tensor, v: Tensor, reset: Tensor, threshold: Tensor) -> Tensor:
    return reset_value(z.detach(), v, reset, threshold)


class Neurons(nn.Module):
    """norse's SNN, without the state that it also returns."""

    def __init__(self, setting: Setting) -> None:
        super().__init__()
        gain = 1.0 - setting.decay
        parameters = LIFBoxParameters(
            tau_mem_inv=torch.as_tensor(gain),
            v_th=torch.as_tensor(gain * setting.threshold),
            method="atan",
            alpha=setting.slope / gain,
            reset_method=_detached_reset,
        )
        self.snn = SNN(
            lif_box_feed_forward_step, lambda x: LIFBoxFeedForwardState(torch.zeros_like(x[0])), parameters, dt=1.0
        )

    def forward(self, current: Tensor) -> Tensor:
        """(T, B, ...) -> spikes."""
        return self.snn(current)[0]


def build(setting: Setting) -> Contender:
    """The network."""
    net = FoldedNet(setting, lambda: Neurons(setting)).to(setting.device)
    return Contender(net, net.neurons())
