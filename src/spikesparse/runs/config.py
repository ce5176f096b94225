"""config.yaml, and the settings in a run's checkpoints."""

from __future__ import annotations

from copy import deepcopy
from functools import cached_property
from typing import Any

import yaml
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.cli import SaveConfigCallback

from spikesparse.settings.plain import BUDGETS


class RunConfig(SaveConfigCallback):
    """Writes config.yaml into the folder of a training run, and the settings into its checkpoints.

    Args:
        horizon_filled_in: the scheduler's max_epochs is that of the trainer, and named by nobody.
    """

    def __init__(self, *args: Any, horizon_filled_in: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.horizon_filled_in = horizon_filled_in

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write config.yaml; testing a run later leaves its own configuration alone."""
        if stage == "fit":
            super().setup(trainer, pl_module, stage)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keep what rebuilds the module and its data."""
        settings = self.settings()
        if self.horizon_filled_in:  # so that whoever trains on from it has that of their own --trainer.max_epochs
            settings["model"]["scheduler"]["init_args"]["max_epochs"] = None
        checkpoint["settings"] = settings

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Name the flags that the restored optimizer and scheduler overrule."""
        if trainer.state.fn != "fit" or "settings" not in checkpoint:
            return
        ours, theirs = self.settings()["model"], _with_horizon_in_force(checkpoint)
        overruled = [key for key in ("optimizer", "scheduler") if ours.get(key) != theirs.get(key)]
        for key in overruled:
            print(
                f"warning: --model.{key} differs from the checkpoint's, whose restored state overrules it: "
                f"{theirs.get(key)} stays in force, not {ours.get(key)}. To start afresh from its weights, use "
                f"--model.init_from={trainer.ckpt_path} in place of --ckpt_path."
            )

    def settings(self) -> dict[str, Any]:
        """Model, data and sparsity settings, a budget if there is one, and the seed, as plain values."""
        return deepcopy(self._kept_settings)

    @cached_property
    def _kept_settings(self) -> dict[str, Any]:  # once: writing and reading them takes as long as a checkpoint
        whole = yaml.safe_load(self.parser.dump(self.config, skip_none=False, format="yaml"))
        kept = {key: whole[key] for key in ("seed_everything", "model", "data", "sparsity") if key in whole}
        if any(whole.get("budget", {}).get(name) is not None for name in BUDGETS):
            kept["budget"] = whole["budget"]
        kept["model"].pop("init_from", None)  # the weights are in the checkpoint
        return kept


def _with_horizon_in_force(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """The model's settings of a checkpoint, with the max_epochs that its scheduler will go by once it is restored."""
    model: dict[str, Any] = deepcopy(checkpoint["settings"]["model"])
    scheduler, states = model.get("scheduler"), checkpoint.get("lr_schedulers") or [{}]
    init = scheduler.get("init_args") if isinstance(scheduler, dict) else None
    if isinstance(init, dict) and "max_epochs" in init:
        init["max_epochs"] = states[0].get("max_epochs", init["max_epochs"])
    return model
