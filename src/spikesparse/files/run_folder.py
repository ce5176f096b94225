"""What lies in a run folder, found by name: the chosen checkpoint, the training's settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from spikesparse.files.safe_yaml import read_yaml


def folder_of_checkpoint(path: str | None) -> Path | None:
    """The run folder that a checkpoint lies in, if it lies in one."""
    folder = Path(path).parent if path else None
    return folder.parent if folder is not None and folder.name == "checkpoints" else None


def trainer_settings(folder: Path) -> dict[str, Any]:
    """``--trainer`` of a run's training, from its config.yaml; empty if that does not say."""
    path = folder / "config.yaml"
    config = read_yaml(path, str(path)) if path.is_file() else None
    trainer = config.get("trainer") if isinstance(config, dict) else None
    return trainer if isinstance(trainer, dict) else {}


def trained_precision(folder: Path) -> str | None:
    """``--trainer.precision`` of a run's training; None if that is not known."""
    precision = trainer_settings(folder).get("precision")
    return str(precision) if isinstance(precision, str | int) else None


def chosen_checkpoint(run: Path) -> Path:
    """The checkpoint of a run that validation chose.

    Where no epoch had lambda at its end value, or kept its budget, there is no best one: it is the last.
    """
    best = run / "checkpoints" / "best.ckpt"
    return best if best.is_file() else best.with_name("last.ckpt")
