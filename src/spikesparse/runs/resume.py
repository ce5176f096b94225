"""Resuming a run by the same command: whether it is finished, and which checkpoint it resumes from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from spikesparse.data import CIFAR10DataModule
from spikesparse.errors import UserError
from spikesparse.files.checkpoint import read_checkpoint
from spikesparse.runs.folder import set_aside
from spikesparse.runs.identity import is_of, kept_identity, write_identity
from spikesparse.runs.peers import is_first_process
from spikesparse.runs.run_lock import hold
from spikesparse.runs.saving import LAST, PREVIOUS, STEP
from spikesparse.settings.command_line import CommandLine


@dataclass(frozen=True)
class Place:
    """How far a run has come.

    Attributes:
        checkpoint: its file.
        epoch: from 0, the epoch that is next or under way.
        step: optimizer steps done.
        within: in the middle of the epoch.
    """

    checkpoint: Path
    epoch: int
    step: int
    within: bool

    def __str__(self) -> str:
        """For people."""
        return f"{self.checkpoint} ({'within' if self.within else 'before'} epoch {self.epoch + 1}, step {self.step})"


class Finished(Exception):
    """The run that was asked for is there already.

    Attributes:
        folder: its folder.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(f"{folder} is this very run, finished: not trained again (--fresh trains it anew)")
        self.folder = folder


class NothingToTrain(Exception):
    """Training is asked for, of no epoch or step."""


def refuse_nothing(trainer: Trainer) -> None:
    """End a command that trains nothing, before it has a folder.

    Raises:
        NothingToTrain: naming the flag.
    """
    for name in ("max_epochs", "max_steps"):
        if (value := getattr(trainer, name)) == 0:
            raise NothingToTrain(f"--trainer.{name}={value}: nothing is trained, and nothing is tested or written.")


def folder_of_command(folder: Path, line: CommandLine) -> Path:
    """The run folder of a command, or the one that its run has from when its name still told more flags apart.

    Args:
        folder: as it is named now.
        line: command line of ``fit``.
    """
    earlier = folder.parent.with_name(line.run_name(earlier=True)) / folder.name
    return earlier if not is_of(kept_identity(folder), line) and is_of(kept_identity(earlier), line) else folder


def settle_folder(folder: Path, config: Any, line: CommandLine, fresh: bool) -> list[Callback]:
    """Lock a run folder for this process, and decide which checkpoint training resumes from.

    Args:
        folder: the run folder.
        config: settings of ``fit``; their ``ckpt_path`` is set, unless the user has.
        line: command line of ``fit``.
        fresh: begin anew whatever is there.

    Returns:
        What the training needs beside it.

    Raises:
        Finished: if the run is there, trained to its end.
        UserError: if another process trains there.
    """
    if is_first_process():
        hold(folder)
    if config.get("ckpt_path"):
        return [TakenOver(folder, line)]
    found = checkpoint_to_resume(folder, line, fresh)
    config.ckpt_path = None if found is None else str(found)
    return []


def checkpoint_to_resume(folder: Path, line: CommandLine, fresh: bool) -> Path | None:
    """The checkpoint from which a command resumes its unfinished run; None if the command begins a run.

    Args:
        folder: the run folder.
        line: command line of ``fit``.
        fresh: begin anew whatever is there.

    Raises:
        Finished: if the run is there, trained to its end.
    """
    kept = kept_identity(folder)
    if fresh or not is_of(kept, line):
        return None
    if kept.get("finished"):
        raise Finished(folder)
    place = newest(folder)
    if place is None:
        return None
    if is_first_process():
        print(f"going on from {place}; --fresh begins anew", flush=True)
    return place.checkpoint


def begin_folder(folder: Path | None, config: Any, line: CommandLine, data: CIFAR10DataModule) -> None:
    """Make the folder of a run that begins its own; what lies there already is set aside.

    That is done once all is built and the data seen to be there: a command that is refused leaves no trace, and an
    earlier run where it was.

    Args:
        folder: the run folder, if there is one.
        config: settings of ``fit``, settled.
        line: command line of ``fit``.
        data: that is to be trained on.

    Raises:
        UserError: for data that cannot be trained on.
    """
    if folder is None or config.get("ckpt_path") or not is_first_process():
        return
    data.check()
    if folder.exists():
        set_aside(folder)
    write_identity(folder, line)


class TakenOver(Callback):
    """Notes in a run folder that a command which names its checkpoint trains on there, once it does.

    Under other flags, the run is then no longer that of the command that it was begun by.

    Args:
        folder: the run folder.
        line: command line of ``fit``.
    """

    def __init__(self, folder: Path, line: CommandLine) -> None:
        self.folder, self.line = folder, line

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Before any of its checkpoints is written; a command that is refused has left the run alone."""
        if trainer.is_global_zero:
            write_identity(self.folder, self.line)


def newest(folder: Path) -> Place | None:
    """The newest whole checkpoint of a run folder; a damaged one is named and left out."""
    places = []
    for name in (STEP, LAST, PREVIOUS):
        path = folder / "checkpoints" / name
        try:
            places += [_place(path)] if path.is_file() else []
        except UserError as error:
            print(f"warning: {error} The one before it is looked for.", flush=True)
    # Of the same step, the one at the end of the epoch has the validation behind it.
    return max(places, key=lambda place: (place.step, place.epoch), default=None)


def _place(path: Path) -> Place:
    checkpoint = read_checkpoint(path, flag=None)
    try:
        step = int(checkpoint["global_step"])
        epochs = checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]
        within = epochs["started"] > epochs["processed"]
        return Place(path, int(checkpoint["epoch"]) + (0 if within else 1), step, within)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: it does not say how far it has come.") from error
