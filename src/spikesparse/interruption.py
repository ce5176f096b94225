"""Stopping a run by a signal: the step under way is finished, a checkpoint written, and the run can go on from it."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

STATUS = 128 + signal.SIGTERM  # what a shell says of a process that SIGTERM ended


class Interruption(Callback):
    """Stops training between two steps on SIGTERM, and under SLURM on SIGUSR1, which it sends before the time is over.

    Lightning stops there too, but its handlers talk to the other processes, and write checkpoints, wherever the signal
    comes, also in the middle of a step. This one only notes it. What happens next is Lightning's: at the start of the
    next step the first process tells the others, and all leave training with a ``SIGTERMException``.
    """

    def __init__(self) -> None:
        self._before: dict[int, Any] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listen."""
        if threading.current_thread() is not threading.main_thread():
            return

        def note(number: int, frame: FrameType | None) -> None:
            if not trainer.received_sigterm:
                print(f"{signal.Signals(number).name}: the step is finished, then training stops", flush=True)
            trainer._signal_connector.received_sigterm = True

        for number in (signal.SIGTERM, *([signal.SIGUSR1] if "SLURM_JOB_ID" in os.environ else [])):
            self._before[number] = signal.signal(number, note)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """All processes stop at the end of an epoch, or none: Lightning asks each for its own signal there."""
        if trainer.world_size > 1:
            noted = trainer.strategy.broadcast(trainer.received_sigterm)
            trainer._signal_connector.received_sigterm = bool(noted)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listen no more."""
        self._restore()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Listen no more."""
        self._restore()

    def _restore(self) -> None:
        while self._before:
            signal.signal(*self._before.popitem())
