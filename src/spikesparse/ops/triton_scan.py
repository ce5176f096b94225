"""The scan in Triton: the forward kernel, and what both kernels share. Equations: :mod:`spikesparse.ops.reference`.

A program holds a tile: BLOCK_W pooling windows x BLOCK_C channels. A window has SUBS = 4 neurons, in row-major order;
without a pool it is one neuron. Everything that there is several of, neurons of a window and steps in flight, is a
tuple of tiles: the loops over them are unrolled, so that a tuple's items are registers.

The T steps are walked in CHUNKS of STEPS: all of a chunk's loads are issued before its first use. Both kernels are
compiled without contraction of multiply and add (see ``triton_kernels.py``): h must come out the same in each.
"""

from __future__ import annotations

import triton
import triton.language as tl

from spikesparse.ops.triton_bits import packed


@triton.jit
def fires(h, threshold, STRICT: tl.constexpr):
    return h > threshold if STRICT else h >= threshold


@triton.jit
def reset_potential(h, s, threshold, SOFT: tl.constexpr):
    return tl.where(s, h - threshold if SOFT else 0.0, h)


@triton.jit
def charge(
    v,
    ys,
    scale,
    shift,
    decay,
    threshold,
    SOFT: tl.constexpr,
    STRICT: tl.constexpr,
    CONSTANT: tl.constexpr,
    STEPS: tl.constexpr,
    SUBS: tl.constexpr,
):
    """The forward equations, for both kernels: h of each step and neuron of a chunk, and v after it."""
    hs = ()
    for t in tl.static_range(STEPS):
        after = ()
        for sub in tl.static_range(SUBS):
            x = ys[sub if CONSTANT else t * SUBS + sub].to(tl.float32)
            if scale is not None:
                x = x * scale
                x = x + shift
            h = decay * v[sub] + x
            hs = hs + (h,)
            after = after + (reset_potential(h, fires(h, threshold, STRICT), threshold, SOFT),)
        v = after
    return hs, v


