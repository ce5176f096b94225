"""Run folders: runs/<experiment>[-<hash of overrides>]/seed<k>."""

from __future__ import annotations

import os
import re
from copy import deepcopy
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import yaml
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.cli import SaveConfigCallback

from spikesparse.errors import UserError
from spikesparse.files.run_folder import folder_of_checkpoint
from spikesparse.settings.command_line import run_name
from spikesparse.settings.plain import BUDGETS


def refuse_spawning(strategy: Any) -> None:
    """Refuse strategies whose processes keep what they measured: this one makes the tables and files."""
    if isinstance(strategy, str) and re.match(r"ddp_(spawn|fork|notebook)", strategy):
        raise UserError(f"--trainer.strategy={strategy}: on the command line, use --trainer.strategy=ddp.")


def refuse_a_crowd(trainer: Any) -> None:
    """Refuse far more processes on a CPU than it has cores: each takes half a gigabyte before it has begun."""
    on_cpu = trainer.accelerator == "cpu" or (trainer.accelerator == "auto" and not torch.cuda.is_available())
    devices, most = str(trainer.devices), 4 * (os.cpu_count() or 1)
    if on_cpu and devices.isdecimal() and int(devices) > most:
        raise UserError(
            f"--trainer.devices={devices}: on a CPU that is a process each, and {most} are the most on these "
            f"{most // 4} cores."
        )


def run_folder(config: Any, args: list[str]) -> Path | None:
    """The folder of a run: its checkpoint's, or its own; None with a logger of the user's own, or none.

    Raises:
        UserError: if its name is no UTF-8, which TensorBoard's files need.
    """
    init = getattr(config.trainer.logger, "init_args", None)
    if config.trainer.fast_dev_run or init is None or "save_dir" not in init or init.get("name") is not None:
        return None
    seed = config.get("seed_everything")
    own = Path(init.save_dir) / run_name(args) / f"seed{seed if isinstance(seed, int) else 0}"
    folder = folder_of_checkpoint(config.get("ckpt_path")) or own
    try:
        str(folder).encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{folder}: the name of a run's folder must be UTF-8; rename it, or name another.") from error
    refuse_blocked(folder)
    return folder


def refuse_blocked(folder: Path) -> None:
    """Refuse a folder that cannot be made, because a file has its name or that of one above it.

    Raises:
        UserError: naming the file.
    """
    for place in (*reversed(folder.parents), folder):
        if os.path.lexists(place) and not place.is_dir():
            raise UserError(
                f"{place}: it is no folder, and {folder} is to be made there. Move it away, work in another folder, or "
                "set --trainer.logger.init_args.save_dir."
            )


def place_logger(config: Any, folder: Path) -> None:
    """Let the logger write into the run folder."""
    init = config.trainer.logger.init_args
    init.save_dir, init.name, init.version = str(folder.parent.parent), folder.parent.name, folder.name


def set_aside(folder: Path) -> None:
    """Rename an earlier run's folder, so that no two runs mix and none is lost."""
    number = 1
    while (kept := folder.with_name(f"{folder.name}-earlier{number}")).exists():
        number += 1
    try:
        folder.rename(kept)
    except OSError as error:
        raise UserError(f"{folder}: an earlier run lies there and cannot be moved aside ({error}).") from error
    print(f"an earlier run was kept as {kept}")


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
