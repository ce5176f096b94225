"""Loggers that cannot write, while a network is tested."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from spikesparse.files.closing import warn_of


class LoggersFailForThemselves(Callback):
    """In a test, a logger that cannot write is named once, and does not end what is measured.

    It holds from the test's beginning until the trainer does something else: training stops where its log cannot be
    written, and goes on by the same command.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Guard the loggers, each once."""
        for logger in trainer.loggers if stage == "test" else ():
            if "log_metrics" not in vars(logger):
                _guard(logger, trainer)


def _guard(logger: Any, trainer: Trainer) -> None:
    said: list[Exception] = []

    def guarded(write: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(write)
        def survived(*args: Any, **kwargs: Any) -> Any:
            try:
                return write(*args, **kwargs)
            except Exception as error:
                if trainer.state.fn != "test":
                    raise
                if not said:
                    warn_of(type(logger).__name__, error.__cause__ or error)
                said.append(error)

        return survived

    for name in ("log_metrics", "log_hyperparams", "save", "finalize"):
        setattr(logger, name, guarded(getattr(logger, name)))
