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


def moved(value: Any) -> Any:
    """Settings, a flag or a text with the present class paths in place of those of :data:`MOVED` modules."""
    if isinstance(value, dict):
        return {key: moved(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [moved(inner) for inner in value]
    if not isinstance(value, str) or "spikesparse." not in value:
        return value
    return re.sub(r"(?<![\w.])spikesparse\.\w+(?=\.)", lambda found: MOVED.get(found[0], found[0]), value)
