"""A layer's neurons as one operation: BatchNorm, the scan over time, 2x2 max-pool, bits and counts.

:func:`fire` is differentiable. What it keeps for its backward pass is the output of the layer's weights and a few
numbers per channel; normalised currents, membranes and spikes are computed again. It is made of two operators of
torch's dispatcher (``torch.ops.spikesparse.fire`` and ``fire_backward``), so that torch.compile has nothing to trace.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from spikesparse.ops.backends import backend_for
from spikesparse.ops.batch_norm import fold, shared_moments, through_batch_norm
from spikesparse.ops.problem import Scan, SpikeGradients, Wanted, state_dtype
from spikesparse.ops.spec import NeuronSpec, spec_of


@dataclass(frozen=True)
class Normalization:
    """The normalisation of the weights' output in each channel.

    Attributes:
        scale: (C,).
        shift: (C,).
        batch: first give each channel mean 0 and variance 1 over this batch (training); else only scale and shift.
        eps: added to that variance.
        group: name of the process group whose batches count as one; "" is this process alone.
    """

    scale: Tensor
    shift: Tensor
    batch: bool = False
    eps: float = 0.0
    group: str = ""


class Fired(NamedTuple):
    """What :func:`fire` returns.

    Attributes:
        spikes: (T, B, H', W', C) in the current's dtype.
        bits: the same packed along channels, uint8; see :class:`spikesparse.ops.problem.Spikes`.
        fired: float64 (B, windows), differentiable: spikes in each pooling window, over steps and channels.
        events: float64 (B, H', W'), differentiable: spikes that leave the pool; empty without one.
        moments: float64 (3, C): mean, biased variance and number of values of each channel; empty but for ``batch``.
    """

    spikes: Tensor
    bits: Tensor
    fired: Tensor
    events: Tensor
    moments: Tensor


def fire(
    y: Tensor,
    decay: float | Tensor,
    threshold: float | Tensor,
    spec: NeuronSpec,
    timesteps: int,
    normalization: Normalization | None = None,
    pool: bool = False,
    pack: bool = False,
    count: bool = False,
    initial: float | Tensor = 0.0,
) -> Fired:
    """Spikes of a layer whose weights put out ``y``.

    Args:
        y: (T, B, H, W, C), or (1, B, H, W, C): the same in every step. Fastest if contiguous.
        decay: membrane decay per step in (0, 1]; a number or a scalar tensor.
        threshold: firing threshold > 0; a number or a scalar tensor.
        spec: reset, surrogate and the like.
        timesteps: T.
        normalization: None is none.
        pool: the spikes leave through a 2x2 max-pool.
        pack: make ``bits``.
        count: make ``fired`` and ``events``.
        initial: the membrane before the first step; a number or a scalar tensor.
    """
    tensors, settings = fire_arguments(
        y.dtype, y.device, decay, threshold, spec, timesteps, normalization, pool, pack, count, initial
    )
    return Fired(*run_fire(y.contiguous(), *tensors, *settings))


class Neurons(NamedTuple):
    """The arguments of the operators that are tensors, but for y; :class:`spikesparse.ops.problem.Scan` says what."""

    scale: Tensor | None
    shift: Tensor | None
    decay: Tensor
    threshold: Tensor
    initial: Tensor | None


class Settings(NamedTuple):
    """The arguments of the operators that are no tensors; ``spec`` is the key of a :class:`NeuronSpec`."""

    spec: str
    timesteps: int
    pool: bool
    batch: bool
    eps: float
    group: str
    pack: bool
    counts: bool


SETTINGS = "str spec, int timesteps, bool pool, bool batch, float eps, str group, bool pack, bool counts"
TENSORS = "Tensor? scale, Tensor? shift, Tensor decay, Tensor threshold, Tensor? initial"
NEURONS = len(Neurons._fields)


def fire_arguments(
    dtype: torch.dtype,
    device: torch.device,
    decay: float | Tensor,
    threshold: float | Tensor,
    spec: NeuronSpec,
    timesteps: int,
    normalization: Normalization | None = None,
    pool: bool = False,
    pack: bool = False,
    count: bool = False,
    initial: float | Tensor = 0.0,
) -> tuple[Neurons, Settings]:
    """The arguments of :func:`fire` as the operators take them: ``TENSORS`` and ``SETTINGS``."""
    dtype = state_dtype(dtype)

    def scalar(value: float | Tensor) -> Tensor:
        return value.to(dtype) if isinstance(value, Tensor) else torch.full((), value, dtype=dtype, device=device)

    at_rest = not isinstance(initial, Tensor) and initial == 0.0  # no number to make, on every call
    numbers = (scalar(decay), scalar(threshold), None if at_rest else scalar(initial))
    if normalization is None:
        return Neurons(None, None, *numbers), Settings(spec.key, timesteps, pool, False, 0.0, "", pack, count)
    scale, shift = normalization.scale.to(dtype), normalization.shift.to(dtype)
    batch, eps, group = normalization.batch, normalization.eps, normalization.group
    return Neurons(scale, shift, *numbers), Settings(spec.key, timesteps, pool, batch, eps, group, pack, count)


def neuron_gradients(
    neurons: Neurons, learns: bool, of_channels: Tensor, of_learned: Tensor
) -> tuple[Tensor | None, ...]:
    """The backward operator's results as gradients of :class:`Neurons`; None for what is not learned."""
    return (
        *(of_channels if neurons.scale is not None else (None, None)),
        *(of_learned[:2] if learns else (None, None)),
        of_learned[2] if learns and neurons.initial is not None else None,
    )


