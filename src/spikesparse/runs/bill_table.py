"""The bill as a table for a terminal."""

from __future__ import annotations

from typing import Any

from rich.table import Table


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
