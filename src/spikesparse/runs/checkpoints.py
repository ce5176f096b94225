"""Checkpoints: which epochs are kept, and reading them with clear errors."""

from __future__ import annotations

import os
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint

from spikesparse.sparsity.weight import in_force


class MovableCheckpoint(ModelCheckpoint):
    """Lightning's own, for run folders that may be moved: the files that a state names are those of this folder.

    Lightning takes over no score from another folder, but the path of its best file.
    """

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Look for the files here, by name; a best epoch whose file was left behind is forgotten."""

        def here(path: str) -> str:
            return os.path.join(str(self.dirpath), os.path.basename(path)) if path else path

        best = here(state_dict["best_model_path"])
        if best and not self._fs.exists(best):
            return
        files = {name: here(state_dict.get(name, "")) for name in ("kth_best_model_path", "last_model_path")}
        scores = {here(path): score for path, score in state_dict.get("best_k_models", {}).items()}
        moved = {"dirpath": self.dirpath, "best_model_path": best, "best_k_models": scores, **files}
        super().load_state_dict({**state_dict, **moved})


class BestCheckpoint(MovableCheckpoint):
    """Keeps ``best.ckpt``: the best epoch among those at which lambda has its end value, or the budget is kept.

    Before the ramp ends, the most accurate network is the one that is not sparse yet. An accuracy-only twin has the
    same ramp, to 0, and so chooses among the same epochs.

    Args:
        monitor: metric to choose by; under a budget by accuracy drop it is what the network spends.
        mode: "max" or "min".
    """

    def __init__(self, monitor: str = "accuracy/val", mode: str = "max") -> None:
        super().__init__(
            filename="best",
            monitor=monitor,
            mode=mode,
            save_top_k=1,
            save_on_train_epoch_end=True,
            enable_version_counter=False,
        )
        self._validated_epoch = -1
        self._choice = ""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Choose as the callback that sets lambda asks."""
        setter = in_force(trainer)
        if setter is not None:
            self._choice = setter.choice
            if setter.chooses_by is not None:
                self.monitor, self.mode = setter.chooses_by
                self.kth_value = torch.tensor(torch.inf if self.mode == "min" else -torch.inf)
        super().setup(trainer, pl_module, stage)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note that the epoch has a validation; it is looked at when the epoch ends."""
        if not trainer.sanity_checking:
            self._validated_epoch = trainer.current_epoch

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Consider the epoch, if it is one to choose from, and validated: the metric may be of an earlier one."""
        if self._validated_epoch != trainer.current_epoch:
            return
        setter = in_force(trainer)
        if setter is None or setter.may_choose(pl_module, trainer.current_epoch):
            super().on_train_epoch_end(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        """Lightning's, and what was chosen among."""
        return super().state_dict() | {"choice": self._choice, "validated_epoch": self._validated_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Forget a best epoch that was chosen under another budget: it may not keep this one."""
        self._validated_epoch = state_dict.get("validated_epoch", -1)
        if state_dict.get("choice", "") == self._choice:
            super().load_state_dict(state_dict)
