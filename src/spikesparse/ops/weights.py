"""Weight layers that read spikes, and keep them as bits for the gradient of their weights.

A convolution or linear layer needs its input again on the way back. A spike is one bit of it: kept so, a 32nd of its
float32, unpacked when the time comes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from spikesparse.ops.bits import unpack_bits


class Convolution(NamedTuple):
    """What is fixed about a convolution; as of :func:`torch.nn.functional.conv2d`."""

    stride: list[int]
    padding: list[int]
    dilation: list[int]
    groups: int


CONVOLUTION = "int[] stride, int[] padding, int[] dilation, int groups"


def spike_conv2d(
    spikes: Tensor, bits: Tensor, unit: float, weight: Tensor, bias: Tensor | None, settings: Convolution
) -> Tensor:
    """Convolution of spikes, channels-last: (N, H, W, C) -> (N, H', W', C').

    Args:
        spikes: zeros and ``unit``, contiguous. Not kept.
        bits: the same packed, uint8 (N, H, W, ceil(C / 8)).
        unit: the value of a spike.
        weight: (C', C / groups, kH, kW), in the dtype of ``spikes``.
        bias: (C',) or None.
        settings: stride and the like.
    """
    out: Tensor = _conv2d(spikes, bits, unit, weight, bias, *settings)
    return out


def spike_linear(spikes: Tensor, bits: Tensor, unit: float, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Linear layer on spikes (N, features); ``bits`` is uint8 (N, ceil(features / 8)). As :func:`spike_conv2d`."""
    out: Tensor = _linear(spikes, bits, unit, weight, bias)
    return out


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, settings: Convolution) -> Tensor:
    """A convolution from and to channels-last, (N, H, W, C) contiguous."""
    return F.conv2d(x.permute(0, 3, 1, 2), weight, bias, *settings).permute(0, 2, 3, 1).contiguous()


def convolution_gradients(
    grad: Tensor, x: Tensor, weight: Tensor, settings: Convolution, wants: Sequence[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of input, weight and bias, empty where not wanted; ``grad`` and ``x`` are channels-last."""
    of_x, of_weight, of_bias = torch.ops.aten.convolution_backward(
        grad.permute(0, 3, 1, 2),
        x.permute(0, 3, 1, 2),
        weight,
        [len(weight)] if wants[2] else None,
        settings.stride,
        settings.padding,
        settings.dilation,
        False,
        [0, 0],
        settings.groups,
        list(wants),
    )
    of_x, of_weight, of_bias = (
        each if wanted else weight.new_empty(0) for each, wanted in zip((of_x, of_weight, of_bias), wants, strict=True)
    )
    return (
        of_x.permute(0, 2, 3, 1).contiguous() if wants[0] else of_x,
        of_weight.contiguous(memory_format=memory_format(weight)) if wants[1] else of_weight,
        of_bias,
    )


def fake_convolution_gradients(
    grad: Tensor, sizes: Sequence[int], weight: Tensor, wants: Sequence[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    """The shapes that :func:`convolution_gradients` gives, of an input (N, H, W, C) of ``sizes``."""
    return (
        grad.new_empty(tuple(sizes) if wants[0] else (0,)),
        torch.empty_like(weight, memory_format=memory_format(weight)) if wants[1] else weight.new_empty(0),
        weight.new_empty(len(weight) if wants[2] else 0),
    )


def memory_format(weight: Tensor) -> torch.memory_format:
    """That of a convolution's weight: its gradient should have the same."""
    return torch.contiguous_format if weight.is_contiguous() else torch.channels_last


def unpack_rows(bits: Tensor, channels: int, unit: float, dtype: torch.dtype) -> Tensor:
    """(..., ceil(C / 8)) -> zeros and ``unit`` (..., C)."""
    spikes = unpack_bits(bits.flatten(0, -2), channels, dtype).view(*bits.shape[:-1], channels)
    return spikes if unit == 1.0 else spikes.mul_(unit)


def _run_conv2d(
    spikes: Tensor, bits: Tensor, unit: float, weight: Tensor, bias: Tensor | None, *settings: Any
) -> Tensor:
    return convolve(spikes, weight, bias, Convolution(*settings))


def _keep_conv2d(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    spikes, bits, ctx.unit, weight, _, *ctx.settings = inputs
    ctx.save_for_backward(bits, weight)
    ctx.sizes = spikes.shape


def _differentiate_conv2d(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    wants = [ctx.needs_input_grad[i] for i in (0, 3, 4)]
    found = _conv2d_backward(grad, *ctx.saved_tensors, ctx.unit, ctx.sizes, *ctx.settings, wants)
    of_x, of_weight, of_bias = (each if wanted else None for each, wanted in zip(found, wants, strict=True))
    return of_x, None, None, of_weight, of_bias, *[None] * len(ctx.settings)


def _run_conv2d_backward(
    grad: Tensor, bits: Tensor, weight: Tensor, unit: float, sizes: list[int], *arguments: Any
) -> tuple[Tensor, Tensor, Tensor]:
    *settings, wants = arguments
    # Without a gradient of the weight, the values of the input do not matter.
    x = unpack_rows(bits, sizes[3], unit, grad.dtype) if wants[1] else grad.new_empty(sizes)
    return convolution_gradients(grad.contiguous(), x, weight, Convolution(*settings), wants)


_conv2d = torch.library.custom_op(
    "spikesparse::conv2d",
    _run_conv2d,
    mutates_args=(),
    schema=f"(Tensor spikes, Tensor bits, float unit, Tensor weight, Tensor? bias, {CONVOLUTION}) -> Tensor",
)
_conv2d.register_fake(_run_conv2d)
_conv2d.register_autograd(_differentiate_conv2d, setup_context=_keep_conv2d)
_conv2d_backward = torch.library.custom_op(
    "spikesparse::conv2d_backward",
    _run_conv2d_backward,
    mutates_args=(),
    schema=f"(Tensor grad, Tensor bits, Tensor weight, float unit, SymInt[] sizes, {CONVOLUTION}, bool[] wants) "
    "-> (Tensor, Tensor, Tensor)",
)
_conv2d_backward.register_fake(
    lambda grad, bits, weight, unit, sizes, *arguments: fake_convolution_gradients(grad, sizes, weight, arguments[-1])
)


def _run_linear(spikes: Tensor, bits: Tensor, unit: float, weight: Tensor, bias: Tensor | None) -> Tensor:
    return F.linear(spikes, weight, bias)


def _keep_linear(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, bits, ctx.unit, weight, _ = inputs
    ctx.save_for_backward(bits, weight)


def _differentiate_linear(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    bits, weight = ctx.saved_tensors
    of_x, _, _, of_weight, of_bias = ctx.needs_input_grad
    return (
        grad @ weight if of_x else None,
        None,
        None,
        _linear_weight_gradient(grad, bits, weight.shape[1], ctx.unit) if of_weight else None,
        grad.sum(0) if of_bias else None,
    )


_linear = torch.library.custom_op(
    "spikesparse::linear",
    _run_linear,
    mutates_args=(),
    schema="(Tensor spikes, Tensor bits, float unit, Tensor weight, Tensor? bias) -> Tensor",
)
_linear.register_fake(_run_linear)
_linear.register_autograd(_differentiate_linear, setup_context=_keep_linear)


@torch.library.custom_op("spikesparse::linear_weight_gradient", mutates_args=())
def _linear_weight_gradient(grad: Tensor, bits: Tensor, features: int, unit: float) -> Tensor:
    return grad.t() @ unpack_rows(bits, features, unit, grad.dtype)


@_linear_weight_gradient.register_fake
def _(grad: Tensor, bits: Tensor, features: int, unit: float) -> Tensor:
    return grad.new_empty(grad.shape[1], features)
