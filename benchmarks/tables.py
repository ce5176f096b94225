"""Rows of measurements in a CSV file, and what they were measured on."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from spikesparse.summary import machine


def about_machine(*names: str) -> dict[str, Any]:
    """Of :func:`spikesparse.summary.machine`, in its order, what is named; by default what a timing hangs on."""
    wanted = names or ("hardware", "threads", "torch", "commit")
    return {name: value for name, value in machine().items() if name in wanted}


def append_rows(rows: list[dict[str, Any]], path: Path) -> None:
    """To a CSV file, which gets its header if it is new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerows(rows)
