"""Rows of measurements in a CSV file, and what they were measured on."""

from __future__ import annotations

import csv
import fcntl
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from spikesparse.runs.result import machine


def about_machine(*names: str) -> dict[str, Any]:
    """Of :func:`spikesparse.runs.result.machine`, in its order, what is named; by default what a timing hangs on."""
    wanted = names or ("hardware", "threads", "torch", "commit")
    return {name: value for name, value in machine().items() if name in wanted}


def check_columns(path: Path, columns: Iterable[str]) -> None:
    """Refuse to append to another table: before a measurement that takes long.

    Raises:
        SystemExit: if the file has other columns.
    """
    header = path.read_text().split("\n", 1)[0] if path.exists() else ""
    if header and header != ",".join(columns):
        raise SystemExit(f"{path}: its columns are not those of today; name another file, or move it away")


def append_rows(rows: list[dict[str, Any]], path: Path) -> None:
    """To a CSV file, which gets its header if it is new; several processes may do so at once.

    Raises:
        SystemExit: if the file has other columns.
    """
    columns = list(rows[0])
    check_columns(path, columns)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", newline="") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # of several processes, one writes the header
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        if not os.fstat(file.fileno()).st_size:
            writer.writeheader()
        writer.writerows(rows)