def _scan(y: Tensor, neurons: Neurons, settings: Settings, moments: Tensor | None = None) -> Scan:
    """What a backend is given. With the moments of a batch, its normalisation is folded into scale and shift."""
    if moments is not None and settings.batch:
        scale, shift = fold(moments, neurons.scale, neurons.shift, settings.eps)
        neurons = neurons._replace(scale=scale, shift=shift)
    spec = spec_of(settings.spec)
    return Scan(y, *neurons[:4], spec, settings.timesteps, settings.pool, neurons.initial)


def _run(y: Tensor, *arguments: Any) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    neurons, settings = Neurons(*arguments[:NEURONS]), Settings(*arguments[NEURONS:])
    backend = backend_for(y.device, y.dtype, spec_of(settings.spec))
    moments = y.new_empty(0, dtype=torch.float64)
    if settings.batch:
        moments = shared_moments(backend.moments(y), y.numel() // y.shape[-1], settings.group)
    scan = _scan(y, neurons, settings, moments)
    spikes, bits, fired, events = backend.forward(scan, settings.pack, settings.counts)
    return spikes, bits, fired.double(), events.double(), moments


def _fake(y: Tensor, *arguments: Any) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    settings = Settings(*arguments[NEURONS:])
    scan = _scan(y, Neurons(*arguments[:NEURONS]), settings)
    shape, windows = scan.out_shape, (y.shape[1], *scan.windows)
    return (
        y.new_empty(shape),
        y.new_empty((*shape[:-1], -(-shape[-1] // 8)) if settings.pack else (0,), dtype=torch.uint8),
        y.new_empty(windows if settings.counts else (0,), dtype=torch.float64),
        y.new_empty(shape[1:4] if settings.counts and settings.pool else (0,), dtype=torch.float64),
        y.new_empty((3, shape[-1]) if settings.batch else (0,), dtype=torch.float64),
    )


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*inputs[: 1 + NEURONS], output[4])
    ctx.settings = inputs[1 + NEURONS :]


def _differentiate(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
    neurons = slice(1, 1 + NEURONS)
    learns = any(ctx.needs_input_grad[neurons][2:])
    arriving = (gradients[0], gradients[2], gradients[3])
    kept = ctx.saved_tensors  # once: within torch.utils.checkpoint a second look computes them again, and is refused
    grad_y, *found = run_fire_backward(*arriving, *kept, *ctx.settings, learns)
    of_neurons = neuron_gradients(Neurons(*kept[neurons]), learns, *found)
    return grad_y, *of_neurons, *[None] * len(ctx.settings)


run_fire = torch.library.custom_op(
    "spikesparse::fire",
    _run,
    mutates_args=(),
    schema=f"(Tensor y, {TENSORS}, {SETTINGS}) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
)
run_fire.register_fake(_fake)
run_fire.register_autograd(_differentiate, setup_context=_keep)


def _run_backward(
    grad_spikes: Tensor | None,
    grad_fired: Tensor | None,
    grad_events: Tensor | None,
    y: Tensor,
    *arguments: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of y, of (scale, shift) (2, C), and of (decay, threshold, initial) (3,); the last two may be empty."""
    neurons, (moments, *rest, learns) = Neurons(*arguments[:NEURONS]), arguments[NEURONS:]
    settings, dtype = Settings(*rest), state_dtype(y.dtype)
    scan = _scan(y, neurons, settings, moments)
    scale, backend = scan.scale, backend_for(y.device, y.dtype, scan.spec)
    counts = (grad_fired if settings.counts else None, grad_events if settings.counts and settings.pool else None)
    gradients = SpikeGradients(
        y.new_zeros(scan.out_shape) if grad_spikes is None else grad_spikes.contiguous(),
        *(None if grad is None else grad.to(dtype).contiguous() for grad in counts),
    )
    of_channels = nothing = y.new_empty(0, dtype=dtype)
    if scale is None:
        found = backend.backward(scan, gradients, Wanted(learned=learns), None, None)
    elif not settings.batch:
        coefficients = torch.stack([scale, torch.zeros_like(scale), torch.zeros_like(scale)])
        found = backend.backward(scan, gradients, Wanted(channels=True, learned=learns), None, coefficients)
        assert found.channels is not None
        of_channels = found.channels.flip(0).to(dtype)
    else:
        # Twice through the scan, rather than keeping its gradient in between: less traffic, and nothing is rounded.
        center = moments[0].to(dtype)
        sums = backend.backward(scan, gradients, Wanted(y=False, channels=True, learned=learns), center, None)
        assert sums.channels is not None
        own, coefficients = through_batch_norm(sums.channels, moments, scale, center, settings.eps, settings.group)
        of_channels = own.to(dtype)
        found = backend.backward(scan, gradients, Wanted(), center, coefficients)._replace(learned=sums.learned)
    assert found.y is not None
    return found.y, of_channels, nothing.clone() if found.learned is None else found.learned.to(dtype)


def _fake_backward(
    grad_spikes: Tensor | None,
    grad_fired: Tensor | None,
    grad_events: Tensor | None,
    y: Tensor,
    scale: Tensor | None,
    *others: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    dtype, learns = state_dtype(y.dtype), others[-1]
    of_channels = y.new_empty((0,) if scale is None else (2, y.shape[-1]), dtype=dtype)
    return torch.empty_like(y), of_channels, y.new_empty((3,) if learns else (0,), dtype=dtype)


run_fire_backward = torch.library.custom_op(
    "spikesparse::fire_backward",
    _run_backward,
    mutates_args=(),
    schema=f"(Tensor? grad_spikes, Tensor? grad_fired, Tensor? grad_events, Tensor y, {TENSORS}, "
    f"Tensor moments, {SETTINGS}, bool learns) -> (Tensor, Tensor, Tensor)",
)
run_fire_backward.register_fake(_fake_backward)
