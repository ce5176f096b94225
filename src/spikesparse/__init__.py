"""spikesparse: deep spiking networks that are accurate and quiet, with PyTorch Lightning."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from spikesparse.files.version import __version__

if TYPE_CHECKING:
    from spikesparse.data import CIFAR10DataModule as CIFAR10DataModule
    from spikesparse.data.encoding import DirectEncoder as DirectEncoder
    from spikesparse.data.encoding import Encoder as Encoder
    from spikesparse.data.encoding import PoissonEncoder as PoissonEncoder
    from spikesparse.metrics import Energy as Energy
    from spikesparse.metrics import SpikeRate as SpikeRate
    from spikesparse.metrics import SynapticOperations as SynapticOperations
    from spikesparse.nn import IF as IF
    from spikesparse.nn import LIF as LIF
    from spikesparse.nn import SpikeTally as SpikeTally
    from spikesparse.nn import SpikingLayer as SpikingLayer
    from spikesparse.nn import SpikingNetwork as SpikingNetwork
    from spikesparse.nn import SpikingOutput as SpikingOutput
    from spikesparse.nn import SpikingStack as SpikingStack
    from spikesparse.nn import SpikingVGG as SpikingVGG
    from spikesparse.nn.early_exit import EarlyExit as EarlyExit
    from spikesparse.runs.checkpoints import BestCheckpoint as BestCheckpoint
    from spikesparse.runs.load import load_run as load_run
    from spikesparse.settings.bolts import load_bolts as load_bolts
    from spikesparse.sparsity import SparsityAnnealing as SparsityAnnealing
    from spikesparse.sparsity import SpikeBudget as SpikeBudget
    from spikesparse.sparsity import SpikePenalty as SpikePenalty
    from spikesparse.training.dashboard import Dashboard as Dashboard
    from spikesparse.training.dashboard import custom_scalars as custom_scalars
    from spikesparse.training.distillation import Distillation as Distillation
    from spikesparse.training.lr_schedulers import LinearWarmupCosineAnnealingLR as LinearWarmupCosineAnnealingLR
    from spikesparse.training.module import SpikingClassifier as SpikingClassifier
    from spikesparse.training.progress import EpochLines as EpochLines

# Public name -> module. Imported at first use, so that `spikesparse --version` need not wait for torch.
_PUBLIC = {
    "BestCheckpoint": "runs.checkpoints",
    "CIFAR10DataModule": "data",
    "Dashboard": "training.dashboard",
    "DirectEncoder": "data.encoding",
    "Distillation": "training.distillation",
    "EarlyExit": "nn.early_exit",
    "Encoder": "data.encoding",
    "Energy": "metrics",
    "EpochLines": "training.progress",
    "IF": "nn",
    "LIF": "nn",
    "LinearWarmupCosineAnnealingLR": "training.lr_schedulers",
    "PoissonEncoder": "data.encoding",
    "SparsityAnnealing": "sparsity",
    "SpikeBudget": "sparsity",
    "SpikePenalty": "sparsity",
    "SpikeRate": "metrics",
    "SpikeTally": "nn",
    "SpikingClassifier": "training.module",
    "SpikingLayer": "nn",
    "SpikingNetwork": "nn",
    "SpikingOutput": "nn",
    "SpikingStack": "nn",
    "SpikingVGG": "nn",
    "SynapticOperations": "metrics",
    "custom_scalars": "training.dashboard",
    "load_bolts": "settings.bolts",
    "load_run": "runs.load",
}

__all__ = [*_PUBLIC, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
