"""The bill of a run as CSV, as JSON and as a table."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

from rich.table import Table

from spikesparse.errors import UserError
from spikesparse.files.names import printable
from spikesparse.files.whole_files import replace_file
from spikesparse.metrics import EnergyConstants, SpikeBill
from spikesparse.metrics.bill import DEFINITIONS

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


def bill_table(rows: dict[str, dict[str, Any]], title: str) -> Table:
    """The bill per image, for each layer and in all, for a terminal; columns that say nothing here are left out."""
    columns = {
        "neurons": ("neurons", ",d"),
        "spikes_per_image": ("spikes", ",.1f"),
        "spike_rate": ("rate", ".4f"),
        "silent_neurons": ("silent", ",d"),
        "saturated_neurons": ("saturated", ",d"),
        "synops_per_image": ("SynOps", ",.0f"),
        "nonzero_synops_per_image": ("nonzero SynOps", ",.0f"),
        "dense_synops_per_image": ("of dense", ".2%"),
        "macs_per_image": ("MACs", ",.0f"),
        "ann_macs_per_image": ("ANN MACs", ",.0f"),
    }
    total = rows["total"]
    if total["nonzero_synapses"] in (None, total["synapses"]):
        del columns["nonzero_synops_per_image"]
    if not total["macs"]:
        del columns["macs_per_image"]
    if total["silent_neurons"] is None:
        del columns["silent_neurons"], columns["saturated_neurons"]
    table = Table(title=f"{title}, per image", title_justify="left")
    table.add_column("layer")
    for heading, _ in columns.values():
        table.add_column(heading, justify="right")
    for name, row in rows.items():
        if name == "total":
            table.add_section()
        values = {column: row.get(column) for column in columns}
        dense = values["dense_synops_per_image"]
        values["dense_synops_per_image"] = row["synops_per_image"] / dense if dense else None
        cells = ("" if value is None else format(value, columns[column][1]) for column, value in values.items())
        if name != "input" or row["spikes"]:
            table.add_row(name, *cells)
    return table
