"""The scan on CUDA: kernels written in Triton, launched here. Imported at first use: Triton is optional.

==================  ==========================================================================================
triton_scan         the forward pass, and what both passes share
triton_backward     the backward pass, phase by phase
triton_surrogates   the surrogates' derivatives
triton_moments      BatchNorm's statistics
triton_bits         spikes as bits
==================  ==========================================================================================

Nothing here waits for the device or tries block sizes out, so that CUDA graphs can capture it, and no kernel adds
floating-point numbers atomically, so that a result is always the same.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import triton
from torch import Tensor

from spikesparse.ops.problem import Gradients, Scan, SpikeGradients, Spikes, Wanted
from spikesparse.ops.triton_backward import backward_kernel
from spikesparse.ops.triton_bits import pack_kernel, unpack_kernel
from spikesparse.ops.triton_moments import merge_kernel, moments_kernel
from spikesparse.ops.triton_scan import forward_kernel

# Forward and backward must compute the same membrane, so multiply and add are never contracted.
OPTIONS = {"num_warps": 4, "num_stages": 1, "enable_fp_fusion": False}
THREADS = 32 * OPTIONS["num_warps"]  # of a program
WAVES = 8  # programs of a multiprocessor, where each leaves a part of a sum

# How much of it a thread holds: lanes (neighbouring channels, or windows) x neurons of a window x steps in flight.
# Registers are the scarcest resource: 255 a thread, and a multiprocessor has 65536. With more values in flight they
# spill to memory; with fewer, too few loads are pending at the same time.
#
# Forward, a thread loads its 16 bytes at once, and as many steps as FORWARD_VALUES leave room for: walking steps in
# chunks costs nothing. Backward it does (v at each chunk's start goes through memory, and h is computed twice), so
# up to CHUNK steps come first, and lanes as there is room.
FORWARD_VALUES, BACKWARD_VALUES = 64, 32
CHUNK = 8


def prepare() -> None:
    """Raise RuntimeError where these kernels cannot run."""
    if not torch.cuda.is_available() and not triton.knobs.runtime.interpret:
        raise RuntimeError("no CUDA device; TRITON_INTERPRET=1 runs them on the CPU, slowly")


def moments(y: Tensor) -> Tensor:
    """Mean and biased variance of each channel, in float64."""
    channels = y.shape[-1]
    rows = y.numel() // channels
    block_r, block_c = _block(rows, channels, THREADS * _widest(y))
    unroll = 8
    blocks = triton.cdiv(channels, block_c)
    programs = min(triton.cdiv(rows, unroll * block_r), triton.cdiv(_at_once(y.device), blocks), 512) or 1
    parts = y.new_empty(3, programs, channels, dtype=torch.float64)
    found = y.new_empty(2, channels, dtype=torch.float64)
    _launch(moments_kernel, programs * blocks, y, parts, rows, channels, unroll, block_r, block_c)
    block_p = triton.next_power_of_2(programs)
    block_c = max(1, 2048 // block_p)
    _launch(merge_kernel, triton.cdiv(channels, block_c), parts, found, programs, channels, block_p, block_c)
    return found


def forward(scan: Scan, pack: bool, count: bool) -> Spikes:
    """Spikes, through the pool if there is one, with their bits and counts."""
    y, shape = scan.y, scan.out_shape
    steps, block_w, block_c = _forward_tile(scan)
    blocks = triton.cdiv(shape[-1], block_c)
    windows = (y.shape[1], *scan.windows)
    dense = y.new_empty(shape)
    bits = y.new_empty((*shape[:-1], -(-shape[-1] // 8)) if pack else 0, dtype=torch.uint8)
    fired = y.new_empty((blocks, *windows) if count else 0, dtype=torch.int32)
    events = y.new_empty((blocks, *shape[1:4]) if count and scan.pool else 0, dtype=torch.int32)
    _launch(
        forward_kernel,
        triton.cdiv(windows[0] * windows[1] * windows[2], block_w) * blocks,
        *(y, scan.scale, scan.shift, scan.decay, scan.threshold, scan.initial),
        *(dense, bits if pack else None, fired if count else None, events if count and scan.pool else None),
        *(*y.shape[1:], scan.timesteps, steps, _subs(scan), scan.constant),
        *(scan.spec.soft_reset, scan.spec.strict, block_w, block_c),
    )
    return Spikes(dense, bits, *(_of_all_blocks(each) for each in (fired, events)))


def backward(
    scan: Scan, gradients: SpikeGradients, wanted: Wanted, center: Tensor | None, coefficients: Tensor | None
) -> Gradients:
    """Gradients of y, of channels' sums, and of decay, threshold and initial membrane."""
    y, spec, subs = scan.y, scan.spec, _subs(scan)
    channels = y.shape[-1]
    steps, block_w, block_c = _backward_tile(scan)
    chunks = triton.cdiv(scan.timesteps, steps)
    blocks = triton.cdiv(channels, block_c)
    programs = triton.cdiv(y.shape[1] * scan.windows[0] * scan.windows[1], block_w)
    if wanted.channels or wanted.learned or chunks > 1:  # each program leaves something in memory: few programs
        programs = min(programs, triton.cdiv(_at_once(y.device), blocks)) or 1
    grad_y = torch.empty_like(y) if wanted.y else None
    sums = y.new_empty(2, programs, channels, dtype=torch.float64) if wanted.channels else None
    learned = y.new_empty(3, programs * blocks, dtype=torch.float64) if wanted.learned else None
    starts = None
    if chunks > 1:
        starts = y.new_empty(programs * blocks, chunks, subs, block_w, block_c, dtype=torch.float32)
    _launch(
        backward_kernel,
        programs * blocks,
        *(y, scan.scale, scan.shift, scan.decay, scan.threshold, scan.initial, *gradients, center, coefficients),
        *(grad_y, sums, learned, starts),
        *(*y.shape[1:], scan.timesteps, steps, subs, scan.constant),
        *(spec.soft_reset, spec.strict, spec.detach_reset, spec.surrogate.name, float(spec.surrogate.slope)),
        *(block_w, block_c),
    )
    return Gradients(grad_y, *(None if each is None else each.sum(1) for each in (sums, learned)))


