"""Which command made a run folder, and whether its training is over."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from spikesparse.files.checkpoint import CHOICES
from spikesparse.files.run_folder import folder_of_checkpoint
from spikesparse.files.whole_files import replace_file
from spikesparse.settings.command_line import CommandLine

RUN = "run.json"  # which command made a run folder, and whether its training is over


def write_identity(folder: Path, line: CommandLine, finished: bool = False, seconds: float | None = None) -> None:
    """Say in a run folder which command it belongs to, and whether its training came to its end.

    At the end it belongs to what it belonged to at the beginning: files may have been edited since.

    Args:
        folder: the run folder.
        line: command line of ``fit``.
        finished: it has come to its end.
        seconds: that it took, all sittings together.
    """
    folder.mkdir(parents=True, exist_ok=True)
    begun = kept_identity(folder) if finished else {}
    ended = {} if seconds is None else {"fit_seconds": round(seconds, 1)}
    whole = {**_identity(line), **begun, "finished": finished, **ended, "command": list(line.words)}
    replace_file(folder / RUN, json.dumps(whole, indent=2) + "\n")


def _identity(line: CommandLine) -> dict[str, Any]:
    """What decides a run: most of it the folder's name says too, but not of one that was taken over."""
    checkpoint = line.value("--ckpt_path")
    its_own = checkpoint in (None, *CHOICES) or folder_of_checkpoint(checkpoint) is not None
    return {
        "configs": line.config_digest(),
        "data_dir": line.value("--data.data_dir"),
        "trained_as": _trained_as(line),
        "begun_from": None if its_own else checkpoint,
        "files": line.file_digests(),
    }


def _trained_as(line: CommandLine, earlier: bool = False) -> str:
    return f"{line.run_name(earlier)}/seed{line.seed}"


def is_of(kept: dict[str, Any], line: CommandLine) -> bool:
    """Whether a run folder belongs to a command; what its run.json does not tell, being older, is taken as equal."""
    ours = _identity(line)
    theirs = {**ours, **kept}
    if theirs["trained_as"] == _trained_as(line, earlier=True):
        theirs["trained_as"] = ours["trained_as"]
    known = theirs.pop("files") if isinstance(theirs["files"], dict) else {}
    # A file that is gone by now decides nothing: the run that was made with it stays what it is.
    same_files = all(known.get(name, digest) == digest for name, digest in ours.pop("files").items())
    return "configs" in kept and same_files and all(theirs[name] == value for name, value in ours.items())


def kept_identity(folder: Path) -> dict[str, Any]:
    try:
        kept = json.loads((folder / RUN).read_text()) if (folder / RUN).is_file() else {}
    except (OSError, ValueError):
        return {}
    return kept if isinstance(kept, dict) else {}
