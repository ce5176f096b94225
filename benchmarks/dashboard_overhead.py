"""What the dashboard costs: seconds inside its hooks, beside the epochs they belong to.

    python benchmarks/dashboard_overhead.py --config configs/experiment/cifar10_vgg7_cpu.yaml --trainer.max_epochs=2

trains as `spikesparse fit` would (any of its flags may follow), with the hooks of the Dashboard callback timed. At the
default rhythm a run draws about ten times, so that a run of few epochs draws after each: the share printed is that of
an epoch with a drawing in it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import wraps
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from spikesparse.commands.cli import SpikeCLI
from spikesparse.commands.quiet import quiet
from spikesparse.training.dashboard import Dashboard


class Stopwatch(Callback):
    """Seconds of each epoch, validation included."""

    def __init__(self) -> None:
        self.epochs: list[float] = []
        self._start = 0.0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start."""
        self._start = time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop: validation has run before this."""
        self.epochs.append(time.perf_counter() - self._start)


def main() -> None:
    """Train, and print the share."""
    drawing: list[float] = []

    def timed(hook: Callable[..., None]) -> Callable[..., None]:
        @wraps(hook)
        def run(self: Any, trainer: Trainer, *args: Any) -> None:
            start = time.perf_counter()
            hook(self, trainer, *args)
            if not trainer.sanity_checking:
                drawing.append(time.perf_counter() - start)

        return run

    Dashboard.on_validation_end = timed(Dashboard.on_validation_end)  # type: ignore[method-assign]
    stopwatch = Stopwatch()

    class Timed(SpikeCLI):
        def instantiate_trainer(self, **kwargs: Any) -> Trainer:
            trainer = super().instantiate_trainer(**kwargs)
            trainer.callbacks.append(stopwatch)  # type: ignore[attr-defined]
            return trainer

    quiet()
    Timed(["fit", *sys.argv[1:]])
    for number, (epoch, drawn) in enumerate(zip(stopwatch.epochs, drawing, strict=True), start=1):
        print(f"epoch {number}: {epoch:.1f} s, of which {drawn:.3f} s for the dashboard: {drawn / epoch:.2%}")


if __name__ == "__main__":
    main()
