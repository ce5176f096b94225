"""Spikes as bits, in Triton: bit k of byte j is channel 8 * j + k."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def packed(s, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr):
    """A tile of zeros and ones, int32 -> a tile of bytes."""
    bit = tl.arange(0, 8)[None, None, :]
    return tl.sum(tl.reshape(s, [BLOCK_R, BLOCK_C // 8, 8]) << bit, 2).to(tl.uint8)


@triton.jit
def pack_kernel(x, bits, rows, channels, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr):
    """(N, C) -> (N, ceil(C / 8))."""
    size = (channels + 7) // 8
    blocks = (channels + BLOCK_C - 1) // BLOCK_C
    block = tl.cast(tl.program_id(0) % blocks, tl.int64)
    row = tl.cast(tl.program_id(0) // blocks, tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    channel = block * BLOCK_C + tl.arange(0, BLOCK_C)
    byte = block * (BLOCK_C // 8) + tl.arange(0, BLOCK_C // 8)
    mask = (row < rows)[:, None] & (channel < channels)[None, :]
    found = tl.load(x + row[:, None] * channels + channel[None, :], mask, other=0.0).to(tl.float32)
    mask = (row < rows)[:, None] & (byte < size)[None, :]
    tl.store(bits + row[:, None] * size + byte[None, :], packed((found != 0.0).to(tl.int32), BLOCK_R, BLOCK_C), mask)


@triton.jit
def unpack_kernel(bits, x, rows, channels, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr):
    """(N, ceil(C / 8)) -> (N, C). Eight threads load the same byte: one access of the cache."""
    size = (channels + 7) // 8
    blocks = (channels + BLOCK_C - 1) // BLOCK_C
    row = tl.cast(tl.program_id(0) // blocks, tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    channel = tl.cast(tl.program_id(0) % blocks, tl.int64) * BLOCK_C + tl.arange(0, BLOCK_C)
    mask = (row < rows)[:, None] & (channel < channels)[None, :]
    byte = tl.load(bits + row[:, None] * size + (channel // 8)[None, :], mask, other=0).to(tl.int32)
    found = (byte >> (channel % 8).to(tl.int32)[None, :]) & 1
    tl.store(x + row[:, None] * channels + channel[None, :], found.to(tl.float32).to(x.dtype.element_ty), mask)
