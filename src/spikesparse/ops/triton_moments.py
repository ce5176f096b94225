"""Mean and biased variance of channels, in Triton. Two launches, and nothing atomic: the result is always the same.

A lane looks at UNROLL values of its channel at a time: their mean, then the squares of what they deviate from it, in
float32, and what rounding left of the deviations' sum corrects both. Such parts, and then lanes, and then programs, are
put together in float64 by Chan, Golub & LeVeque 1983, doi 10.1080/00031305.1983.10483115. So neither a mean that is
large beside the deviations nor an outlier costs digits.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _merge(count, mean, squares):
    """Parts along axis 0 -> all: number of values, their mean, and sum of squared deviations from it."""
    total = tl.sum(count, 0)
    center = tl.sum(count * mean, 0) / tl.maximum(total, 1.0)
    apart = mean - center[None, :]
    return total, center, tl.sum(squares + count * apart * apart, 0)


@triton.jit
def moments_kernel(y, parts, rows, channels, UNROLL: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr):
    """(N, C) -> each program's part, float64 (3, programs of a channel, C): as :func:`_merge` returns them."""
    blocks = (channels + BLOCK_C - 1) // BLOCK_C
    program = tl.cast(tl.program_id(0) // blocks, tl.int64)
    programs = tl.cast(tl.num_programs(0) // blocks, tl.int64)
    channel = tl.cast(tl.program_id(0) % blocks, tl.int64) * BLOCK_C + tl.arange(0, BLOCK_C)
    in_channels = (channel < channels)[None, :]

    count = tl.full([BLOCK_R, 1], 0.0, tl.float64)
    mean = tl.full([BLOCK_R, BLOCK_C], 0.0, tl.float64)
    squares = tl.full([BLOCK_R, BLOCK_C], 0.0, tl.float64)
    first = program * (UNROLL * BLOCK_R)
    while first < rows:
        row = first + tl.arange(0, BLOCK_R)[:, None]
        ys = ()
        for u in tl.static_range(UNROLL):
            mask = (row + u * BLOCK_R < rows) & in_channels
            ys = ys + (tl.load(y + (row + u * BLOCK_R) * channels + channel[None, :], mask, other=0.0),)
        total = tl.full([BLOCK_R, BLOCK_C], 0.0, tl.float32)
        number = tl.full([BLOCK_R, 1], 0.0, tl.float32)
        for u in tl.static_range(UNROLL):
            total += ys[u].to(tl.float32)
            number += tl.where(row + u * BLOCK_R < rows, 1.0, 0.0)
        part = 1.0 / tl.maximum(number, 1.0)
        local = total * part
        left = tl.full([BLOCK_R, BLOCK_C], 0.0, tl.float32)
        own = tl.full([BLOCK_R, BLOCK_C], 0.0, tl.float32)
        for u in tl.static_range(UNROLL):
            apart = tl.where(row + u * BLOCK_R < rows, ys[u].to(tl.float32) - local, 0.0)
            left += apart
            own += apart * apart
        own = own - left * left * part

        n = number.to(tl.float64)
        share = n / tl.maximum(count + n, 1.0)
        apart = local.to(tl.float64) + (left * part).to(tl.float64) - mean
        mean += apart * share
        squares += own.to(tl.float64) + apart * apart * (count * share)
        count += n
        first += programs * (UNROLL * BLOCK_R)

    count, center, squares = _merge(count, mean, squares)
    at = program * channels + channel
    plane = programs * channels
    tl.store(parts + at, tl.broadcast_to(count, [BLOCK_C]), channel < channels)
    tl.store(parts + plane + at, center, channel < channels)
    tl.store(parts + 2 * plane + at, squares, channel < channels)


@triton.jit
def merge_kernel(parts, moments, programs, channels, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr):
    """The parts of all programs, one tile -> mean and biased variance, float64 (2, C)."""
    program = tl.arange(0, BLOCK_P)[:, None]
    channel = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    at = tl.cast(program, tl.int64) * channels + channel[None, :]
    plane = tl.cast(programs, tl.int64) * channels
    mask = (program < programs) & (channel < channels)[None, :]
    count, center, squares = _merge(
        tl.load(parts + at, mask, other=0.0),
        tl.load(parts + plane + at, mask, other=0.0),
        tl.load(parts + 2 * plane + at, mask, other=0.0),
    )
    tl.store(moments + channel, center, channel < channels)
    tl.store(moments + channels + channel, squares / tl.maximum(count, 1.0), channel < channels)
