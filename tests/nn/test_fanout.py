"""Fan-out against loops that walk every synapse."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from spikesparse.nn.fanout import conv_fanout, taps, through_average_pool

thorough = settings(max_examples=60, deadline=None, derandomize=True, database=None)


@st.composite
def windows(draw, dilated=True):
    """(size, kernel, stride, padding, dilation) of a sliding window that fits at least once."""
    kernel, stride = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    padding = draw(st.integers(0, kernel // 2))
    dilation = draw(st.integers(1, 3)) if dilated else 1
    smallest = max(1, dilation * (kernel - 1) + 1 - 2 * padding)
    return draw(st.integers(smallest, smallest + 6)), kernel, stride, padding, dilation


def starts(size, kernel, stride, padding, dilation):
    """First position, possibly in the padding, of every window: they may not reach past the padding's end."""
    start, span = -padding, dilation * (kernel - 1)
    while start + span < size + padding:
        yield start
        start += stride


@thorough
@given(windows())
def test_taps_list_what_each_window_reads(window):
    size, kernel, _, _, dilation = window
    expected = [
        [[int(start + k * dilation == i) for i in range(size)] for start in starts(*window)] for k in range(kernel)
    ]
    table = taps(*window)
    assert table.dtype == torch.int64
    assert table.tolist() == expected


def walked_conv(channels, groups, rows, columns):
    """Synapses from each position of one input channel, one by one."""
    height, width = rows[0], columns[0]
    fanout = [[0] * width for _ in range(height)]
    for _ in range(channels // groups):  # the outputs that an input channel's group has
        for top in starts(*rows):
            for left in starts(*columns):
                for ky in range(rows[1]):
                    for kx in range(columns[1]):
                        y, x = top + ky * rows[4], left + kx * columns[4]
                        if 0 <= y < height and 0 <= x < width:
                            fanout[y][x] += 1
    return fanout


@thorough
@given(windows(), windows(), st.integers(1, 3), st.integers(1, 2))
def test_conv_fanout_equals_walking_the_synapses(rows, columns, per_group, groups):
    shape = [tuple(pair) for pair in zip(rows, columns, strict=True)]
    conv = nn.Conv2d(2, per_group * groups, shape[1], shape[2], shape[3], shape[4], groups)
    fanout = conv_fanout(conv, *shape[0])
    assert fanout.dtype == torch.int64
    assert fanout.tolist() == walked_conv(per_group * groups, groups, rows, columns)


@pytest.mark.parametrize("groups", [1, 2])
def test_conv_fanout_equals_outputs_that_an_event_changes(groups):
    """torch's own convolution, with weights of one, lights up one output per synapse."""
    conv = nn.Conv2d(4, 6, (3, 2), (2, 1), (1, 0), (1, 2), groups, bias=False)
    nn.init.ones_(conv.weight)
    fanout = conv_fanout(conv, 7, 6)
    for channel in range(4):
        for y in range(7):
            for x in range(6):
                event = torch.zeros(1, 4, 7, 6)
                event[0, channel, y, x] = 1
                assert fanout[y, x] == conv(event).count_nonzero()


@thorough
@given(windows(dilated=False), windows(dilated=False), st.integers(0, 2**32))
def test_through_average_pool_walks_every_window_an_event_falls_in(rows, columns, seed):
    size, kernel, stride, padding, _ = (tuple(pair) for pair in zip(rows, columns, strict=True))
    pool = nn.AvgPool2d(kernel, stride, padding)
    shape = pool(torch.zeros(1, *size)).shape[1:]
    behind = torch.randint(0, 1000, shape, generator=torch.Generator().manual_seed(seed))
    expected = [[0] * size[1] for _ in range(size[0])]
    for i, top in enumerate(starts(*rows)):
        for j, left in enumerate(starts(*columns)):
            for y in range(max(top, 0), min(top + kernel[0], size[0])):
                for x in range(max(left, 0), min(left + kernel[1], size[1])):
                    expected[y][x] += int(behind[i, j])
    assert through_average_pool(pool, behind, *size).tolist() == expected


def test_an_odd_row_that_no_window_reads_drives_nothing():
    fanout = through_average_pool(nn.AvgPool2d(2), torch.tensor([[7]]), 3, 2)
    assert fanout.tolist() == [[7, 7], [7, 7], [0, 0]]


@pytest.mark.parametrize("settings", [{"padding_mode": "circular", "padding": 1}, {"padding": "same"}])
def test_convolutions_that_are_not_counted_are_refused(settings):
    with pytest.raises(ValueError, match="zero padding"):
        conv_fanout(nn.Conv2d(1, 1, 3, **settings), 4, 4)


def test_ceil_mode_is_refused():
    with pytest.raises(ValueError, match="ceil_mode"):
        through_average_pool(nn.AvgPool2d(2, ceil_mode=True), torch.ones(2, 2, dtype=torch.int64), 3, 3)
