"""The scan as two Triton kernels; the equations are derived in :mod:`spikesparse.ops.reference`.

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
from spikesparse.ops.triton_surrogates import derivative, trace_correction


@triton.jit
def _fires(h, threshold, STRICT: tl.constexpr):
    return h > threshold if STRICT else h >= threshold


@triton.jit
def _reset(h, s, threshold, SOFT: tl.constexpr):
    return tl.where(s, h - threshold if SOFT else 0.0, h)


@triton.jit
def _charge(
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
            after = after + (_reset(h, _fires(h, threshold, STRICT), threshold, SOFT),)
        v = after
    return hs, v


@triton.jit
def _windows(batch, height, width, SUBS: tl.constexpr):
    return batch * height * width if SUBS == 1 else batch * ((height + 1) // 2) * ((width + 1) // 2)


@triton.jit
def _outputs(batch, height, width, SUBS: tl.constexpr):
    return batch * height * width if SUBS == 1 else batch * (height // 2) * (width // 2)


@triton.jit
def _neurons(window, batch, height, width, SUBS: tl.constexpr):
    """Where windows lie: position of each of their neurons and whether there is one; and position behind the pool.

    A window has an output if its last neuron is there: those cut by the border have none.
    """
    there = window < _windows(batch, height, width, SUBS)
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
def _across(positions, inside, channel, channels):
    """Rows' positions -> tiles' offsets and masks: all channels of each."""
    offsets = ()
    masks = ()
    for i in tl.static_range(len(positions)):
        offsets = offsets + (positions[i][:, None] * channels + channel[None, :],)
        masks = masks + (inside[i][:, None] & (channel < channels)[None, :],)
    return offsets, masks


@triton.jit
def _live(step, T: tl.constexpr):
    """Is there such a step? As a tile of one: of a single truth, Triton's interpreter makes an integer mask."""
    return tl.full([1, 1], 0, tl.int32) + step < T


@triton.jit
def _load_steps(source, first, stride, offsets, masks, T: tl.constexpr, STEPS: tl.constexpr):
    """Tiles of STEPS steps from ``first`` on, at each of ``offsets``; of steps behind the last, zeros."""
    found = ()
    for t in tl.static_range(STEPS):
        for i in tl.static_range(len(offsets)):
            mask = masks[i]
            if T % STEPS:
                mask = mask & _live(first + t, T)
            found = found + (tl.load(source + (first + t) * stride + offsets[i], mask, other=0.0),)
    return found


@triton.jit
def _row(source, channel, channels):
    """(C,) -> a tile's row."""
    return tl.load(source + channel, channel < channels, other=0.0)[None, :]


@triton.jit
def _tiles(value, count: tl.constexpr, BLOCK_W: tl.constexpr, BLOCK_C: tl.constexpr):
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
    windows = tl.cast(_windows(batch, height, width, SUBS), tl.int64)
    outputs = tl.cast(_outputs(batch, height, width, SUBS), tl.int64)
    neurons = tl.cast(batch * height * width, tl.int64) * channels  # of a step

    positions, inside, leaves = _neurons(window, batch, height, width, SUBS)
    offsets, masks = _across(positions, inside, channel, channels)
    whole = inside[SUBS - 1]
    scale_row = None  # set here, since before Triton 3.7 a function cannot return None
    shift_row = None
    if scale is not None:
        scale_row = _row(scale, channel, channels)
        shift_row = _row(shift, channel, channels)
    decay = tl.load(decay)
    threshold = tl.load(threshold)

    v = _tiles(0.0 if initial is None else tl.load(initial), SUBS, BLOCK_W, BLOCK_C)
    of_window = tl.full([BLOCK_W, BLOCK_C], 0, tl.int32)
    of_output = tl.full([BLOCK_W, BLOCK_C], 0, tl.int32)
    if CONSTANT:
        ys = _load_steps(y, 0, 0, offsets, masks, 1, 1)
    for chunk in range(CHUNKS):
        first = tl.cast(chunk * STEPS, tl.int64)
        if not CONSTANT:
            ys = _load_steps(y, first, neurons, offsets, masks, T, STEPS)
        hs, v = _charge(v, ys, scale_row, shift_row, decay, threshold, SOFT, STRICT, CONSTANT, STEPS, SUBS)
        for t in tl.static_range(STEPS):
            live = _live(first + t, T)
            out = tl.full([BLOCK_W, BLOCK_C], 0, tl.int32)
            for sub in tl.static_range(SUBS):
                s = (_fires(hs[t * SUBS + sub], threshold, STRICT) & masks[sub]).to(tl.int32)
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


