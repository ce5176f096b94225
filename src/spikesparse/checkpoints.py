"""Checkpoints: which epochs are kept, and reading them with clear errors."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor

from spikesparse.archives import DAMAGED, check_archive
from spikesparse.errors import UserError
from spikesparse.nonfinite import bad_value
from spikesparse.sparsity.weight import in_force
from spikesparse.yaml_files import MAX_DEPTH, MAX_NODES, check_regular

CHOICES = ("last", "best", "hpc", "registry")  # Lightning's own words for a checkpoint


def chosen_checkpoint(run: Path) -> Path:
    """The checkpoint of a run that validation chose.

    Where no epoch had lambda at its end value, or kept its budget, there is no best one: it is the last.
    """
    best = run / "checkpoints" / "best.ckpt"
    return best if best.is_file() else best.with_name("last.ckpt")


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


def read_checkpoint(path: str | Path, flag: str | None = "--ckpt_path") -> dict[str, Any]:
    """Read a checkpoint without running any code that it may hold.

    Args:
        path: of the file.
        flag: that the user named it by; None for a file that the program itself has found.

    Raises:
        UserError: if there is none, or it is damaged, holds more than tensors and plain values, or weights that are
            not finite: whatever reads weights reads them here.
    """
    named = f"{flag}={path}" if flag else str(path)
    try:
        check_regular(Path(path), named)
        check_archive(Path(path))
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except DAMAGED as error:
        reason = str(error).splitlines()[0][:300] if str(error) else type(error).__name__
        raise UserError(f"{named}: not a whole checkpoint ({reason}).") from error
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("state_dict"), dict):
        raise UserError(f"{named}: not a checkpoint of this project (it has no state_dict).")
    if not _are_settings(checkpoint.get("settings", {})):
        raise UserError(f"{named}: not a checkpoint of this project (its settings are none).")
    for state in ("state_dict", "current_model_state"):  # the latter beside averaged weights
        weights = checkpoint.get(state)
        if isinstance(weights, dict) and (name := bad_value(weights)) is not None:
            raise UserError(
                f"{named}: its weight {name} is not finite (NaN or infinity), so that nothing the network computes "
                "means anything. Name a checkpoint of an earlier epoch, or train anew."
            )
    return checkpoint


def _are_settings(settings: Any) -> bool:
    """Whether settings are sections of plain values, as YAML has them, and no deeper than settings are."""
    waiting = [(settings, 0)]
    for value, depth in waiting:  # grows
        if isinstance(value, dict) and all(isinstance(key, str) for key in value):
            waiting += [(inner, depth + 1) for inner in value.values()]
        elif isinstance(value, list | tuple):
            waiting += [(inner, depth + 1) for inner in value]
        elif not isinstance(value, str | int | float | None):
            return False
        if depth > MAX_DEPTH or len(waiting) > MAX_NODES:
            return False
    sections = [settings[name] for name in ("model", "data", "sparsity") if name in settings] if settings else []
    return isinstance(settings, dict) and all(isinstance(section, dict) for section in sections)


def refuse_unsafe_reading(config: Any) -> None:
    """Have Lightning read checkpoints without running code.

    Args:
        config: the settings of a subcommand; its ``weights_only`` is set.

    Raises:
        UserError: if they ask for the contrary.
    """
    if config.get("weights_only") is False:
        raise UserError("--weights_only=false: a checkpoint could run any code then; leave it out.")
    if "weights_only" in config:
        config.weights_only = True


def settings_of(checkpoint: dict[str, Any], named: str) -> dict[str, Any]:
    """The settings that a checkpoint keeps, by which its network is built again.

    Raises:
        UserError: if it keeps none; ``named`` is what the user called it by.
    """
    settings: dict[str, Any] = checkpoint.get("settings") or {}
    if not settings:
        raise UserError(f"{named}: the checkpoint keeps no settings; it was not written by this command line.")
    return settings


def check_state_dict(theirs: dict[str, Tensor], ours: dict[str, Tensor], flag: str) -> None:
    """Refuse weights that do not fit.

    Raises:
        UserError: naming the first weight that differs in shape, or in the kind of its numbers.
    """
    for name in [*ours, *theirs]:
        shapes = [_shape(d[name]) if name in d else "missing" for d in (theirs, ours)]
        if shapes[0] != shapes[1]:
            raise UserError(
                f"{flag}: a checkpoint of another architecture: {name} is {shapes[0]} there, {shapes[1]} here. Leave "
                "out the --model.net and --data flags that change it, or name the checkpoint's own architecture."
            )
        kinds = [_kind(d[name]) for d in (theirs, ours)]
        if kinds[0] != kinds[1]:  # torch would cast them: an int8 weight is no weight without its scale
            raise UserError(
                f"{flag}: {name} is {theirs[name].dtype} ({kinds[0]}) there, {ours[name].dtype} ({kinds[1]}) here; a "
                "quantised or complex network is not read. Name a checkpoint as it was trained."
            )


def _kind(value: Any) -> str:
    """What numbers a tensor holds, and how: floats of any width may stand for each other."""
    if not isinstance(value, Tensor):
        return "no tensor"
    dtype = value.dtype
    kind = "floating point" if dtype.is_floating_point else "complex" if dtype.is_complex else "integer"
    return kind if value.layout == torch.strided else f"sparse {kind}"


def _shape(value: Any) -> tuple[int, ...] | str:
    return tuple(value.shape) if isinstance(value, Tensor) else "no tensor"
