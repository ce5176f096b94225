"""A batch of one image may leave BatchNorm one value per channel, which has no variance: known before training."""

from __future__ import annotations

from typing import Any

import torch
from pytorch_lightning import Trainer
from torch import nn

from spikesparse.data import CIFAR10DataModule
from spikesparse.data.loading import Batch, BatchRows
from spikesparse.errors import UserError

_REFUSED = "Expected more than 1 value per channel"  # torch's words, and ours


def refuse_single_values(trainer: Trainer, net: nn.Module, data: CIFAR10DataModule) -> None:
    """Refuse a training whose smallest batch is too small for a normalisation of the network.

    Only the network knows which values share a channel: it is shown an image, if there is to be a batch of one.

    Raises:
        UserError: naming the batch size, and what leaves such a batch out.
    """
    if _smallest_batch(trainer, data) > 1 or _shares_statistics(trainer, net) or not _refuses_one(net, data):
        return
    size, few = (
        data.batch_size,
        f"with --data.timesteps={data.timesteps} a BatchNorm layer would get one value per channel",
    )
    if size == 1:
        raise UserError(
            f"--data.batch_size=1: {few}, which has no variance. Raise it; --data.drop_last=true leaves out only "
            "batches that are not full."
        )
    of = f" in one of {trainer.world_size} processes" if trainer.world_size > 1 else ""
    raise UserError(
        f"--data.batch_size={size}: of {len(data.split[0]):,} training images the last batch has a single one{of}, and "
        f"{few}, which has no variance. Leave that batch out by --data.drop_last=true, or take another batch size."
    )


def _smallest_batch(trainer: Trainer, data: CIFAR10DataModule) -> int:
    """Images of the smallest batch that any process will train on; 2 if there is none."""
    size, world = len(data.split[0]), trainer.world_size
    rows = BatchRows(size, data.batch_size, True, data.drop_last, data.shuffle, data.draw_seed, world, 0)
    limit: Any = trainer.limit_train_batches
    batches = min(len(rows), limit) if isinstance(limit, int) else int(len(rows) * limit)
    if trainer.max_steps >= 0:
        batches = min(batches, trainer.max_steps * trainer.accumulate_grad_batches)
    full, rest = divmod(size, data.batch_size * world)
    if not batches or trainer.max_epochs == 0:
        return 2
    return data.batch_size if batches <= full else rest // world


def _shares_statistics(trainer: Trainer, net: nn.Module) -> bool:
    """Whether there is one image at least in each of several processes, whose batches count as one."""
    synchronised = getattr(trainer.strategy, "_layer_sync", None) is not None
    own = any(isinstance(part, nn.SyncBatchNorm) for part in net.modules())
    return trainer.world_size > 1 and (synchronised or own)


def _refuses_one(net: nn.Module, data: CIFAR10DataModule) -> bool:
    like = next(net.parameters(), torch.zeros(()))
    index = torch.zeros(1, dtype=torch.int64)
    image = torch.zeros(1, *data.input_shape, dtype=torch.uint8)
    images = data.encode(Batch(image, index, index)).images.to(like)
    kept = [(buffer, buffer.clone()) for buffer in net.buffers()]  # BatchNorm's statistics
    try:
        with torch.no_grad(), torch.random.fork_rng([like.device] if like.device.type == "cuda" else []):
            net(images)
    except ValueError as error:
        return _REFUSED in str(error)
    finally:
        for buffer, value in kept:
            buffer.copy_(value)
    return False
