"""Spikes as bits, one for each, packed along channels."""

from __future__ import annotations

import torch
from torch import Tensor

from spikesparse.ops.backends import backend_for


def pack_bits(x: Tensor) -> Tensor:
    """Bits of (N, C): uint8 (N, ceil(C / 8)); bit k of byte j is 1 where channel 8 * j + k is not zero."""
    return backend_for(x.device, x.dtype).pack_bits(x.contiguous())


def unpack_bits(bits: Tensor, channels: int, dtype: torch.dtype) -> Tensor:
    """The zeros and ones (N, channels) that ``bits`` (N, ceil(channels / 8)) stands for."""
    return backend_for(bits.device, dtype).unpack_bits(bits.contiguous(), channels, dtype)
