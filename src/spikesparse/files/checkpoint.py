"""Reading a checkpoint: no code of it runs, and what is wrong with it is one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spikesparse.errors import UserError
from spikesparse.files.archives import DAMAGED, check_archive
from spikesparse.files.finite import bad_value
from spikesparse.files.safe_yaml import MAX_DEPTH, MAX_NODES, check_regular

CHOICES = ("last", "best", "hpc", "registry")  # Lightning's own words for a checkpoint


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
