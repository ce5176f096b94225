"""What torch, Lightning and the parser raise for settings that cannot be, as one line."""

from __future__ import annotations

import argparse
import errno
import re
import traceback
from pathlib import Path
from types import TracebackType

from pytorch_lightning import Callback, LightningModule, Trainer

from spikesparse.errors import UserError
from spikesparse.settings.class_paths import let_in

# What constructors raise for their arguments. An assertion of ours would be among them; its place is named too.
_RAISED = (
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    ArithmeticError,
    RuntimeError,
    AssertionError,
    OSError,
    ImportError,
    NotImplementedError,
    MemoryError,
)
# A full disk, and the like: the command line has words of its own for these.
_OF_THE_PLACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES)
# Of a class that several types could stand for: why it could not be built.
_FIRST_OF_UNION = re.compile(
    r"Union subtypes Subtypes: .*? Errors: - (.*?)(?: - (?:Expected|Problem|Type) | Given value|$)"
)


class SettingsErrors(Callback):
    """While settings are read and things are built from them, whatever fails becomes a :class:`UserError`.

    As a callback it lasts until the first epoch begins: until then a checkpoint may fail to be restored.

    Code of the user's own, let in by ``--allow-import``, keeps its traceback: there it is of use.

    Attributes:
        over: set it when all is built.
    """

    def __init__(self) -> None:
        self.over = False

    def __enter__(self) -> SettingsErrors:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.over or isinstance(error, UserError | argparse.ArgumentError) or not isinstance(error, _RAISED):
            return
        if isinstance(error, OSError) and error.errno in _OF_THE_PLACE:
            return
        if any(let_in(str(frame.f_globals.get("__name__"))) for frame, _ in traceback.walk_tb(trace)):
            return
        behind: BaseException | None = error
        while behind is not None:  # the parser makes a UserError part of its own error
            if isinstance(behind, UserError):
                raise behind from error
            behind = behind.__cause__ or behind.__context__
        last = traceback.extract_tb(trace)[-1]
        reason = " ".join(str(error).split())
        first = _FIRST_OF_UNION.search(reason)
        reason = (first[1] if first else reason)[:300] or "no more is known"
        raise UserError(
            f"the settings cannot be used: {reason} ({type(error).__name__} in {Path(last.filename).name}, "
            f"{last.name}). `--print_config` shows all that is in force."
        ) from error

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """All is restored."""
        self.over = True

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """All is restored, unless this is the sanity check before training."""
        self.over = self.over or not trainer.sanity_checking

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """As :meth:`on_train_epoch_start`."""
        self.on_train_epoch_start(trainer, pl_module)

    def on_predict_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """As :meth:`on_train_epoch_start`."""
        self.on_train_epoch_start(trainer, pl_module)
