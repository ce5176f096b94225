"""Spikes as bits, one for each, packed along channels."""

from __future__ import annotations

import torch
from torch import Tensor

from spikesparse.ops.backends import backend_for


@torch.library.custom_op("spikesparse::pack_bits", mutates_args=())
def pack_bits(x: Tensor) -> Tensor:
    """Bits of (..., C): uint8 (..., ceil(C / 8)); bit k of byte j is 1 where channel 8 * j + k is not zero."""
    bits = backend_for(x.device, x.dtype).pack_bits(x.reshape(-1, x.shape[-1]).contiguous())
    return bits.view(*x.shape[:-1], bits.shape[-1])


@pack_bits.register_fake
def _(x: Tensor) -> Tensor:
    return x.new_empty((*x.shape[:-1], -(-x.shape[-1] // 8)), dtype=torch.uint8)


def unpack_bits(bits: Tensor, channels: int, dtype: torch.dtype) -> Tensor:
    """The zeros and ones (N, channels) that ``bits`` (N, ceil(channels / 8)) stands for."""
    return backend_for(bits.device, dtype).unpack_bits(bits.contiguous(), channels, dtype)
