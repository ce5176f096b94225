r"""The definition of the neuron scan, to be read: plain PyTorch, one step after the other. Every device and dtype.

Forward, for every neuron and step t, from the output :math:`y` of the layer's weights, each channel scaled and shifted
(BatchNorm, folded) in two roundings; :math:`v_0` is 0 or ``initial``, and ``decay = 1`` is integrate-and-fire:

.. math::
    x_t = (y_t a) + b, \qquad h_t = (\lambda v_{t-1}) + x_t, \qquad s_t = [h_t \ge \theta], \qquad
    v_t = h_t (1 - s_t) \;\text{(hard)} \quad\text{or}\quad v_t = h_t - \theta s_t \;\text{(soft)}

Backward (back-propagation through time), with the surrogate derivative :math:`\sigma_t = \sigma'(h_t - \theta)`
in place of :math:`\partial s_t / \partial h_t`, and :math:`g^v_t = \lambda g^h_{t+1}`:

.. math::
    g^x_t = g^h_t = g^s_t \sigma_t + g^v_t \, \partial v_t / \partial h_t

where :math:`\partial v / \partial h` is :math:`(1 - s) - h\sigma` (hard) or :math:`1 - \theta\sigma` (soft), and its
:math:`\sigma` term is dropped when the reset is detached. Only y is kept for the backward pass; the membrane is
computed again, by the functions of the forward pass.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from spikesparse.ops.problem import Gradients, Scan, SpikeGradients, Spikes, Wanted, state_dtype


def moments(y: Tensor) -> Tensor:
    """Mean and biased variance of each channel, in float64."""
    values = y.flatten(0, -2).double()
    return torch.stack([values.mean(0), values.var(0, correction=0)])


def forward(scan: Scan, pack: bool, count: bool) -> Spikes:
    """Spikes, through the pool if there is one, with their bits and counts."""
    spikes = torch.stack([s for _, s in _steps(scan)])
    fired = _by_window(scan, _count(spikes)) if count else _nothing(scan, torch.int32)
    events = _nothing(scan, torch.int32)
    if scan.pool:
        spikes, _ = _max_pool(spikes)
        events = _count(spikes) if count else events
    bits = pack_bits(spikes) if pack else _nothing(scan, torch.uint8)
    return Spikes(spikes.to(scan.y.dtype), bits, fired, events)


def backward(
    scan: Scan, gradients: SpikeGradients, wanted: Wanted, center: Tensor | None, coefficients: Tensor | None
) -> Gradients:
    """Gradients of y, of channels' sums, and of decay, threshold and initial membrane."""
    spec, decay, threshold = scan.spec, scan.decay, scan.threshold
    dtype = state_dtype(scan.y.dtype)
    h, spikes = (torch.stack(each) for each in zip(*_steps(scan), strict=True))
    grad_spikes = _grad_spikes(scan, spikes, gradients)
    correction = spec.surrogate.trace_correction(spikes, decay, dtype)
    if correction is not None:
        grad_spikes = grad_spikes * correction

    grad_current = torch.empty_like(h)
    grad_decay, grad_threshold = (torch.zeros((), dtype=torch.float64, device=h.device) for _ in range(2))
    grad_v = torch.zeros_like(h[0])  # with respect to the membrane after step t, from step t + 1
    for t in reversed(range(scan.timesteps)):
        s = spikes[t]
        sigma = spec.surrogate.derivative(h[t] - threshold, threshold, s)
        grad_h = grad_spikes[t] * sigma
        grad_threshold -= grad_h.sum(dtype=torch.float64)
        if spec.soft_reset:
            grad_threshold -= (grad_v * (s if spec.detach_reset else s - threshold * sigma)).sum(dtype=torch.float64)
        elif not spec.detach_reset:
            grad_threshold += (grad_v * h[t] * sigma).sum(dtype=torch.float64)
        if not spec.detach_reset:
            grad_h = grad_h - grad_v * sigma * (threshold if spec.soft_reset else h[t])
        grad_h = grad_h + (grad_v if spec.soft_reset else grad_v.masked_fill(s != 0, 0))
        if t > 0:
            grad_decay += (grad_h * _reset(scan, h[t - 1], spikes[t - 1])).sum(dtype=torch.float64)
        elif scan.initial is not None:
            grad_decay += (grad_h * scan.initial).sum(dtype=torch.float64)
        grad_current[t] = grad_h
        grad_v = grad_h * decay

    g = grad_current.sum(0, keepdim=True) if scan.constant else grad_current
    centered = scan.y.to(dtype) if center is None else scan.y.to(dtype) - center
    channels = torch.stack([each.double().flatten(0, -2).sum(0) for each in (g, g * centered)])
    if coefficients is not None:
        a, b, c = coefficients
        g = a * g + b * centered + c
    return Gradients(
        g.to(scan.y.dtype) if wanted.y else None,
        channels if wanted.channels else None,
        torch.stack([grad_decay, grad_threshold, grad_v.sum(dtype=torch.float64)]) if wanted.learned else None,
    )


