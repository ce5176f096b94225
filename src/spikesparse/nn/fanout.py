"""Exact fan-out: how many synapses one event drives, at its own position.

Everything follows from one integer matrix per dimension, ``reach``: reach[o, i] is 1 where output o of a sliding
window reads input i. Borders, strides and dilation are then right by construction.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def reach(size: int, kernel: int, stride: int = 1, padding: int = 0, dilation: int = 1) -> Tensor:
    """Which inputs each output of a sliding window reads: int64 (outputs, ``size``) of zeros and ones."""
    outputs = (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
    position = torch.arange(outputs)[:, None] * stride - padding + torch.arange(kernel)[None, :] * dilation
    table = torch.zeros(outputs, size, dtype=torch.int64)
    for row, columns in zip(table, position, strict=True):
        row[columns[(columns >= 0) & (columns < size)]] = 1
    return table


def _pair(value: int | tuple[int, ...]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def conv_fanout(conv: nn.Conv2d, height: int, width: int) -> Tensor:
    """Synapses of ``conv`` that one event at each input position drives: int64 (height, width), for any channel."""
    if conv.padding_mode != "zeros" or isinstance(conv.padding, str):
        raise ValueError("only zero padding given as numbers is counted")
    per_axis = [
        reach(size, k, s, p, d).sum(0)
        for size, k, s, p, d in zip(
            (height, width), conv.kernel_size, conv.stride, conv.padding, conv.dilation, strict=True
        )
    ]
    return conv.out_channels // conv.groups * torch.outer(per_axis[0], per_axis[1])


def through_average_pool(pool: nn.AvgPool2d, fanout: Tensor, height: int, width: int) -> Tensor:
    """Fan-out of an event that enters ``pool``, through every window it falls in, given the fan-out behind it.

    Args:
        pool: a plain average pool.
        fanout: int64 (H', W'), of the positions behind the pool.
        height: rows before the pool.
        width: columns before the pool.
    """
    kernel, stride, padding = _pair(pool.kernel_size), _pair(pool.stride), _pair(pool.padding)
    if pool.ceil_mode:
        raise ValueError("ceil_mode is not counted")
    rows = reach(height, kernel[0], stride[0], padding[0])
    columns = reach(width, kernel[1], stride[1], padding[1])
    return rows.T @ fanout @ columns
