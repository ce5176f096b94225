"""What a backend of the scan is given, and what it gives back.

Tensors are laid out channels-last, one contiguous block: (steps, B, H, W, C); a layer without space has H = W = 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from spikesparse.ops.spec import NeuronSpec


@dataclass(frozen=True)
class Scan:
    """A layer of neurons, and what drives it.

    Attributes:
        y: the weights' output, contiguous (S, B, H, W, C); S is T, or 1 for a current that is the same in all T steps.
        scale: (C,) in the state's dtype: a neuron's current is y * scale + shift. None with ``shift`` is y itself.
        shift: (C,).
        decay: scalar in the state's dtype.
        threshold: scalar in the state's dtype.
        spec: reset, surrogate and the like.
        timesteps: T.
        pool: the spikes leave through a 2x2 max-pool of stride 2.
        initial: the membrane before the first step, scalar in the state's dtype; None is 0.
    """

    y: Tensor
    scale: Tensor | None
    shift: Tensor | None
    decay: Tensor
    threshold: Tensor
    spec: NeuronSpec
    timesteps: int
    pool: bool = False
    initial: Tensor | None = None

    @property
    def constant(self) -> bool:
        """Is the current the same in every step?"""
        return len(self.y) != self.timesteps

    @property
    def windows(self) -> tuple[int, int]:
        """Rows and columns of pooling windows, those cut by the border included; without a pool, of neurons."""
        height, width = self.y.shape[2:4]
        return (-(-height // 2), -(-width // 2)) if self.pool else (height, width)

    @property
    def out_shape(self) -> tuple[int, int, int, int, int]:
        """Of the spikes that leave: (T, B, H', W', C)."""
        _, batch, height, width, channels = self.y.shape
        down = 2 if self.pool else 1
        return (self.timesteps, batch, height // down, width // down, channels)


class Spikes(NamedTuple):
    """What leaves a layer of neurons.

    Attributes:
        dense: (T, B, H', W', C) in y's dtype, zeros and ones.
        bits: the same packed, uint8 (T, B, H', W', ceil(C / 8)): bit k of byte j is channel 8 * j + k. Empty unless
            asked for.
        fired: int32 (B, windows): spikes of the neurons of each pooling window, over steps and channels; without a
            pool, of each position. Empty unless asked for.
        events: int32 (B, H', W'): spikes behind the pool. Empty without a pool, or unless asked for.
    """

    dense: Tensor
    bits: Tensor
    fired: Tensor
    events: Tensor


class SpikeGradients(NamedTuple):
    """Gradients of what leaves, contiguous.

    Attributes:
        dense: (T, B, H', W', C) in y's dtype.
        fired: (B, windows) in the state's dtype, or None.
        events: (B, H', W') in the state's dtype, or None.
    """

    dense: Tensor
    fired: Tensor | None = None
    events: Tensor | None = None


class Wanted(NamedTuple):
    """What a backward pass is asked for; g is the gradient of the current, summed over steps if it is constant.

    Attributes:
        y: the gradient of y: a * g + b * (y - center) + c.
        channels: sums over everything but channels: g, and g * (y - center).
        learned: the gradients of decay, threshold and initial membrane.
    """

    y: bool = True
    channels: bool = False
    learned: bool = False


class Gradients(NamedTuple):
    """The answer: ``y`` in y's dtype and shape, ``channels`` float64 (2, C), ``learned`` float64 (3,); or None."""

    y: Tensor | None
    channels: Tensor | None
    learned: Tensor | None


class Backend(Protocol):
    """What a backend implements. All give the same spikes, to the bit, as :mod:`spikesparse.ops.reference`."""

    def moments(self, y: Tensor) -> Tensor:
        """Mean and biased variance of each channel of (S, B, H, W, C): float64 (2, C)."""

    def forward(self, scan: Scan, pack: bool, count: bool) -> Spikes:
        """Run the neurons over all steps; make bits and counts if asked to."""

    def backward(
        self, scan: Scan, gradients: SpikeGradients, wanted: Wanted, center: Tensor | None, coefficients: Tensor | None
    ) -> Gradients:
        """Compute the membrane again and go back through time.

        Args:
            scan: as it was given to :meth:`forward`.
            gradients: of what left.
            wanted: what to compute.
            center: (C,) in the state's dtype; None is 0.
            coefficients: a, b and c, (3, C) in the state's dtype; None is 1, 0 and 0.
        """

    def pack_bits(self, x: Tensor) -> Tensor:
        """Bits of (N, C): uint8 (N, ceil(C / 8)), 1 where x is not zero."""

    def unpack_bits(self, bits: Tensor, channels: int, dtype: torch.dtype) -> Tensor:
        """The reverse: zeros and ones, (N, C)."""


def state_dtype(dtype: torch.dtype) -> torch.dtype:
    """Dtype of a membrane whose current has ``dtype``: float64 for float64, float32 for all others."""
    return torch.float64 if dtype == torch.float64 else torch.float32
