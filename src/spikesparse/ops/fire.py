"""A layer's neurons as one operation: BatchNorm, the scan over time, 2x2 max-pool, bits and counts.

:func:`fire` is differentiable. What it keeps for its backward pass is the output of the layer's weights and a few
numbers per channel; normalised currents, membranes and spikes are computed again. It is made of two operators of
torch's dispatcher (``torch.ops.spikesparse.fire`` and ``fire_backward``), so that torch.compile has nothing to trace.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, distributed

from spikesparse.ops.backends import backend_for
from spikesparse.ops.problem import Scan, SpikeGradients, Wanted, state_dtype
from spikesparse.ops.spec import NeuronSpec, spec_of


@dataclass(frozen=True)
class Normalization:
    """What is done to the weights' output in each channel.

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
    """
    dtype = state_dtype(y.dtype)
    decay, threshold = (
        p.to(dtype) if isinstance(p, Tensor) else torch.full((), p, dtype=dtype, device=y.device)
        for p in (decay, threshold)
    )
    scale, shift, batch, eps, group = None, None, False, 0.0, ""
    if normalization is not None:
        scale, shift = normalization.scale.to(dtype), normalization.shift.to(dtype)
        batch, eps, group = normalization.batch, normalization.eps, normalization.group
    return Fired(
        *_fire(
            y.contiguous(), scale, shift, decay, threshold, spec.key, timesteps, pool, batch, eps, group, pack, count
        )
    )


@torch.library.custom_op("spikesparse::fire", mutates_args=())
def _fire(
    y: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    decay: Tensor,
    threshold: Tensor,
    spec: str,
    timesteps: int,
    pool: bool,
    batch: bool,
    eps: float,
    group: str,
    pack: bool,
    count: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    backend = backend_for(y.device, y.dtype, spec_of(spec))
    moments = y.new_empty(0, dtype=torch.float64)
    if batch:
        assert scale is not None
        assert shift is not None
        moments = _shared_moments(backend.moments(y), y.numel() // y.shape[-1], group)
        scale, shift = _fold(moments, scale, shift, eps)
    scan = Scan(y, scale, shift, decay, threshold, spec_of(spec), timesteps, pool)
    spikes, bits, fired, events = backend.forward(scan, pack, count)
    return spikes, bits, fired.double(), events.double(), moments


@_fire.register_fake
def _(
    y: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    decay: Tensor,
    threshold: Tensor,
    spec: str,
    timesteps: int,
    pool: bool,
    batch: bool,
    eps: float,
    group: str,
    pack: bool,
    count: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    scan = Scan(y, scale, shift, decay, threshold, spec_of(spec), timesteps, pool)
    shape, windows = scan.out_shape, (y.shape[1], *scan.windows)
    return (
        y.new_empty(shape),
        y.new_empty((*shape[:-1], -(-shape[-1] // 8)) if pack else (0,), dtype=torch.uint8),
        y.new_empty(windows if count else (0,), dtype=torch.float64),
        y.new_empty(shape[1:4] if count and pool else (0,), dtype=torch.float64),
        y.new_empty((3, shape[-1]) if batch else (0,), dtype=torch.float64),
    )


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    y, scale, shift, decay, threshold, *settings = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(y, scale, shift, decay, threshold, output[4])
    ctx.settings = settings


def _differentiate(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
    y, scale, shift, decay, threshold, moments = ctx.saved_tensors
    learns = ctx.needs_input_grad[3] or ctx.needs_input_grad[4]
    grad_y, grad_channels, grad_learned = _fire_backward(
        *gradients[:1], *gradients[2:4], y, scale, shift, decay, threshold, moments, *ctx.settings, learns
    )
    grad_scale, grad_shift = grad_channels if scale is not None else (None, None)
    grad_decay, grad_threshold = grad_learned if learns else (None, None)
    return grad_y, grad_scale, grad_shift, grad_decay, grad_threshold, *[None] * 8


_fire.register_autograd(_differentiate, setup_context=_keep)


@torch.library.custom_op("spikesparse::fire_backward", mutates_args=())
def _fire_backward(
    grad_spikes: Tensor | None,
    grad_fired: Tensor | None,
    grad_events: Tensor | None,
    y: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    decay: Tensor,
    threshold: Tensor,
    moments: Tensor,
    spec: str,
    timesteps: int,
    pool: bool,
    batch: bool,
    eps: float,
    group: str,
    pack: bool,
    count: bool,
    learns: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of y, of (scale, shift) (2, C), and of (decay, threshold) (2,); the last two may be empty."""
    backend = backend_for(y.device, y.dtype, spec_of(spec))
    dtype = state_dtype(y.dtype)
    folded = _fold(moments, scale, shift, eps) if batch and scale is not None and shift is not None else (scale, shift)
    scan = Scan(y, *folded, decay, threshold, spec_of(spec), timesteps, pool)
    gradients = SpikeGradients(
        y.new_zeros(scan.out_shape) if grad_spikes is None else grad_spikes.contiguous(),
        *(None if grad is None or not count else grad.to(dtype).contiguous() for grad in (grad_fired, grad_events)),
    )
    if not pool:  # there is no such output
        gradients = gradients._replace(events=None)
    nothing = y.new_empty(0, dtype=dtype)
    if scan.scale is None:
        found = backend.backward(scan, gradients, Wanted(learned=learns), None, None)
        channels = nothing
    elif not batch:
        coefficients = torch.stack([scan.scale, torch.zeros_like(scan.scale), torch.zeros_like(scan.scale)])
        found = backend.backward(scan, gradients, Wanted(channels=True, learned=learns), None, coefficients)
        assert found.channels is not None
        channels = found.channels.flip(0).to(dtype)
    else:
        center = moments[0].to(dtype)
        sums = backend.backward(scan, gradients, Wanted(y=False, channels=True, learned=learns), center, None)
        assert sums.channels is not None
        channels, coefficients = _through_batch_norm(sums.channels, moments, scan.scale, center, eps, group)
        channels = channels.to(dtype)
        found = backend.backward(scan, gradients, Wanted(), center, coefficients)._replace(learned=sums.learned)
    assert found.y is not None
    return found.y, channels, nothing.clone() if found.learned is None else found.learned.to(dtype)


