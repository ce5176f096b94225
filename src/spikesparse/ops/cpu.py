"""The scan on a CPU, in C++: builds cpu_kernels.cpp once per machine, and calls it."""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from spikesparse.ops import compiled
from spikesparse.ops.problem import Gradients, Scan, SpikeGradients, Spikes, Wanted
from spikesparse.ops.surrogate import SURROGATES

SOURCE = Path(__file__).with_name("cpu_kernels.cpp")


class _Scan(ctypes.Structure):
    """The struct of the same name in cpu_kernels.cpp."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("timesteps", "steps", "batch", "height", "width", "channels")),
        *((name, ctypes.c_void_p) for name in ("y", "scale", "shift")),
        *((name, ctypes.c_float) for name in ("decay", "threshold", "initial", "slope")),
        *((name, ctypes.c_int32) for name in ("bfloat16", "pool", "soft_reset", "detach_reset", "strict")),
        *((name, ctypes.c_int32) for name in ("surrogate", "threads")),
    )


def prepare() -> None:
    """Compile and load.

    Raises:
        RuntimeError: if there is no C++ compiler, it fails, or no folder can keep what it makes.
    """
    _library()


def moments(y: Tensor) -> Tensor:
    """Mean and biased variance of each channel: float64 (2, C)."""
    rows, channels = y.numel() // y.shape[-1], y.shape[-1]
    sums = _sums(2, channels)
    _library().spikesparse_moments(_at(y), _is_bfloat16(y.dtype), _int(rows), _int(channels), _threads(), _at(sums))
    mean, square = sums.sum(0) / rows  # of the distance from the first row
    return torch.stack([mean + y.view(rows, channels)[0].double(), (square - mean.square()).clamp(min=0)])


def forward(scan: Scan, pack: bool, count: bool) -> Spikes:
    """Spikes, through the pool if there is one, with their bits and counts."""
    y, shape = scan.y, scan.out_shape
    dense = y.new_empty(shape)
    bits = y.new_empty((*shape[:-1], -(-shape[-1] // 8)) if pack else 0, dtype=torch.uint8)
    fired = y.new_zeros((shape[1], *scan.windows) if count else 0, dtype=torch.int32)
    events = y.new_zeros(shape[1:4] if count and scan.pool else 0, dtype=torch.int32)
    _library().spikesparse_forward(_struct(scan), *(_at(out) for out in (dense, bits, fired, events)))
    return Spikes(dense, bits, fired, events)


def backward(
    scan: Scan, gradients: SpikeGradients, wanted: Wanted, center: Tensor | None, coefficients: Tensor | None
) -> Gradients:
    """Gradients of y, of channels' sums, and of decay, threshold and initial membrane."""
    y = torch.empty_like(scan.y) if wanted.y else None
    channels = _sums(2, scan.y.shape[-1]) if wanted.channels else None
    learned = _sums(3) if wanted.learned else None
    arguments = (*gradients, center, coefficients, channels, learned, y)
    _library().spikesparse_backward(_struct(scan), *(_at(argument) for argument in arguments))
    return Gradients(y, *(None if sums is None else sums.sum(0) for sums in (channels, learned)))


def pack_bits(x: Tensor) -> Tensor:
    """(N, C) -> uint8 (N, ceil(C / 8))."""
    bits = x.new_empty(len(x), -(-x.shape[1] // 8), dtype=torch.uint8)
    sizes = (_is_bfloat16(x.dtype), _int(len(x)), _int(x.shape[1]), _threads())
    _library().spikesparse_pack(_at(x), *sizes, _at(bits))
    return bits


def unpack_bits(bits: Tensor, channels: int, dtype: torch.dtype) -> Tensor:
    """Uint8 (N, ceil(C / 8)) -> (N, C)."""
    x = bits.new_empty(len(bits), channels, dtype=dtype)
    sizes = (_is_bfloat16(dtype), _int(len(bits)), _int(channels), _threads())
    _library().spikesparse_unpack(_at(bits), *sizes, _at(x))
    return x


def _struct(scan: Scan) -> ctypes._CArgObject:
    spec = scan.spec
    return ctypes.byref(
        _Scan(
            scan.timesteps,
            *scan.y.shape,
            *(None if each is None else each.data_ptr() for each in (scan.y, scan.scale, scan.shift)),
            scan.decay.item(),
            scan.threshold.item(),
            0.0 if scan.initial is None else scan.initial.item(),
            spec.surrogate.slope,
            scan.y.dtype == torch.bfloat16,
            scan.pool,
            spec.soft_reset,
            spec.detach_reset,
            spec.strict,
            list(SURROGATES).index(spec.surrogate.name),
            torch.get_num_threads(),
        )
    )


def _sums(*shape: int) -> Tensor:
    return torch.zeros(_library().spikesparse_chunks(), *shape, dtype=torch.float64)


def _at(tensor: Tensor | None) -> ctypes.c_void_p:
    if tensor is None or tensor.numel() == 0:
        return ctypes.c_void_p(None)
    assert tensor.is_contiguous()
    return ctypes.c_void_p(tensor.data_ptr())


def _int(value: int) -> ctypes.c_int64:
    return ctypes.c_int64(value)


def _is_bfloat16(dtype: torch.dtype) -> ctypes.c_int:
    return ctypes.c_int(dtype == torch.bfloat16)


def _threads() -> ctypes.c_int:
    return ctypes.c_int(torch.get_num_threads())


@cache
def _library() -> ctypes.CDLL:
    library = compiled.load(SOURCE)
    library.spikesparse_chunks.restype = ctypes.c_int64
    return library