@triton.jit
def window_count(batch, height, width, SUBS: tl.constexpr):
    return batch * height * width if SUBS == 1 else batch * ((height + 1) // 2) * ((width + 1) // 2)


@triton.jit
def output_count(batch, height, width, SUBS: tl.constexpr):
    return batch * height * width if SUBS == 1 else batch * (height // 2) * (width // 2)


@triton.jit
def neuron_places(window, batch, height, width, SUBS: tl.constexpr):
    """Where windows lie: position of each of their neurons and whether there is one; and position behind the pool.

    A window has an output if its last neuron is there: those cut by the border have none.
    """
    there = window < window_count(batch, height, width, SUBS)
    if SUBS == 1:
        leaves = window.to(tl.int64)
        positions = (leaves,)
        inside = (there,)
    else:
        column = window % ((width + 1) // 2)
        row = window // ((width + 1) // 2) % ((height + 1) // 2)
        image = window // ((width + 1) // 2) // ((height + 1) // 2)
        leaves = ((image * (height // 2) + row) * (width // 2) + column).to(tl.int64)
        positions = ()
        inside = ()
        for sub in tl.static_range(SUBS):
            y = 2 * row + sub // 2
            x = 2 * column + sub % 2
            positions = positions + (((image * height + y) * width + x).to(tl.int64),)
            inside = inside + (there & (y < height) & (x < width),)
    return positions, inside, leaves


@triton.jit
def across_channels(positions, inside, channel, channels):
    """Rows' positions -> tiles' offsets and masks: all channels of each."""
    offsets = ()
    masks = ()
    for i in tl.static_range(len(positions)):
        offsets = offsets + (positions[i][:, None] * channels + channel[None, :],)
        masks = masks + (inside[i][:, None] & (channel < channels)[None, :],)
    return offsets, masks


@triton.jit
def is_live(step, T: tl.constexpr):
    """Is there such a step? As a tile of one: of a single truth, Triton's interpreter makes an integer mask."""
    return tl.full([1, 1], 0, tl.int32) + step < T


@triton.jit
def load_steps(source, first, stride, offsets, masks, T: tl.constexpr, STEPS: tl.constexpr):
    """Tiles of STEPS steps from ``first`` on, at each of ``offsets``; of steps behind the last, zeros."""
    found = ()
    for t in tl.static_range(STEPS):
        for i in tl.static_range(len(offsets)):
            mask = masks[i]
            if T % STEPS:
                mask = mask & is_live(first + t, T)
            found = found + (tl.load(source + (first + t) * stride + offsets[i], mask, other=0.0),)
    return found


@triton.jit
def load_row(source, channel, channels):
    """(C,) -> a tile's row."""
    return tl.load(source + channel, channel < channels, other=0.0)[None, :]


@triton.jit
def full_tiles(value, count: tl.constexpr, BLOCK_W: tl.constexpr, BLOCK_C: tl.constexpr):
    found = ()
    for _ in tl.static_range(count):
        found = found + (tl.full([BLOCK_W, BLOCK_C], value, tl.float32),)
    return found


@triton.jit(do_not_specialize=["batch", "height", "width"])
def forward_kernel(
    y,
    scale,
    shift,
    decay,
    threshold,
    initial,
    spikes,
    bits,
    fired,
    events,
    batch,
    height,
    width,
    channels,
    T: tl.constexpr,
    STEPS: tl.constexpr,
    SUBS: tl.constexpr,
    CONSTANT: tl.constexpr,
    SOFT: tl.constexpr,
    STRICT: tl.constexpr,
    BLOCK_W: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Spikes; and bits, counts by window, counts behind the pool, of those that are not None.

    Counts are (blocks of channels, windows) and (blocks of channels, outputs).
    """
    CHUNKS: tl.constexpr = (T + STEPS - 1) // STEPS
    blocks = (channels + BLOCK_C - 1) // BLOCK_C
    block = tl.program_id(0) % blocks
    window = tl.program_id(0) // blocks * BLOCK_W + tl.arange(0, BLOCK_W)
    channel = tl.cast(block, tl.int64) * BLOCK_C + tl.arange(0, BLOCK_C)
    windows = tl.cast(window_count(batch, height, width, SUBS), tl.int64)
    outputs = tl.cast(output_count(batch, height, width, SUBS), tl.int64)
    neurons = tl.cast(batch * height * width, tl.int64) * channels  # of a step

    positions, inside, leaves = neuron_places(window, batch, height, width, SUBS)
    offsets, masks = across_channels(positions, inside, channel, channels)
    whole = inside[SUBS - 1]
    scale_row = None  # set here, since before Triton 3.7 a function cannot return None
    shift_row = None
    if scale is not None:
        scale_row = load_row(scale, channel, channels)
        shift_row = load_row(shift, channel, channels)
    decay = tl.load(decay)
    threshold = tl.load(threshold)

    v = full_tiles(0.0 if initial is None else tl.load(initial), SUBS, BLOCK_W, BLOCK_C)
    of_window = tl.full([BLOCK_W, BLOCK_C], 0, tl.int32)
    of_output = tl.full([BLOCK_W, BLOCK_C], 0, tl.int32)
    if CONSTANT:
        ys = load_steps(y, 0, 0, offsets, masks, 1, 1)
    for chunk in range(CHUNKS):
        first = tl.cast(chunk * STEPS, tl.int64)
        if not CONSTANT:
            ys = load_steps(y, first, neurons, offsets, masks, T, STEPS)
        hs, v = charge(v, ys, scale_row, shift_row, decay, threshold, SOFT, STRICT, CONSTANT, STEPS, SUBS)
        for t in tl.static_range(STEPS):
            live = is_live(first + t, T)
            out = tl.full([BLOCK_W, BLOCK_C], 0, tl.int32)
            for sub in tl.static_range(SUBS):
                s = (fires(hs[t * SUBS + sub], threshold, STRICT) & masks[sub]).to(tl.int32)
                if T % STEPS:
                    s = tl.where(live, s, 0)
                of_window += s
                out = out | s
            keep = masks[SUBS - 1]
            keep_row = whole[:, None]
            if T % STEPS:
                keep = keep & live
                keep_row = keep_row & live
            if SUBS > 1:
                out = tl.where(keep, out, 0)
            of_output += out
            at = (first + t) * (outputs * channels) + leaves[:, None] * channels + channel[None, :]
            tl.store(spikes + at, out.to(tl.float32).to(spikes.dtype.element_ty), keep)
            if bits is not None:
                size = (channels + 7) // 8
                byte = tl.cast(block, tl.int64) * (BLOCK_C // 8) + tl.arange(0, BLOCK_C // 8)
                at = (first + t) * (outputs * size) + leaves[:, None] * size + byte[None, :]
                tl.store(bits + at, packed(out, BLOCK_W, BLOCK_C), keep_row & (byte < size)[None, :])
    if fired is not None:
        tl.store(fired + block * windows + window, tl.sum(of_window, 1), window < windows)
    if events is not None:
        tl.store(events + block * outputs + leaves, tl.sum(of_output, 1), whole)