@triton.jit
def _write(target, offset, mask, g, centered, a, b, c):
    """A * g + b * (y - center) + c, where it is asked for."""
    if target is not None:
        if a is not None:
            g = a * g + b * centered + c
        tl.store(target + offset, g.to(target.dtype.element_ty), mask)


@triton.jit(do_not_specialize=["batch", "height", "width"])
def backward_kernel(
    y,
    scale,
    shift,
    decay,
    threshold,
    initial,
    grad_spikes,
    grad_fired,
    grad_events,
    center,
    coefficients,
    grad_y,
    sums,
    learned,
    starts,
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
    DETACH: tl.constexpr,
    SURROGATE: tl.constexpr,
    SLOPE: tl.constexpr,
    BLOCK_W: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Of grad_y, sums and learned, those that are not None. A block of channels' programs take turns at its tiles.

    Each leaves its own part of the sums: ``sums`` is float64 (2, programs of a channel, C), ``learned`` float64
    (3, programs). With several chunks, ``starts`` keeps v at their beginnings: (programs, CHUNKS, SUBS, tile).
    """
    CHUNKS: tl.constexpr = (T + STEPS - 1) // STEPS
    TRACED: tl.constexpr = SURROGATE == "lee2020"
    blocks = (channels + BLOCK_C - 1) // BLOCK_C
    block = tl.program_id(0) % blocks
    programs = tl.num_programs(0) // blocks  # of a block of channels
    tiles = (_windows(batch, height, width, SUBS) + BLOCK_W - 1) // BLOCK_W
    channel = tl.cast(block, tl.int64) * BLOCK_C + tl.arange(0, BLOCK_C)
    neurons = tl.cast(batch * height * width, tl.int64) * channels  # of a step
    outputs = tl.cast(_outputs(batch, height, width, SUBS), tl.int64) * channels
    if starts is not None:
        kept = starts + tl.cast(tl.program_id(0), tl.int64) * (CHUNKS * SUBS * BLOCK_W * BLOCK_C)
        kept = kept + tl.arange(0, BLOCK_W)[:, None] * BLOCK_C + tl.arange(0, BLOCK_C)[None, :]

    scale_row = None  # set here, since before Triton 3.7 a function cannot return None
    shift_row = None
    if scale is not None:
        scale_row = _row(scale, channel, channels)
        shift_row = _row(shift, channel, channels)
    center_row = None
    if center is not None:
        center_row = _row(center, channel, channels)
    a = None
    b = None
    c = None
    if coefficients is not None:
        a = _row(coefficients, channel, channels)
        b = _row(coefficients + channels, channel, channels)
        c = _row(coefficients + 2 * channels, channel, channels)
    decay = tl.load(decay)
    threshold = tl.load(threshold)
    v0 = _tiles(0.0 if initial is None else tl.load(initial), SUBS, BLOCK_W, BLOCK_C)

    if sums is not None:  # float32 within a tile, float64 over tiles
        all_g = tl.full([BLOCK_W, BLOCK_C], 0.0, tl.float64)
        all_gy = tl.full([BLOCK_W, BLOCK_C], 0.0, tl.float64)
    if learned is not None:
        all_decay = tl.full([BLOCK_W, BLOCK_C], 0.0, tl.float64)
        all_threshold = tl.full([BLOCK_W, BLOCK_C], 0.0, tl.float64)
        all_initial = tl.full([BLOCK_W, BLOCK_C], 0.0, tl.float64)

    tile = tl.program_id(0) // blocks
    while tile < tiles:
        window = tile * BLOCK_W + tl.arange(0, BLOCK_W)
        positions, inside, leaves = _neurons(window, batch, height, width, SUBS)
        offsets, masks = _across(positions, inside, channel, channels)
        leaving, passing = _across((leaves,), (inside[SUBS - 1],), channel, channels)
        if grad_fired is not None:
            windows = _windows(batch, height, width, SUBS)
            of_window = tl.load(grad_fired + window, window < windows, other=0.0)[:, None]
        if grad_events is not None:
            of_output = tl.load(grad_events + leaves, inside[SUBS - 1], other=0.0)[:, None]
        if CONSTANT:
            ys = _load_steps(y, 0, 0, offsets, masks, 1, 1)

        # Forward, if there are several chunks: only what each of them starts from, and Lee's trace.
        filtered = _tiles(0.0, SUBS, BLOCK_W, BLOCK_C)
        total = _tiles(0.0, SUBS, BLOCK_W, BLOCK_C)
        if CHUNKS > 1:
            v = v0
            tl.debug_barrier()  # of the tile before, threads may still read
            for chunk in range(CHUNKS if TRACED else CHUNKS - 1):
                first = tl.cast(chunk * STEPS, tl.int64)
                for sub in tl.static_range(SUBS):
                    tl.store(kept + (chunk * SUBS + sub) * (BLOCK_W * BLOCK_C), v[sub])
                if not CONSTANT:
                    ys = _load_steps(y, first, neurons, offsets, masks, T, STEPS)
                hs, v = _charge(v, ys, scale_row, shift_row, decay, threshold, SOFT, STRICT, CONSTANT, STEPS, SUBS)
                if TRACED:
                    filtered, total = _trace(filtered, total, hs, first, decay, threshold, STRICT, T, STEPS, SUBS)
            if not TRACED:
                for sub in tl.static_range(SUBS):
                    tl.store(kept + ((CHUNKS - 1) * SUBS + sub) * (BLOCK_W * BLOCK_C), v[sub])
            tl.debug_barrier()  # what one thread stored another may load

        # Back through time, chunk by chunk: h again, then the gradients.
        grad_v = _tiles(0.0, SUBS, BLOCK_W, BLOCK_C)  # of the membrane after a step, from the steps behind it
        grad_constant = _tiles(0.0, SUBS, BLOCK_W, BLOCK_C)
        sum_g = tl.full([BLOCK_W, BLOCK_C], 0.0, tl.float32)
        sum_gy = tl.full([BLOCK_W, BLOCK_C], 0.0, tl.float32)
        sum_decay = tl.full([BLOCK_W, BLOCK_C], 0.0, tl.float32)
        sum_threshold = tl.full([BLOCK_W, BLOCK_C], 0.0, tl.float32)
        for back in range(CHUNKS):
            first = tl.cast((CHUNKS - 1 - back) * STEPS, tl.int64)
            start = v0
            if CHUNKS > 1:
                start = ()
                for sub in tl.static_range(SUBS):
                    start = start + (tl.load(kept + ((CHUNKS - 1 - back) * SUBS + sub) * (BLOCK_W * BLOCK_C)),)
            if not CONSTANT:
                ys = _load_steps(y, first, neurons, offsets, masks, T, STEPS)
            grads = _load_steps(grad_spikes, first, outputs, leaving, passing, T, STEPS)
            hs, _ = _charge(start, ys, scale_row, shift_row, decay, threshold, SOFT, STRICT, CONSTANT, STEPS, SUBS)
            if TRACED and CHUNKS == 1:
                filtered, total = _trace(filtered, total, hs, 0, decay, threshold, STRICT, T, STEPS, SUBS)
            for t in tl.static_range(STEPS - 1, -1, -1):
                grad_out = grads[t].to(tl.float32)
                if grad_events is not None:
                    grad_out = grad_out + of_output
                # A window's gradient goes to its first spike, or to its first neuron if none fired: torch's rule.
                winner = tl.full([BLOCK_W, BLOCK_C], 0, tl.int32)
                for sub in tl.static_range(SUBS - 1, -1, -1):
                    winner = tl.where(_fires(hs[t * SUBS + sub], threshold, STRICT), sub, winner)
                before = ()
                for sub in tl.static_range(SUBS):
                    h = hs[t * SUBS + sub]
                    s = _fires(h, threshold, STRICT)
                    grad_s = grad_out
                    if SUBS > 1:
                        grad_s = tl.where(winner == sub, grad_out, 0.0)
                    if grad_fired is not None:
                        grad_s = grad_s + of_window
                    there = masks[sub]
                    if T % STEPS:
                        there = there & _live(first + t, T)
                    grad_s = tl.where(there, grad_s, 0.0)
                    if TRACED:
                        grad_s = grad_s * trace_correction(filtered[sub], total[sub], decay)

                    # g = grad_s sigma + grad_v dv/dh, where dv/dh is (1 - s) - h sigma, or 1 - threshold sigma
                    sigma = derivative(h, s, threshold, SURROGATE, SLOPE)
                    direct = grad_s * sigma
                    g = direct + (grad_v[sub] if SOFT else tl.where(s, 0.0, grad_v[sub]))
                    sum_threshold -= direct
                    if SOFT:
                        sum_threshold -= tl.where(s, grad_v[sub], 0.0)
                    if not DETACH:
                        through = grad_v[sub] * sigma * (threshold if SOFT else h)
                        g = g - through
                        sum_threshold += through
                    last = start[sub]
                    if t > 0:
                        earlier = hs[t * SUBS + sub - SUBS]
                        last = _reset(earlier, _fires(earlier, threshold, STRICT), threshold, SOFT)
                    sum_decay += g * last
                    before = before + (g * decay,)

                    if CONSTANT:
                        grad_constant = _added(grad_constant, sub, g)
                    else:
                        centered = _centered(ys[t * SUBS + sub], center_row)
                        sum_g += g
                        sum_gy += g * centered
                        _write(grad_y, (first + t) * neurons + offsets[sub], there, g, centered, a, b, c)
                grad_v = before

        if CONSTANT:
            for sub in tl.static_range(SUBS):
                centered = _centered(ys[sub], center_row)
                sum_g += grad_constant[sub]
                sum_gy += grad_constant[sub] * centered
                _write(grad_y, offsets[sub], masks[sub], grad_constant[sub], centered, a, b, c)
        if sums is not None:
            all_g += sum_g.to(tl.float64)
            all_gy += sum_gy.to(tl.float64)
        if learned is not None:
            all_decay += sum_decay.to(tl.float64)
            all_threshold += sum_threshold.to(tl.float64)
            for sub in tl.static_range(SUBS):
                all_initial += grad_v[sub].to(tl.float64)
        tile += programs

    if sums is not None:
        at = tl.cast(tl.program_id(0) // blocks, tl.int64) * channels + channel
        tl.store(sums + at, tl.sum(all_g, 0), channel < channels)
        tl.store(sums + tl.cast(programs, tl.int64) * channels + at, tl.sum(all_gy, 0), channel < channels)
    if learned is not None:
        tl.store(learned + tl.program_id(0), tl.sum(tl.sum(all_decay, 1), 0))
        tl.store(learned + tl.num_programs(0) + tl.program_id(0), tl.sum(tl.sum(all_threshold, 1), 0))
        tl.store(learned + 2 * tl.num_programs(0) + tl.program_id(0), tl.sum(tl.sum(all_initial, 1), 0))


@triton.jit
def _trace(
    filtered,
    total,
    hs,
    first,
    decay,
    threshold,
    STRICT: tl.constexpr,
    T: tl.constexpr,
    STEPS: tl.constexpr,
    SUBS: tl.constexpr,
):
    """Of Lee2020: the leaky-filtered and the plain spike count, a chunk further."""
    for t in tl.static_range(STEPS):
        leaked = ()
        counted = ()
        for sub in tl.static_range(SUBS):
            s = tl.where(_fires(hs[t * SUBS + sub], threshold, STRICT), 1.0, 0.0)
            next_filtered = filtered[sub] * decay + s
            if T % STEPS:
                live = _live(first + t, T)
                s = tl.where(live, s, 0.0)
                next_filtered = tl.where(live, next_filtered, filtered[sub])
            leaked = leaked + (next_filtered,)
            counted = counted + (total[sub] + s,)
        filtered = leaked
        total = counted
    return filtered, total


@triton.jit
def _centered(y, center):
    found = y.to(tl.float32)
    if center is not None:
        found = found - center
    return found


@triton.jit
def _added(tiles, index: tl.constexpr, tile):
    """The tuple with ``tile`` added to one of its items."""
    found = ()
    for i in tl.static_range(len(tiles)):
        found = found + (tiles[i] + tile if i == index else tiles[i],)
    return found
