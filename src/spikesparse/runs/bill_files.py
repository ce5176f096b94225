"""The bill of a run as CSV, as JSON and as a table."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

from spikesparse.errors import UserError
from spikesparse.files.names import printable
from spikesparse.files.whole_files import replace_file
from spikesparse.metrics import EnergyConstants, SpikeBill
from spikesparse.metrics.bill import DEFINITIONS
from spikesparse.runs.bill_table import bill_table

CSV, JSON = "bill.csv", "bill.json"


def write_bill(folder: Path, bill: SpikeBill, energy: EnergyConstants, about: dict[str, Any]) -> None:
    """Write bill.csv and bill.json: definitions with units first, then a row for each layer and the total.

    Args:
        folder: where to.
        bill: the counts.
        energy: what the operations cost.
        about: what the counts were taken on and how: split, checkpoint, command, versions.
    """
    header = {
        **about,
        "images": bill.images,
        "timesteps": bill.timesteps,
        "accumulate_pj": energy.accumulate_pj,
        "multiply_accumulate_pj": energy.multiply_accumulate_pj,
    }
    rows = bill.rows(energy)
    text = io.StringIO()
    for name, value in header.items():
        text.write(f"# {name}: {printable(' '.join(value) if isinstance(value, list) else str(value))}\n")
    for column, definition in DEFINITIONS.items():
        text.write(f"# {column}: {definition}\n")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["layer", *DEFINITIONS])
    for name, row in rows.items():
        values = (row.get(column) for column in DEFINITIONS)
        writer.writerow([name, *("" if value is None else value for value in values)])
    whole = {**header, "definitions": DEFINITIONS, "rows": rows}
    try:
        replace_file(folder / JSON, json.dumps(whole, indent=2) + "\n")
    finally:
        replace_file(folder / CSV, text.getvalue())


def read_rows(folder: Path) -> dict[str, dict[str, Any]]:
    """The rows that :func:`write_bill` wrote.

    Raises:
        UserError: if there are none, or the file is damaged.
    """
    path = folder / JSON
    try:
        whole = json.loads(path.read_text(encoding="utf-8"))
        rows: dict[str, dict[str, Any]] = whole["rows"]
        bill_table(rows, "")  # all that a table asks for is there
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read ({' '.join(repr(error).split())[:200]}).") from error
    return rows
