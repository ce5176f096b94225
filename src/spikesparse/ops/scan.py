"""Neurons on a current of any shape."""

from __future__ import annotations

from torch import Tensor

from spikesparse.ops.fire import fire
from spikesparse.ops.spec import NeuronSpec


def neuron_scan(
    current: Tensor,
    decay: float | Tensor,
    threshold: float | Tensor,
    spec: NeuronSpec,
    timesteps: int | None = None,
    initial: float | Tensor = 0.0,
) -> Tensor:
    """Run a layer of neurons over all its time steps, on the fastest backend there is for it.

    The equations stand in :mod:`spikesparse.ops.reference`. Only the current is kept for the backward pass.

    Args:
        current: input current, shape (T, B, ...); or, with ``timesteps``, (B, ...): the same current in every step.
        decay: membrane decay per step in (0, 1]; a number or a scalar tensor.
        threshold: firing threshold > 0; a number or a scalar tensor.
        spec: reset, surrogate and the like.
        timesteps: T, if ``current`` is constant in time.
        initial: membrane before the first step; a number or a scalar tensor.

    Returns:
        Spikes in {0, 1}, shape (T, B, ...), in ``current``'s dtype and laid out in memory as it is. The membrane is
        float32 inside (float64 for a float64 current), whatever the dtype of the current or of autocast.
    """
    if timesteps is not None:
        current = current[None]
    # Neurons do not know each other, so any order will do: that of the memory copies nothing.
    order = sorted(range(1, current.dim()), key=current.stride, reverse=True)
    ordered = current.permute(0, *order)
    steps = len(current) if timesteps is None else timesteps
    flat = ordered.reshape(len(current), 1, 1, 1, -1)
    spikes = fire(flat, decay, threshold, spec, steps, initial=initial).spikes.view(steps, *ordered.shape[1:])
    return spikes.permute(0, *(1 + order.index(axis) for axis in range(1, current.dim())))
