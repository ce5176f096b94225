"""Going on with a run by the same command: whether it is finished, and what it goes on from."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spikesparse.checkpoints import read_checkpoint
from spikesparse.errors import UserError
from spikesparse.runs import config_digest, flag_value, is_first_process, set_aside
from spikesparse.saving import LAST, PREVIOUS, STEP
from spikesparse.whole_files import replace_file

RUN = "run.json"  # which command made a run folder, and whether its training is over


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


def prepare_folder(folder: Path, args: list[str], fresh: bool) -> Path | None:
    """Make a run's own folder ready: an unfinished run goes on in it, anything else that lies there is set aside.

    Args:
        folder: the run folder.
        args: command line of ``fit``.
        fresh: begin anew whatever is there.

    Returns:
        The checkpoint to go on from, if there is one.

    Raises:
        Finished: if the run is there, trained to its end.
    """
    kept = _kept(folder)
    if not fresh and kept and all(kept.get(name) == value for name, value in _identity(args).items()):
        if kept.get("finished"):
            raise Finished(folder)
        if (place := newest(folder)) is not None:
            if is_first_process():
                print(f"going on from {place}; --fresh begins anew", flush=True)
            return place.checkpoint
    if is_first_process():
        if folder.exists():
            set_aside(folder)
        write_identity(folder, args)
    return None


def write_identity(folder: Path, args: list[str], finished: bool = False) -> None:
    """Say in a run folder which command it belongs to, and whether its training came to its end."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps({**_identity(args), "finished": finished, "command": args}, indent=2)
    replace_file(folder / RUN, text + "\n")


def _identity(args: list[str]) -> dict[str, Any]:
    """What a run folder's name does not say of a command line: the contents of its files, and where its data is."""
    return {"configs": config_digest(args), "data_dir": flag_value(args, "--data.data_dir")}


def newest(folder: Path) -> Place | None:
    """The newest whole checkpoint of a run folder that a run goes on from; a damaged one is named and left out."""
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


def _kept(folder: Path) -> dict[str, Any]:
    try:
        kept = json.loads((folder / RUN).read_text())
    except (OSError, ValueError):
        return {}
    return kept if isinstance(kept, dict) else {}
