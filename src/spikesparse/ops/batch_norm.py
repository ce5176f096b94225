"""BatchNorm's arithmetic on its numbers per channel, over one process or a group of them. Ioffe & Szegedy 2015."""

from __future__ import annotations

import torch
from torch import Tensor, distributed
from torch.distributed.distributed_c10d import _resolve_process_group  # type: ignore[attr-defined]


def shared_moments(moments: Tensor, values: int, group: str) -> Tensor:
    """(2, C) of this process and its number of values -> (3, C) of all processes of the group."""
    own = torch.cat([moments, torch.full_like(moments[:1], values)])
    if not group:
        return own
    process_group = _group_of(group)
    of_rank = own.new_zeros(distributed.get_world_size(process_group), *own.shape)
    of_rank[distributed.get_rank(process_group)] = own
    distributed.all_reduce(of_rank, group=process_group)
    mean, var, count = of_rank.unbind(1)
    total = count.sum(0)
    shared_mean = (mean * count).sum(0) / total
    shared_var = ((var + (mean - shared_mean).square()) * count).sum(0) / total
    return torch.stack([shared_mean, shared_var, total])


def fold(moments: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> tuple[Tensor, Tensor]:
    """Scale and shift of each channel that normalise, weigh and shift it."""
    assert weight is not None
    assert bias is not None
    mean, var, _ = moments
    scale = weight.double() * (var + eps).rsqrt()
    return scale.to(weight.dtype), (bias.double() - mean * scale).to(weight.dtype)


def through_batch_norm(
    sums: Tensor, moments: Tensor, scale: Tensor, center: Tensor, eps: float, group: str
) -> tuple[Tensor, Tensor]:
    """BatchNorm's own gradients. Ioffe & Szegedy 2015, arXiv 1502.03167, section 3.

    Args:
        sums: this process's sums of g and g * (y - center), float64 (2, C).
        moments: as they were in the forward pass.
        scale: the folded scale.
        center: the mean, rounded to the state's dtype.
        eps: as in the forward pass.
        group: likewise.

    Returns:
        This process's gradients of weight and bias, float64 (2, C); and a, b and c of the gradient of y.
    """
    mean, var, count = moments
    inverse = (var + eps).rsqrt()
    off = mean - center  # what rounding took from the mean
    own = torch.stack([sums[0], sums[1] - off * sums[0]])
    total = own
    if group:
        total = own.clone()
        distributed.all_reduce(total, group=_group_of(group))
    a = scale.double()
    b = -a * inverse.square() * total[1] / count
    c = -a * total[0] / count - b * off
    return torch.stack([own[1] * inverse, own[0]]), torch.stack([a, b, c]).to(scale.dtype)


def _group_of(name: str) -> distributed.ProcessGroup:
    group: distributed.ProcessGroup = _resolve_process_group(name)  # type: ignore[arg-type]
    return group
