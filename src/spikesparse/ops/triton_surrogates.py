"""The surrogates of :mod:`spikesparse.ops.surrogate` for Triton, by name."""

from __future__ import annotations

import triton
import triton.language as tl

HALF_PI = tl.constexpr(1.5707963267948966)


@triton.jit
def derivative(h, s, threshold, SURROGATE: tl.constexpr, SLOPE: tl.constexpr):
    """The stand-in for ds/dh, of tiles of membranes and spikes."""
    distance = h - threshold
    if SURROGATE == "atan":
        scaled = distance * (HALF_PI * SLOPE)
        sigma = (SLOPE / 2) / (scaled * scaled + 1.0)
    elif SURROGATE == "sigmoid":
        p = 1.0 / (1.0 + tl.exp(-SLOPE * tl.abs(distance)))  # even: nothing overflows
        sigma = p * (1.0 - p) * SLOPE
    elif SURROGATE == "fast_sigmoid":
        widened = tl.abs(distance) * SLOPE + 1.0
        sigma = 1.0 / (widened * widened)
    elif SURROGATE == "triangle":
        sigma = tl.maximum(1.0 - SLOPE * tl.abs(distance), 0.0)
    elif SURROGATE == "rectangle":
        sigma = tl.where(tl.abs(distance) < 0.5 / SLOPE, SLOPE, 0.0)
    else:
        tl.static_assert(SURROGATE == "lee2020")
        sigma = tl.where(s, SLOPE / threshold, 0.0)
    return sigma


@triton.jit
def trace_correction(filtered, total, decay):
    """Lee2020's factor: of the leaky-filtered spike count at the end, and the number of spikes."""
    return tl.where(filtered > 1e-3, 1.0, 0.0) + tl.log(decay) * filtered / tl.maximum(total, 1.0)
