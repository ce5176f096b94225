"""BatchNorm in a spiking network: over T * B images, folded into the neurons, or over the batches of a process group.

Its parameters and statistics are those of torch's own modules. ``shared`` makes the batches of all processes count as
one; torch's ``SyncBatchNorm``, which refuses the CPU, is taken for the same.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.utils import parametrize

from spikesparse.nn.hooks import with_hooks
from spikesparse.ops.fire import Normalization

Norm = nn.BatchNorm1d | nn.BatchNorm2d | nn.SyncBatchNorm


def why_not_folded(norm: nn.Module) -> str | None:
    """Why a norm cannot be folded into the neurons behind it, if so."""
    if parametrize.type_before_parametrizations(norm) not in (nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm):
        return f"norm is a {type(norm).__name__}"
    if not (norm.affine and norm.track_running_stats):
        return "BatchNorm without affine or track_running_stats"
    return None


def normalization_of(norm: Norm, shared: bool = False) -> Normalization:
    """What a norm does to each channel: by this batch in training, by its running statistics in evaluation."""
    weight, bias = _exact(norm.weight), _exact(norm.bias)
    if norm.training:
        return Normalization(weight, bias, batch=True, eps=norm.eps, group=_group_name(norm, shared))
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = weight * (_exact(norm.running_var) + norm.eps).rsqrt()
    return Normalization(scale, bias - _exact(norm.running_mean) * scale)


@torch.no_grad()
def update_statistics(norm: Norm, moments: Tensor, timesteps: int, values: int) -> None:
    """Move the running statistics towards a batch's, as torch does; without momentum they are the mean of all batches.

    Args:
        norm: in training.
        moments: float64 (3, C): mean, biased variance and number of values of each channel, over all processes whose
            batches count as one.
        timesteps: how often each of these values counts: T for a current that is the same in all T steps.
        values: of each channel in this process, each as often as it counts; known without waiting for the device.

    Raises:
        ValueError: for one value per channel, which has no variance.
    """
    mean, var, count = moments
    count = count * timesteps
    assert norm.num_batches_tracked is not None
    if values < 2 and (total := int(count[0])) < 2:
        if total == 1:  # in torch's own words
            raise ValueError(f"Expected more than 1 value per channel when training, got 1 for {norm}")
        norm.num_batches_tracked.add_(1)  # an empty batch: nothing to move towards
        return
    norm.num_batches_tracked.add_(1)
    for running, new in ((norm.running_mean, mean), (norm.running_var, var * count / (count - 1))):
        assert running is not None
        # SWA's last epoch takes the momentum away
        share = norm.momentum if norm.momentum is not None else 1.0 / norm.num_batches_tracked.to(running.dtype)
        running.lerp_(new.to(running.dtype), share)


def normalize(norm: nn.Module, x: Tensor, timesteps: int, shared: bool = False) -> Tensor:
    """A norm on its own, for what it cannot be folded into: (N, C, ...) -> the same.

    Args:
        norm: any.
        x: the weights' output.
        timesteps: as in :func:`update_statistics`.
        shared: the batches of all processes count as one.

    Raises:
        ValueError: for one value per channel in training.
    """
    group = "" if why_not_folded(norm) else _group_name(norm, shared)
    if why_not_folded(norm) or not norm.training or (timesteps == 1 and not group):
        y: Tensor = norm(x)
        return y
    assert isinstance(norm, Norm)
    return with_hooks(norm, lambda values: _normalize(norm, values, timesteps, group), x)


def _normalize(norm: Norm, x: Tensor, timesteps: int, group: str) -> Tensor:
    values = x.double() if x.dtype == torch.float64 else x.float()
    axes = [axis for axis in range(x.dim()) if axis != 1]
    shape = [1, -1, *[1] * (x.dim() - 2)]

    def total(each: Tensor) -> Tensor:
        return _TotalOfProcesses.apply(each, _group(norm)) if group else each

    count = total(values.new_full((1,), x.numel() / x.shape[1]))
    mean = total(values.sum(axes)) / count
    centered = values - mean.view(shape)
    var = total(centered.square().sum(axes)) / count
    moments = torch.stack([mean, var, count.expand_as(mean)]).double()
    update_statistics(norm, moments, timesteps, x.numel() // x.shape[1] * timesteps)
    scale = norm.weight * (var + norm.eps).rsqrt()
    return (centered * scale.view(shape) + norm.bias.view(shape)).to(x.dtype)


class _TotalOfProcesses(torch.autograd.Function):
    """The sum over all processes, and back: what this process gave went into the loss of each of them."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, group: distributed.ProcessGroup) -> Tensor:
        ctx.group = group
        total = values.clone()
        distributed.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        total = grad.clone()
        distributed.all_reduce(total, group=ctx.group)
        return total, None


def _exact(values: Tensor) -> Tensor:
    return values if values.dtype == torch.float64 else values.float()


def _group(norm: nn.Module) -> distributed.ProcessGroup:
    group = getattr(norm, "process_group", None) or distributed.group.WORLD
    assert group is not None
    return group


def _group_name(norm: nn.Module, shared: bool) -> str:
    """Of the processes whose batches count as one; "" is this one alone."""
    shared = shared or isinstance(norm, nn.SyncBatchNorm)
    if not (shared and distributed.is_available() and distributed.is_initialized()):
        return ""
    return _group(norm).group_name if distributed.get_world_size(_group(norm)) > 1 else ""