def pack_bits(x: Tensor) -> Tensor:
    """(..., C) -> uint8 (..., ceil(C / 8))."""
    ones = F.pad(x != 0, (0, -x.shape[-1] % 8)).unflatten(-1, (-1, 8))
    bits: Tensor = (ones << torch.arange(8, device=x.device)).sum(-1).to(torch.uint8)
    return bits


def unpack_bits(bits: Tensor, channels: int, dtype: torch.dtype) -> Tensor:
    """Uint8 (..., ceil(C / 8)) -> (..., C)."""
    spread: Tensor = (bits[..., None] >> torch.arange(8, device=bits.device, dtype=torch.uint8)) & 1
    return spread.flatten(-2)[..., :channels].to(dtype)


def _steps(scan: Scan) -> list[tuple[Tensor, Tensor]]:
    """Membrane potential before the reset, and spikes, of every step: both in the state's dtype."""
    steps, v = [], scan.initial
    for t in range(scan.timesteps):
        x = scan.y[0 if scan.constant else t].to(state_dtype(scan.y.dtype))
        if scan.scale is not None and scan.shift is not None:
            x = x * scan.scale  # product and sum are two operations, so that no backend may contract them
            x = x + scan.shift
        h = x if v is None else v * scan.decay + x
        s = (h > scan.threshold if scan.spec.strict else h >= scan.threshold).to(h.dtype)
        steps.append((h, s))
        v = _reset(scan, h, s)
    return steps


def _reset(scan: Scan, h: Tensor, s: Tensor) -> Tensor:
    return h - s * scan.threshold if scan.spec.soft_reset else h.masked_fill(s != 0, 0)


def _grad_spikes(scan: Scan, spikes: Tensor, gradients: SpikeGradients) -> Tensor:
    """What reaches each neuron's spikes: through the pool, each window's first of the largest, and by the counts."""
    grad = gradients.dense.to(spikes.dtype)
    if gradients.events is not None:
        grad = grad + gradients.events[..., None]
    if scan.pool:
        _, winners = _max_pool(spikes)
        steps, batch, height, width, channels = spikes.shape
        folded = grad.flatten(0, 1).permute(0, 3, 1, 2)
        unpooled = F.max_unpool2d(folded, winners, [2, 2], output_size=[height, width])
        grad = unpooled.permute(0, 2, 3, 1).reshape(steps, batch, height, width, channels)
    if gradients.fired is not None:
        height, width = spikes.shape[2:4]
        fired = gradients.fired
        if scan.pool:
            fired = fired.repeat_interleave(2, 1).repeat_interleave(2, 2)[:, :height, :width]
        grad = grad + fired[..., None]
    return grad


def _max_pool(spikes: Tensor) -> tuple[Tensor, Tensor]:
    """(T, B, H, W, C) -> pooled in the same layout, and torch's indices of (T * B, C, H', W')."""
    folded = spikes.flatten(0, 1).permute(0, 3, 1, 2)
    pooled, winners = F.max_pool2d(folded, 2, return_indices=True)
    return pooled.permute(0, 2, 3, 1).reshape(*spikes.shape[:2], *pooled.shape[2:], -1), winners


def _count(spikes: Tensor) -> Tensor:
    return spikes.sum((0, -1), dtype=torch.float64).to(torch.int32)


def _by_window(scan: Scan, count: Tensor) -> Tensor:
    """(B, H, W) -> (B, windows)."""
    if not scan.pool:
        return count
    rows, columns = scan.windows
    height, width = count.shape[1:]
    padded = F.pad(count, (0, 2 * columns - width, 0, 2 * rows - height))
    return padded.view(-1, rows, 2, columns, 2).sum((2, 4), dtype=torch.int32)


def _nothing(scan: Scan, dtype: torch.dtype) -> Tensor:
    return torch.empty(0, dtype=dtype, device=scan.y.device)
