"""What --trainer.sync_batchnorm=true does here, on GPUs and CPUs."""

from __future__ import annotations

from pytorch_lightning import Trainer
from pytorch_lightning.plugins.layer_sync import TorchSyncBatchNorm
from torch import nn

from spikesparse.errors import UserError
from spikesparse.nn import SpikingLayer


class SharedStatistics(TorchSyncBatchNorm):
    """Spiking layers share their batch statistics by themselves; torch's conversion is for any other BatchNorm."""

    def apply(self, model: nn.Module) -> nn.Module:
        """Make the batches of all processes count as one.

        Raises:
            UserError: for a BatchNorm of torch's own on a CPU, which torch cannot synchronise.
        """
        layers = [module for module in model.modules() if isinstance(module, SpikingLayer)]
        for layer in layers:
            layer.shares_statistics = True
        own = {id(layer.norm) for layer in layers}
        for parent in list(model.modules()):
            for name, child in parent.named_children():
                if isinstance(child, nn.modules.batchnorm._BatchNorm) and id(child) not in own:
                    if next(model.parameters()).device.type == "cpu":
                        raise UserError(
                            "--trainer.sync_batchnorm=true: torch cannot synchronise a BatchNorm outside of spiking "
                            f"layers on a CPU ({type(parent).__name__}.{name}); leave it out, or train on GPUs."
                        )
                    setattr(parent, name, super().apply(child))
        return model

    def revert(self, model: nn.Module) -> nn.Module:
        """Every process for itself again."""
        for module in model.modules():
            if isinstance(module, SpikingLayer):
                module.shares_statistics = False
        return super().revert(model)


def honour_sync_batchnorm(trainer: Trainer) -> None:
    """Put ours in place of Lightning's, whose SyncBatchNorm refuses the CPU, if the user asked for it."""
    if isinstance(getattr(trainer.strategy, "_layer_sync", None), TorchSyncBatchNorm):  # there is no public place
        trainer.strategy._layer_sync = SharedStatistics()  # type: ignore[attr-defined]
