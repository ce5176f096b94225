"""Run folders: runs/<experiment>[-<hash of overrides>]/seed<k>."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from spikesparse.errors import UserError
from spikesparse.files.run_folder import folder_of_checkpoint
from spikesparse.settings.command_line import CommandLine


def run_folder(config: Any, line: CommandLine) -> Path | None:
    """The folder of a run: its checkpoint's, or its own; None with a logger of the user's own, or none.

    Raises:
        UserError: if its name is no UTF-8, which TensorBoard's files need.
    """
    init = getattr(config.trainer.logger, "init_args", None)
    if config.trainer.fast_dev_run or init is None or "save_dir" not in init or init.get("name") is not None:
        return None
    seed = config.get("seed_everything")
    own = Path(init.save_dir) / line.run_name() / f"seed{seed if isinstance(seed, int) else 0}"
    folder = folder_of_checkpoint(config.get("ckpt_path")) or own
    try:
        str(folder).encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{folder}: the name of a run's folder must be UTF-8; rename it, or name another.") from error
    refuse_blocked(folder)
    return folder


def place_logger(config: Any, folder: Path) -> None:
    """Let the logger write into the run folder."""
    init = config.trainer.logger.init_args
    init.save_dir, init.name, init.version = str(folder.parent.parent), folder.parent.name, folder.name


def set_aside(folder: Path) -> None:
    """Rename an earlier run's folder, so that no two runs mix and none is lost."""
    number = 1
    while (kept := folder.with_name(f"{folder.name}-earlier{number}")).exists():
        number += 1
    try:
        folder.rename(kept)
    except OSError as error:
        raise UserError(f"{folder}: an earlier run lies there and cannot be moved aside ({error}).") from error
    print(f"an earlier run was kept as {kept}")


def refuse_blocked(folder: Path) -> None:
    """Refuse a folder that cannot be made, because a file has its name or that of one above it.

    Raises:
        UserError: naming the file.
    """
    for place in (*reversed(folder.parents), folder):
        if os.path.lexists(place) and not place.is_dir():
            raise UserError(
                f"{place}: it is no folder, and {folder} is to be made there. Move it away, work in another folder, or "
                "set --trainer.logger.init_args.save_dir."
            )
