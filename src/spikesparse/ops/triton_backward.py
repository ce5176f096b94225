"""The scan in Triton: the backward kernel and its phases. Equations: :mod:`spikesparse.ops.reference`."""

from __future__ import annotations

import triton
import triton.language as tl

from spikesparse.ops.triton_scan import (
    across_channels,
    charge,
    fires,
    full_tiles,
    is_live,
    load_row,
    load_steps,
    neuron_places,
    output_count,
    reset_potential,
    window_count,
)
from spikesparse.ops.triton_surrogates import derivative, trace_correction


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
    tiles = (window_count(batch, height, width, SUBS) + BLOCK_W - 1) // BLOCK_W
    channel = tl.cast(block, tl.int64) * BLOCK_C + tl.arange(0, BLOCK_C)
    neurons = tl.cast(batch * height * width, tl.int64) * channels  # of a step
    outputs = tl.cast(output_count(batch, height, width, SUBS), tl.int64) * channels
    if starts is not None:
        kept = starts + tl.cast(tl.program_id(0), tl.int64) * (CHUNKS * SUBS * BLOCK_W * BLOCK_C)
        kept = kept + tl.arange(0, BLOCK_W)[:, None] * BLOCK_C + tl.arange(0, BLOCK_C)[None, :]

    scale_row = None  # set here, since before Triton 3.7 a function cannot return None
    shift_row = None
    if scale is not None:
        scale_row = load_row(scale, channel, channels)
        shift_row = load_row(shift, channel, channels)
    center_row = None
    if center is not None:
        center_row = load_row(center, channel, channels)
    a = None
    b = None
    c = None
    if coefficients is not None:
        a = load_row(coefficients, channel, channels)
        b = load_row(coefficients + channels, channel, channels)
        c = load_row(coefficients + 2 * channels, channel, channels)
    decay = tl.load(decay)
    threshold = tl.load(threshold)
    v0 = full_tiles(0.0 if initial is None else tl.load(initial), SUBS, BLOCK_W, BLOCK_C)

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
        positions, inside, leaves = neuron_places(window, batch, height, width, SUBS)
        offsets, masks = across_channels(positions, inside, channel, channels)
        leaving, passing = across_channels((leaves,), (inside[SUBS - 1],), channel, channels)
        if grad_fired is not None:
            windows = window_count(batch, height, width, SUBS)
            of_window = tl.load(grad_fired + window, window < windows, other=0.0)[:, None]
        if grad_events is not None:
            of_output = tl.load(grad_events + leaves, inside[SUBS - 1], other=0.0)[:, None]
        constant = ()
        if CONSTANT:
            constant = load_steps(y, 0, 0, offsets, masks, 1, 1)

        filtered = full_tiles(0.0, SUBS, BLOCK_W, BLOCK_C)
        total = full_tiles(0.0, SUBS, BLOCK_W, BLOCK_C)
        if CHUNKS > 1:
            filtered, total = _forward_sweep(
                y,
                constant,
                kept,
                v0,
                filtered,
                total,
                scale_row,
                shift_row,
                decay,
                threshold,
                neurons,
                offsets,
                masks,
                T,
                STEPS,
                SUBS,
                CHUNKS,
                CONSTANT,
                SOFT,
                STRICT,
                TRACED,
                BLOCK_W * BLOCK_C,
            )

        # Back through time, chunk by chunk: h again, then the gradients.
        grad_v = full_tiles(0.0, SUBS, BLOCK_W, BLOCK_C)  # of the membrane after a step, from the steps behind it
        grad_constant = full_tiles(0.0, SUBS, BLOCK_W, BLOCK_C)
        sum_g = tl.full([BLOCK_W, BLOCK_C], 0.0, tl.float32)
        sum_gy = tl.full([BLOCK_W, BLOCK_C], 0.0, tl.float32)
        sum_decay = tl.full([BLOCK_W, BLOCK_C], 0.0, tl.float32)
        sum_threshold = tl.full([BLOCK_W, BLOCK_C], 0.0, tl.float32)
        for back in range(CHUNKS):
            first = tl.cast((CHUNKS - 1 - back) * STEPS, tl.int64)
            start = v0
            if CHUNKS > 1:
                start = _load_potentials(kept, CHUNKS - 1 - back, SUBS, BLOCK_W * BLOCK_C)
            ys = constant
            if not CONSTANT:
                ys = load_steps(y, first, neurons, offsets, masks, T, STEPS)
            grads = load_steps(grad_spikes, first, outputs, leaving, passing, T, STEPS)
            hs, _ = charge(start, ys, scale_row, shift_row, decay, threshold, SOFT, STRICT, CONSTANT, STEPS, SUBS)
            if TRACED and CHUNKS == 1:
                filtered, total = _trace(filtered, total, hs, 0, decay, threshold, STRICT, T, STEPS, SUBS)
            for t in tl.static_range(STEPS - 1, -1, -1):
                grad_out = grads[t].to(tl.float32)
                if grad_events is not None:
                    grad_out = grad_out + of_output
                winner = _winner(hs, t, threshold, STRICT, SUBS, BLOCK_W, BLOCK_C)
                before = ()
                for sub in tl.static_range(SUBS):
                    h = hs[t * SUBS + sub]
                    s = fires(h, threshold, STRICT)
                    grad_s = grad_out
                    if SUBS > 1:
                        grad_s = tl.where(winner == sub, grad_out, 0.0)
                    if grad_fired is not None:
                        grad_s = grad_s + of_window
                    there = masks[sub]
                    if T % STEPS:
                        there = there & is_live(first + t, T)
                    grad_s = tl.where(there, grad_s, 0.0)
                    if TRACED:
                        grad_s = grad_s * trace_correction(filtered[sub], total[sub], decay)
                    g, sum_threshold = _membrane_gradient(
                        h, s, grad_s, grad_v[sub], sum_threshold, threshold, SOFT, DETACH, SURROGATE, SLOPE
                    )
                    last = start[sub]
                    if t > 0:
                        earlier = hs[t * SUBS + sub - SUBS]
                        last = reset_potential(earlier, fires(earlier, threshold, STRICT), threshold, SOFT)
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
                centered = _centered(constant[sub], center_row)
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
        _store_sums(sums, all_g, all_gy, tl.program_id(0) // blocks, programs, channel, channels)
    if learned is not None:
        _store_learned(learned, all_decay, all_threshold, all_initial)


@triton.jit
def _store_potentials(kept, chunk, v, SUBS: tl.constexpr, TILE: tl.constexpr):
    """Keep the potentials that a chunk starts from."""
    for sub in tl.static_range(SUBS):
        tl.store(kept + (chunk * SUBS + sub) * TILE, v[sub])


@triton.jit
def _load_potentials(kept, chunk, SUBS: tl.constexpr, TILE: tl.constexpr):
    """The potentials that a chunk starts from."""
    found = ()
    for sub in tl.static_range(SUBS):
        found = found + (tl.load(kept + (chunk * SUBS + sub) * TILE),)
    return found


@triton.jit
def _forward_sweep(
    y,
    constant,
    kept,
    v,
    filtered,
    total,
    scale,
    shift,
    decay,
    threshold,
    neurons,
    offsets,
    masks,
    T: tl.constexpr,
    STEPS: tl.constexpr,
    SUBS: tl.constexpr,
    CHUNKS: tl.constexpr,
    CONSTANT: tl.constexpr,
    SOFT: tl.constexpr,
    STRICT: tl.constexpr,
    TRACED: tl.constexpr,
    TILE: tl.constexpr,
):
    """Forward once more, if there are several chunks: only what each of them starts from, and Lee's trace."""
    tl.debug_barrier()  # of the tile before, threads may still read
    for chunk in range(CHUNKS if TRACED else CHUNKS - 1):
        first = tl.cast(chunk * STEPS, tl.int64)
        _store_potentials(kept, chunk, v, SUBS, TILE)
        ys = constant
        if not CONSTANT:
            ys = load_steps(y, first, neurons, offsets, masks, T, STEPS)
        hs, v = charge(v, ys, scale, shift, decay, threshold, SOFT, STRICT, CONSTANT, STEPS, SUBS)
        if TRACED:
            filtered, total = _trace(filtered, total, hs, first, decay, threshold, STRICT, T, STEPS, SUBS)
    if not TRACED:
        _store_potentials(kept, CHUNKS - 1, v, SUBS, TILE)
    tl.debug_barrier()  # what one thread stored another may load
    return filtered, total


@triton.jit
def _winner(
    hs,
    t: tl.constexpr,
    threshold,
    STRICT: tl.constexpr,
    SUBS: tl.constexpr,
    BLOCK_W: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Which neuron gets a window's gradient: its first spike, or its first neuron if none fired. torch's rule."""
    winner = tl.full([BLOCK_W, BLOCK_C], 0, tl.int32)
    for sub in tl.static_range(SUBS - 1, -1, -1):
        winner = tl.where(fires(hs[t * SUBS + sub], threshold, STRICT), sub, winner)
    return winner


@triton.jit
def _membrane_gradient(
    h,
    s,
    grad_s,
    grad_v,
    sum_threshold,
    threshold,
    SOFT: tl.constexpr,
    DETACH: tl.constexpr,
    SURROGATE: tl.constexpr,
    SLOPE: tl.constexpr,
):
    """Gradient g of the potential h before the reset, and the sum for a learned threshold with this step's share.

    g = grad_s sigma + grad_v dv/dh, where dv/dh is (1 - s) - h sigma, or 1 - threshold sigma.
    """
    sigma = derivative(h, s, threshold, SURROGATE, SLOPE)
    direct = grad_s * sigma
    g = direct + (grad_v if SOFT else tl.where(s, 0.0, grad_v))
    sum_threshold -= direct
    if SOFT:
        sum_threshold -= tl.where(s, grad_v, 0.0)
    if not DETACH:
        through = grad_v * sigma * (threshold if SOFT else h)
        g = g - through
        sum_threshold += through
    return g, sum_threshold


@triton.jit
def _store_sums(sums, all_g, all_gy, place, programs, channel, channels):
    """This program's part of the two sums per channel."""
    at = tl.cast(place, tl.int64) * channels + channel
    tl.store(sums + at, tl.sum(all_g, 0), channel < channels)
    tl.store(sums + tl.cast(programs, tl.int64) * channels + at, tl.sum(all_gy, 0), channel < channels)


@triton.jit
def _store_learned(learned, all_decay, all_threshold, all_initial):
    """This program's part of the gradients of learned values."""
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
            s = tl.where(fires(hs[t * SUBS + sub], threshold, STRICT), 1.0, 0.0)
            next_filtered = filtered[sub] * decay + s
            if T % STEPS:
                live = is_live(first + t, T)
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