def pack_bits(x: Tensor) -> Tensor:
    """(N, C) -> uint8 (N, ceil(C / 8))."""
    rows, channels = x.shape
    bits = x.new_empty(rows, -(-channels // 8), dtype=torch.uint8)
    block_r, block_c = _block(rows, channels, THREADS * 8)
    grid = triton.cdiv(rows, block_r) * triton.cdiv(channels, block_c)
    _launch(pack_kernel, grid, x.contiguous(), bits, rows, channels, block_r, block_c)
    return bits


def unpack_bits(bits: Tensor, channels: int, dtype: torch.dtype) -> Tensor:
    """The reverse: zeros and ones, (N, C)."""
    rows = len(bits)
    x = bits.new_empty(rows, channels, dtype=dtype)
    block_r, block_c = _block(rows, channels, THREADS * 8)
    grid = triton.cdiv(rows, block_r) * triton.cdiv(channels, block_c)
    _launch(unpack_kernel, grid, bits.contiguous(), x, rows, channels, block_r, block_c)
    return x


def _forward_tile(scan: Scan) -> tuple[int, int, int]:
    """Steps in a chunk, windows and channels of a tile."""
    lanes = _widest(scan.y)
    return _steps(scan.timesteps, FORWARD_VALUES // (lanes * _subs(scan))), *_blocks(scan, lanes)


def _backward_tile(scan: Scan) -> tuple[int, int, int]:
    """The same for the backward kernel."""
    steps = _steps(scan.timesteps, CHUNK)
    in_flight = triton.next_power_of_2(steps) * _subs(scan)
    return steps, *_blocks(scan, max(1, min(BACKWARD_VALUES // in_flight, _widest(scan.y))))


def _steps(timesteps: int, most: int) -> int:
    """Length of a chunk: a divisor, so that none is cut short, unless it would be less than half of what fits."""
    fits = [steps for steps in range(-(-most // 2), most + 1) if timesteps % steps == 0]
    return max(fits, default=triton.cdiv(timesteps, triton.cdiv(timesteps, most)))


def _subs(scan: Scan) -> int:
    """Neurons of a window."""
    return 4 if scan.pool else 1


def _blocks(scan: Scan, lanes: int) -> tuple[int, int]:
    rows, columns = scan.windows
    return _block(scan.y.shape[1] * rows * columns, scan.y.shape[-1], THREADS * lanes)


def _block(rows: int, channels: int, size: int) -> tuple[int, int]:
    """Rows and channels of a tile of ``size`` values or fewer; powers of two, channels at least 8: a byte of bits.

    As many channels as there are, so that a count needs no second tile; or, of 96, three times 32: no lane idles.
    """
    divisor = channels & -channels
    block_c = min(divisor if divisor >= 32 else max(8, triton.next_power_of_2(channels)), max(8, size))
    return max(1, min(size // block_c, triton.next_power_of_2(rows))), block_c


def _widest(y: Tensor) -> int:
    """Values in an access of 16 bytes, the largest that a thread makes."""
    return 16 // y.element_size()


def _of_all_blocks(counts: Tensor) -> Tensor:
    """(blocks, ...) -> (...), the sum over blocks; an empty tensor stays empty."""
    if counts.dim() == 1:
        return counts
    return counts[0] if len(counts) == 1 else counts.sum(0, dtype=counts.dtype)


@cache
def _at_once(device: torch.device) -> int:
    """Programs that fill a device."""
    return 3 if device.type == "cpu" else WAVES * torch.cuda.get_device_properties(device).multi_processor_count


def _launch(kernel: Any, programs: int, *arguments: object) -> None:
    if not programs:
        return
    tensor = next(each for each in arguments if isinstance(each, Tensor))
    with torch.cuda.device_of(tensor):
        kernel[(programs,)](*arguments, **OPTIONS)
