"""Means over seeds, with intervals: of recipes that have no twin beside them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Container, Sequence
from pathlib import Path

from spikesparse.commands.campaign.rows import rows_of

# Student's t, 97.5 %, for 1, 2, ... degrees of freedom; beyond, the value for the last is a little too wide.
T = (
    12.7062,
    4.3027,
    3.1824,
    2.7764,
    2.5706,
    2.4469,
    2.3646,
    2.3060,
    2.2622,
    2.2281,
    2.2010,
    2.1788,
    2.1604,
    2.1448,
    2.1314,
    2.1199,
    2.1098,
    2.1009,
    2.0930,
    2.0860,
    2.0796,
    2.0739,
    2.0687,
    2.0639,
    2.0595,
    2.0555,
    2.0518,
    2.0484,
    2.0452,
    2.0423,
)
COLUMNS = {  # of the rows: their heading, a factor, and how a mean is written
    "accuracy_test": ("test accuracy %", 100.0, ".2f"),
    "spikes_per_image": ("spikes/image", 1.0, ",.1f"),
    "synops_per_image": ("SynOps/image", 1.0, ",.0f"),
    "energy_uj_per_image": ("uJ/image", 1.0, ".3f"),
}


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """The mean, and half the width of its 95 % interval by Student's t; infinite for a single value."""
    if len(values) < 2:
        return values[0], math.inf
    freedom = len(values) - 1
    half = T[min(freedom, len(T)) - 1] * statistics.stdev(values) / math.sqrt(len(values))
    return statistics.fmean(values), half


def means(campaign: str, results: Path, chosen: Container[int] | None = None) -> str:
    """Every recipe's means over the chosen seeds (all), as Markdown; empty if there are no rows.

    Args:
        campaign: whose recipes.
        results: folder of the rows.
        chosen: seeds.
    """
    of_recipe: dict[str, list[dict[str, str]]] = {}
    for row in rows_of(campaign, results):
        if chosen is None or int(row["seed"]) in chosen:
            of_recipe.setdefault(row["recipe"], []).append(row)
    if not of_recipe:
        return ""
    headings = " | ".join(f"{name} [95 %]" for name, _, _ in COLUMNS.values())
    lines = [f"| recipe | seeds | {headings} |", "|---" * (len(COLUMNS) + 2) + "|"]
    for recipe, rows in of_recipe.items():
        cells = [
            _cell([factor * float(row[column]) for row in rows], written)
            for column, (_, factor, written) in COLUMNS.items()
        ]
        lines.append(f"| {recipe} | {len(rows)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(values: list[float], written: str) -> str:
    mean, half = mean_interval(values)
    if math.isinf(half):
        return f"{mean:{written}}"
    return f"{mean:{written}} [{mean - half:{written}}, {mean + half:{written}}]"
