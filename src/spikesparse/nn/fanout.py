"""Exact fan-out: how many synapses one event drives, at its own position.

Everything follows from one table of zeros and ones per dimension, :func:`taps`: whether output o of a sliding window
reads input i through kernel position k. Borders, strides and dilation are then right by construction.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from spikesparse.nn.pooling import SpikingAvgPool2d


def taps(size: int, kernel: int, stride: int = 1, padding: int = 0, dilation: int = 1) -> Tensor:
    """Which input each output of a sliding window reads through each kernel position.

    Returns:
        int64 (``kernel``, outputs, ``size``) of zeros and ones.
    """
    outputs = (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
    # On the CPU whatever torch's default device is: on the meta device there would be no numbers.
    kernel_at, output_at, input_at = (torch.arange(number, device="cpu") for number in (kernel, outputs, size))
    position = kernel_at[:, None] * dilation + output_at[None, :] * stride - padding
    return (position[:, :, None] == input_at).to(torch.int64)


def _pair(value: int | tuple[int, ...]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def _conv_taps(conv: nn.Conv2d, height: int, width: int) -> tuple[Tensor, Tensor]:
    """:func:`taps` of a convolution, for rows and for columns."""
    if conv.padding_mode != "zeros" or isinstance(conv.padding, str):
        raise ValueError("only zero padding given as numbers is counted")
    rows, columns = (
        taps(size, k, s, p, d)
        for size, k, s, p, d in zip(
            (height, width), conv.kernel_size, conv.stride, conv.padding, conv.dilation, strict=True
        )
    )
    return rows, columns


def conv_fanout(conv: nn.Conv2d, height: int, width: int) -> Tensor:
    """Synapses of ``conv`` that one event at each input position drives: int64 (height, width), for any channel."""
    rows, columns = _conv_taps(conv, height, width)
    return conv.out_channels // conv.groups * torch.outer(rows.sum((0, 1)), columns.sum((0, 1)))


def nonzero_conv_fanout(conv: nn.Conv2d, connected: Tensor, height: int, width: int) -> Tensor:
    """:func:`conv_fanout` over the synapses of nonzero weight alone, which differs between channels.

    Args:
        conv: the convolution.
        connected: bool, of the shape of its weight (out, in / groups, kh, kw): which weights count.
        height: rows of its input.
        width: columns of its input.

    Returns:
        Whole numbers in float64, (in, height, width): integers have no matrix product on every device.
    """
    rows, columns = (table.sum(1).to(connected.device, torch.float64) for table in _conv_taps(conv, height, width))
    per_tap = connected.unflatten(0, (conv.groups, -1)).sum(1).flatten(0, 1).to(torch.float64)  # (in, kh, kw)
    fanout: Tensor = rows.T @ per_tap @ columns
    return fanout


def through_average_pool(pool: nn.AvgPool2d, fanout: Tensor, height: int, width: int) -> Tensor:
    """Fan-out of an event that enters ``pool``, through every window it falls in, given the fan-out behind it.

    Args:
        pool: a plain average pool.
        fanout: int64 or float64 (..., H', W'), of the positions behind the pool.
        height: rows before the pool.
        width: columns before the pool.
    """
    kernel, stride, padding = _pair(pool.kernel_size), _pair(pool.stride), _pair(pool.padding)
    if pool.ceil_mode:
        raise ValueError("ceil_mode is not counted")
    rows = taps(height, kernel[0], stride[0], padding[0]).sum(0).to(fanout)
    columns = taps(width, kernel[1], stride[1], padding[1]).sum(0).to(fanout)
    return rows.T @ fanout @ columns


@dataclass(frozen=True)
class Incoming:
    """What reaches a layer.

    Attributes:
        shape: (C, H, W) or (features,) of the tensor that enters it.
        pool: the plain average pool that the events counted for it have yet to pass, or None.
        unpooled: (H, W) in front of that pool.
    """

    shape: tuple[int, ...]
    pool: nn.AvgPool2d | None = None
    unpooled: tuple[int, int] = (1, 1)

    @property
    def features(self) -> int:
        """Values per image."""
        return math.prod(self.shape)

    def fanout(self, weights: nn.Conv2d | nn.Linear) -> Tensor:
        """Synapses into ``weights`` of one event, at each position where events are counted: int64 (H, W) or ().

        Raises:
            ValueError: if ``weights`` does not take this shape.
        """
        if isinstance(weights, nn.Conv2d):
            if len(self.shape) != 3 or self.shape[0] != weights.in_channels:
                raise ValueError(f"{weights} does not take an input of shape {self.shape}")
            fanout = conv_fanout(weights, *self.shape[1:])
        else:
            if self.features != weights.in_features:
                raise ValueError(f"{weights} does not take an input of shape {self.shape}")
            fanout = torch.full(self.shape[1:], weights.out_features, device="cpu")
        return self._before_pool(fanout)

    def nonzero_fanout(self, weights: nn.Conv2d | nn.Linear, connected: Tensor) -> Tensor:
        """:meth:`fanout` over the synapses that ``connected`` (bool, the weight's shape) marks.

        Returns:
            Whole numbers in float64, (C, H, W) or (features,): of one event of each input neuron.
        """
        if isinstance(weights, nn.Conv2d):
            return self._before_pool(nonzero_conv_fanout(weights, connected, *self.shape[1:]))
        return self._before_pool(connected.sum(0).to(torch.float64).view(self.shape))

    def connections(self, weights: nn.Conv2d | nn.Linear) -> int:
        """Synapses of ``weights`` itself: multiply-accumulates of the same layer in a network that does not spike."""
        return self.shape[0] * int(replace(self, pool=None).fanout(weights).sum())

    def after(self, layer: nn.Module | None) -> Incoming:
        """What reaches the next layer behind ``layer``: weights or a pool; None changes nothing."""
        if layer is None:
            return self
        if isinstance(layer, nn.Linear):
            return Incoming((layer.out_features,))
        if isinstance(layer, nn.Conv2d):
            rows, columns = _conv_taps(layer, *self.shape[1:])
            return Incoming((layer.out_channels, rows.shape[1], columns.shape[1]))
        if isinstance(layer, SpikingAvgPool2d):
            return Incoming(self.after(layer.average).shape)  # its neurons spike anew: what they send is counted
        with torch.no_grad():
            pooled = Incoming(tuple(layer(torch.zeros(1, *self.shape)).shape[1:]))
        if isinstance(layer, nn.AvgPool2d):
            pooled = replace(pooled, pool=layer, unpooled=(self.shape[1], self.shape[2]))
        return pooled

    def _before_pool(self, fanout: Tensor) -> Tensor:
        return fanout if self.pool is None else through_average_pool(self.pool, fanout, *self.unpooled)
