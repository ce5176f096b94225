r"""The membrane recurrence over all time steps, and its backward pass.

Forward, for every neuron and step t, with :math:`v_0 = 0` (``decay = 1`` is integrate-and-fire):

.. math::
    h_t = \lambda v_{t-1} + x_t, \qquad s_t = [h_t \ge \theta], \qquad
    v_t = h_t (1 - s_t) \;\text{(hard)} \quad\text{or}\quad v_t = h_t - \theta s_t \;\text{(soft)}

Backward (back-propagation through time), with the surrogate derivative :math:`\sigma_t = \sigma'(h_t - \theta)`
in place of :math:`\partial s_t / \partial h_t`, and :math:`g^v_t = \lambda g^h_{t+1}`:

.. math::
    g^h_t = g^s_t \sigma_t + g^v_t \, \partial v_t / \partial h_t

where :math:`\partial v / \partial h` is :math:`(1 - s) - h\sigma` (hard) or :math:`1 - \theta\sigma` (soft), and its
:math:`\sigma` term is dropped when the reset is detached. Input current and spikes are kept for the backward pass; the
membrane is computed again, by the functions of the forward pass.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from spikesparse.ops.surrogate import Surrogate


@dataclass(frozen=True)
class NeuronSpec:
    """What a neuron layer does, apart from its decay and threshold.

    Attributes:
        surrogate: derivative that stands in for the spike's.
        soft_reset: subtract the threshold after a spike instead of returning to zero.
        detach_reset: let no gradient flow through the spike in the reset.
        strict: fire only strictly above the threshold.
    """

    surrogate: Surrogate
    soft_reset: bool = False
    detach_reset: bool = True
    strict: bool = False


def neuron_scan(
    current: Tensor,
    decay: float | Tensor,
    threshold: float | Tensor,
    spec: NeuronSpec,
    timesteps: int | None = None,
) -> Tensor:
    """Run a layer of neurons over all its time steps.

    Args:
        current: input current, shape (T, B, ...); or, with ``timesteps``, (B, ...): the same current in every step.
        decay: membrane decay per step in (0, 1]; a number or a scalar tensor.
        threshold: firing threshold > 0; a number or a scalar tensor.
        spec: reset, surrogate and the like.
        timesteps: T, if ``current`` is constant in time.

    Returns:
        Spikes in {0, 1}, shape (T, B, ...), in ``current``'s dtype. The membrane is float32 inside (float64 for a
        float64 current), whatever the dtype of the current or of autocast.
    """
    spikes: Tensor = _NeuronScan.apply(current, decay, threshold, spec, timesteps)
    return spikes


def _state_dtype(current: Tensor) -> torch.dtype:
    return torch.float64 if current.dtype == torch.float64 else torch.float32


def _charge(x: Tensor, v: Tensor | None, decay: float | Tensor) -> Tensor:
    """H = decay * v + x, overwriting v. Product and sum are two operations, so that no backend may contract them."""
    return x.clone() if v is None else v.mul_(decay).add_(x)


def _reset(h: Tensor, s: Tensor, threshold: float | Tensor, spec: NeuronSpec, out: Tensor | None = None) -> Tensor:
    """V = h * (1 - s) or h - threshold * s; both exact to the last bit for s in {0, 1}."""
    if spec.soft_reset:
        return torch.sub(h, s * threshold, out=out)
    return torch.addcmul(h, h, s, value=-1, out=out)


class _NeuronScan(torch.autograd.Function):
    """Spikes and gates are kept as numbers, not booleans: masks cost several times more on a CPU."""

    @staticmethod
    def forward(
        ctx: Any,
        current: Tensor,
        decay: float | Tensor,
        threshold: float | Tensor,
        spec: NeuronSpec,
        timesteps: int | None,
    ) -> Tensor:
        dtype = _state_dtype(current)
        constant = timesteps is not None
        steps = timesteps if timesteps is not None else current.shape[0]
        decay, threshold = (p.detach().to(dtype) if isinstance(p, Tensor) else p for p in (decay, threshold))
        spikes = current.new_empty((steps, *(current.shape if constant else current.shape[1:])))
        fires = torch.gt if spec.strict else torch.ge
        x = current.to(dtype) if constant else None
        s = torch.empty_like(spikes[0], dtype=dtype)
        v = None
        for t in range(steps):
            h = _charge(x if x is not None else current[t].to(dtype), v, decay)
            if spikes.dtype == dtype:
                s = spikes[t]
            fires(h, threshold, out=s)
            if spikes.dtype != dtype:
                spikes[t] = s
            v = _reset(h, s, threshold, spec, out=h)
        ctx.save_for_backward(current, spikes)  # the spikes are kept by whatever reads them anyway
        ctx.spec, ctx.constant, ctx.decay, ctx.threshold = spec, constant, decay, threshold
        return spikes

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_spikes: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
        current, spikes = ctx.saved_tensors
        spec, decay, threshold = ctx.spec, ctx.decay, ctx.threshold
        dtype = _state_dtype(current)
        wants_decay, wants_threshold = ctx.needs_input_grad[1], ctx.needs_input_grad[2]
        x = current.to(dtype) if ctx.constant else None
        membranes: list[Tensor] = []  # h of every step
        v = None
        for t in range(len(spikes)):
            membranes.append(_charge(x if x is not None else current[t].to(dtype), v, decay))
            v = _reset(membranes[t], spikes[t].to(dtype), threshold, spec)
        correction = spec.surrogate.trace_correction(spikes, decay, dtype)

        grad_decay = torch.zeros((), dtype=torch.float64, device=current.device)
        grad_threshold = torch.zeros_like(grad_decay)
        grad_current = torch.zeros_like(membranes[0]) if ctx.constant else torch.empty_like(current)
        in_place = not ctx.constant and current.dtype == dtype
        grad_v: Tensor | None = None  # with respect to the membrane after step t, from step t + 1
        for t in reversed(range(len(spikes))):
            h, s = membranes[t], spikes[t].to(dtype)
            sigma = spec.surrogate.derivative(h - threshold, threshold, s)
            grad_s = grad_spikes[t].to(dtype)
            if correction is not None:
                grad_s = grad_s * correction
            grad_h = torch.mul(grad_s, sigma, out=grad_current[t] if in_place else None)
            if wants_threshold:
                grad_threshold -= grad_h.sum(dtype=torch.float64)
            if grad_v is not None:
                if wants_threshold and spec.soft_reset:
                    kept = s if spec.detach_reset else s - threshold * sigma
                    grad_threshold -= (grad_v * kept).sum(dtype=torch.float64)
                if wants_threshold and not spec.soft_reset and not spec.detach_reset:
                    grad_threshold += (grad_v * h * sigma).sum(dtype=torch.float64)
                if not spec.detach_reset:
                    grad_h.addcmul_(grad_v, sigma.mul_(threshold if spec.soft_reset else h), value=-1)
                grad_h += grad_v if spec.soft_reset else grad_v.addcmul_(grad_v, s, value=-1)
            if wants_decay and t > 0:
                v = _reset(membranes[t - 1], spikes[t - 1].to(dtype), threshold, spec)
                grad_decay += (grad_h * v).sum(dtype=torch.float64)
            if ctx.constant:
                grad_current += grad_h
            elif not in_place:
                grad_current[t] = grad_h
            grad_v = grad_h * decay
            membranes.pop()
        return (
            grad_current.to(current.dtype),
            grad_decay if wants_decay else None,
            grad_threshold if wants_threshold else None,
            None,
            None,
        )
