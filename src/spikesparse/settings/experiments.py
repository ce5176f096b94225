"""The experiments that come with the package, by name: ``--config digits`` from any folder."""

from __future__ import annotations

import re
from pathlib import Path

from spikesparse.errors import UserError, did_you_mean
from spikesparse.files.paths import CONFIGS


def names() -> list[str]:
    """Of all that there are."""
    return sorted(path.stem for path in (CONFIGS / "experiment").glob("*.yaml"))


def config_file(value: str) -> str:
    """The file that a value of ``--config`` means: of that name, or else the experiment's of that name.

    Raises:
        UserError: for a name that is neither.
    """
    if not re.fullmatch(r"[\w-]+", value) or Path(value).exists():
        return value
    if value not in names():
        raise UserError(
            f"--config={value}: there is no such file, and no experiment of that name.{did_you_mean(value, names())} "
            f"There are: {', '.join(names())}."
        )
    return str(CONFIGS / "experiment" / f"{value}.yaml")