@_fire_backward.register_fake
def _(
    grad_spikes: Tensor | None,
    grad_fired: Tensor | None,
    grad_events: Tensor | None,
    y: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    decay: Tensor,
    threshold: Tensor,
    moments: Tensor,
    spec: str,
    timesteps: int,
    pool: bool,
    batch: bool,
    eps: float,
    group: str,
    pack: bool,
    count: bool,
    learns: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    dtype = state_dtype(y.dtype)
    channels = y.new_empty((0,) if scale is None else (2, y.shape[-1]), dtype=dtype)
    return torch.empty_like(y), channels, y.new_empty((2,) if learns else (0,), dtype=dtype)


def _shared_moments(moments: Tensor, values: int, group: str) -> Tensor:
    """(2, C) of this process and its number of values -> (3, C) of all processes of the group."""
    own = torch.cat([moments, torch.full_like(moments[:1], values)])
    if not group:
        return own
    process_group = distributed.distributed_c10d._resolve_process_group(group)  # type: ignore[attr-defined]
    of_rank = own.new_zeros(distributed.get_world_size(process_group), *own.shape)
    of_rank[distributed.get_rank(process_group)] = own
    distributed.all_reduce(of_rank, group=process_group)
    mean, var, count = of_rank.unbind(1)
    total = count.sum(0)
    shared_mean = (mean * count).sum(0) / total
    shared_var = ((var + (mean - shared_mean).square()) * count).sum(0) / total
    return torch.stack([shared_mean, shared_var, total])


def _fold(moments: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Scale and shift of each channel that normalise, weigh and shift it."""
    mean, var, _ = moments
    scale = weight.double() * (var + eps).rsqrt()
    return scale.to(weight.dtype), (bias.double() - mean * scale).to(weight.dtype)


def _through_batch_norm(
    sums: Tensor, moments: Tensor, scale: Tensor, center: Tensor, eps: float, group: str
) -> tuple[Tensor, Tensor]:
    """BatchNorm's own gradients. Ioffe & Szegedy 2015, arXiv 1502.03167, section 3.

    Args:
        sums: this process's sums of g and g * (y - center), float64 (2, C).
        moments: as they were in the forward pass.
        scale: the folded scale.
        center: the mean, rounded to the state's dtype.
        eps: as in the forward pass.
        group: likewise.

    Returns:
        This process's gradients of weight and bias, float64 (2, C); and a, b and c of the gradient of y.
    """
    mean, var, count = moments
    inverse = (var + eps).rsqrt()
    off = mean - center  # what rounding took from the mean
    own = torch.stack([sums[0], sums[1] - off * sums[0]])
    total = own
    if group:
        total = own.clone()
        process_group = distributed.distributed_c10d._resolve_process_group(group)  # type: ignore[attr-defined]
        distributed.all_reduce(total, group=process_group)
    a = scale.double()
    b = -a * inverse.square() * total[1] / count
    c = -a * total[0] / count - b * off
    return torch.stack([own[1] * inverse, own[0]]), torch.stack([a, b, c]).to(scale.dtype)
