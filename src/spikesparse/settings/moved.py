"""Class paths of an earlier version: where the modules that settings may name stand now."""

from __future__ import annotations

import re
from typing import Any

MOVED = {
    f"spikesparse.{old}": f"spikesparse.{new}"
    for old, new in {
        "callbacks": "training.silent_layers",
        "checkpoints": "runs.checkpoints",
        "dashboard": "training.dashboard",
        "distillation": "training.distillation",
        "early_exit": "nn.early_exit",
        "encoding": "data.encoding",
        "lr_schedulers": "training.lr_schedulers",
        "module": "training.module",
        "predict": "training.predict",
        "progress": "training.progress",
        "saving": "runs.saving",
    }.items()
}

# What base.yaml names by their present paths. Digests of settings keep the earlier ones: a run that was begun before
# the move is still the run of its command.
_EARLIER = {
    "spikesparse.BestCheckpoint": "spikesparse.checkpoints.BestCheckpoint",
    "spikesparse.EpochLines": "spikesparse.progress.EpochLines",
}


def as_before(text: str) -> str:
    """The text of settings with the class paths that they had before the move, for a digest."""
    for present, earlier in _EARLIER.items():
        text = text.replace(present, earlier)
    return text


def moved(value: Any) -> Any:
    """Settings, a flag or a text with the present class paths in place of those of :data:`MOVED` modules."""
    if isinstance(value, dict):
        return {key: moved(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [moved(inner) for inner in value]
    if not isinstance(value, str) or "spikesparse." not in value:
        return value
    return re.sub(r"(?<![\w.])spikesparse\.\w+(?=\.)", lambda found: MOVED.get(found[0], found[0]), value)
