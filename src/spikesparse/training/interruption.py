"""Stopping a run by a signal: the step under way is finished, a checkpoint written, and the run can go on from it."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Any, ClassVar

from pytorch_lightning import Callback, LightningModule, Trainer


class Interruption(Callback):
    """Stops training between two steps on SIGTERM, Ctrl-C, and under SLURM SIGUSR1, sent before the time is over.

    Lightning stops there too, but its handlers talk to the other processes, and write checkpoints, wherever the signal
    comes, also in the middle of a step; and a process that has been told leaves at the end of its step, while others
    wait for it in the next. This one only notes the signal. After every step, and at the end of every epoch, the
    processes tell each other; if one was told, all leave training there by Lightning's ``SIGTERMException``. A second
    Ctrl-C does not wait for that: it is a ``KeyboardInterrupt``, as the first one is before training has begun.
    """

    #: What a shell says of a process that was stopped so: 128 and the number of the last signal that came.
    status: ClassVar[int] = 128 + signal.SIGTERM

    def __init__(self) -> None:
        self._before: dict[int, Any] = {}
        self._told = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listen."""
        self._told = False
        if threading.current_thread() is not threading.main_thread():
            return

        def note(number: int, frame: FrameType | None) -> None:
            if self._told and number == signal.SIGINT:
                self._restore()
                raise KeyboardInterrupt
            if not self._told:
                again = "; once more: at once" if number == signal.SIGINT else ""
                print(f"{signal.Signals(number).name}: the step is finished, then training stops{again}", flush=True)
                Interruption.status = 128 + (number if number == signal.SIGINT else signal.SIGTERM)
            self._told = True

        numbers = [signal.SIGTERM, *([signal.SIGUSR1] if "SLURM_JOB_ID" in os.environ else [])]
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # ignored by what nohup or `&` has started
            numbers.append(signal.SIGINT)
        for number in numbers:
            self._before[number] = signal.signal(number, note)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop behind this step, all processes or none."""
        self._agree(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop behind this epoch: the signal came in its validation."""
        self._agree(trainer)

    def _agree(self, trainer: Trainer) -> None:
        told = self._told
        if trainer.world_size > 1:
            told = trainer.strategy.reduce_boolean_decision(told, all=False)
        if told:
            trainer._signal_connector.received_sigterm = True

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listen no more."""
        self._restore()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Listen no more."""
        self._restore()

    def _restore(self) -> None:
        while self._before:
            signal.signal(*self._before.popitem())
