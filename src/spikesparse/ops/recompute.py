"""A convolution and its neurons as one operation that keeps the bits of its input, and next to nothing else.

The convolution's output is computed again on the way back: one more convolution for a tenth of the memory or less.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from spikesparse.ops.fire import (
    NEURONS,
    SETTINGS,
    TENSORS,
    Fired,
    Neurons,
    fire_arguments,
    neuron_gradients,
    run_fire,
    run_fire_backward,
)
from spikesparse.ops.weights import (
    CONVOLUTION,
    Convolution,
    convolution_gradients,
    convolve,
    fake_convolution_gradients,
    unpack_rows,
)

_FIRST = len(Convolution._fields)  # arguments of the convolution, before those of the neurons
_NEURONS = slice(_FIRST, _FIRST + NEURONS)


def convolve_and_fire(
    x: Tensor, bits: Tensor | None, unit: float, weight: Tensor, convolution: Convolution, **neurons: Any
) -> Fired:
    """Convolution without bias, and :func:`spikesparse.ops.fire.fire` on what it puts out.

    Args:
        x: (S, B, H, W, C), contiguous; not kept where there are bits.
        bits: the same packed, if ``x`` is made of zeros and ``unit``.
        unit: the value of a spike.
        weight: (C', C / groups, kH, kW), in the dtype of ``x``.
        convolution: stride and the like.
        neurons: the arguments of ``fire``, but for its ``y``.
    """
    tensors, settings = fire_arguments(x.dtype, x.device, **neurons)
    empty = x.new_empty(0, dtype=torch.uint8)
    return Fired(
        *_convolve_and_fire(x, empty if bits is None else bits, unit, weight, *convolution, *tensors, *settings)
    )


def _output(x: Tensor, weight: Tensor, convolution: Convolution) -> Tensor:
    y: Tensor = convolve(x.flatten(0, 1), weight, None, convolution).unflatten(0, x.shape[:2])
    return y


def _run(x: Tensor, bits: Tensor, unit: float, weight: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    fired: tuple[Tensor, ...] = run_fire(_output(x, weight, Convolution(*arguments[:_FIRST])), *arguments[_FIRST:])
    return fired


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, bits, unit, weight, *arguments = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(bits if len(bits) else x, weight, *arguments[_NEURONS], output[4])
    ctx.convolution, ctx.settings = arguments[:_FIRST], arguments[_NEURONS.stop :]
    ctx.packed, ctx.unit, ctx.sizes = len(bits) > 0, unit, x.shape


def _differentiate(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
    wants = [ctx.needs_input_grad[i] for i in (0, 3)]
    learns = any(ctx.needs_input_grad[4:][_NEURONS][2:])
    kept = ctx.saved_tensors  # once, as in fire.py
    of_x, of_weight, *found = _backward(
        gradients[0],
        gradients[2],
        gradients[3],
        *kept,
        ctx.packed,
        ctx.unit,
        ctx.sizes,
        wants,
        *ctx.convolution,
        *ctx.settings,
        learns,
    )
    return (
        of_x if wants[0] else None,
        None,
        None,
        of_weight if wants[1] else None,
        *[None] * _FIRST,
        *neuron_gradients(Neurons(*kept[2 : 2 + NEURONS]), learns, *found),
        *[None] * len(ctx.settings),
    )


def _run_backward(
    grad_spikes: Tensor | None,
    grad_fired: Tensor | None,
    grad_events: Tensor | None,
    kept: Tensor,
    weight: Tensor,
    *others: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    neurons = others[: NEURONS + 1]  # and moments
    packed, unit, sizes, wants, *arguments = others[NEURONS + 1 :]
    convolution = Convolution(*arguments[:_FIRST])
    x = unpack_rows(kept, sizes[-1], unit, weight.dtype) if packed else kept
    y = _output(x, weight, convolution)
    of_y, of_channels, of_learned = run_fire_backward(
        grad_spikes, grad_fired, grad_events, y, *neurons, *arguments[_FIRST:]
    )
    del y
    of_x, of_weight, _ = convolution_gradients(
        of_y.flatten(0, 1), x.flatten(0, 1), weight, convolution, [wants[0], wants[1], False]
    )
    return of_x.view(*sizes) if wants[0] else of_x, of_weight, of_channels, of_learned


def _fake_backward(
    grad_spikes: Tensor | None,
    grad_fired: Tensor | None,
    grad_events: Tensor | None,
    kept: Tensor,
    weight: Tensor,
    *others: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    neurons = Neurons(*others[:NEURONS])
    _, _, _, sizes, wants, *arguments = others[NEURONS:]  # as in _run_backward, moments before them
    like = weight.new_empty(sizes)
    of_x, of_weight, _ = fake_convolution_gradients(like, sizes, weight, [*wants, False])
    new = neurons.decay.new_empty
    of_channels = new((0,) if neurons.scale is None else (2, len(weight)))
    return of_x, of_weight, of_channels, new((3,) if arguments[-1] else (0,))


_convolve_and_fire = torch.library.custom_op(
    "spikesparse::convolve_and_fire",
    _run,
    mutates_args=(),
    schema=f"(Tensor x, Tensor bits, float unit, Tensor weight, {CONVOLUTION}, {TENSORS}, {SETTINGS}) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor)",
)
_convolve_and_fire.register_fake(_run)
_convolve_and_fire.register_autograd(_differentiate, setup_context=_keep)
_backward = torch.library.custom_op(
    "spikesparse::convolve_and_fire_backward",
    _run_backward,
    mutates_args=(),
    schema="(Tensor? grad_spikes, Tensor? grad_fired, Tensor? grad_events, Tensor kept, Tensor weight, "
    f"{TENSORS}, Tensor moments, bool packed, float unit, SymInt[] sizes, bool[] wants, {CONVOLUTION}, {SETTINGS}, "
    "bool learns) -> (Tensor, Tensor, Tensor, Tensor)",
)
_backward.register_fake(_fake_backward)
