"""The experiments that come with the package, by name: ``--config digits`` from any folder."""

from __future__ import annotations

import re
from pathlib import Path

from spikesparse.errors import UserError, did_you_mean
from spikesparse.files.paths import CONFIGS


def names() -> list[str]:
    """Of all that there are, in configs/experiment here and in the package."""
    return sorted(_files())


def config_file(value: str) -> str:
    """The file that a value of ``--config`` means: of that name, or else the experiment's of that name.

    Raises:
        UserError: for a name that is neither.
    """
    if not re.fullmatch(r"[\w-]+", value) or Path(value).exists():
        return value
    files = _files()
    if value not in files:
        raise UserError(
            f"--config={value}: there is no such file, and no experiment of that name.{did_you_mean(value, files)} "
            f"There are: {', '.join(sorted(files))}."
        )
    return str(files[value])


def _files() -> dict[str, Path]:
    folders = (CONFIGS / "experiment", Path("configs/experiment"))  # of one name, the one here
    return {path.stem: path for folder in folders for path in folder.glob("*.yaml")}
