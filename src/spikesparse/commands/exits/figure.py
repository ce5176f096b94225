"""The figure of ``spikesparse exits``."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from spikesparse.commands.exits.curve import Exits
from spikesparse.files.whole_files import whole_file


def draw(rows: list[Exits], sought: list[Exits], path: Path) -> None:
    """Accuracy against spikes, a point for each early exit, as a PNG.

    Args:
        rows: of one confidence each, that of all steps last.
        sought: of a confidence after each step.
        path: where to.
    """
    figure = Figure(figsize=(6.4, 4.2), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    *early, whole = rows
    curves = ((sought, "#2f9e5f", "a confidence after each step"), (early, "#1f6feb", "one confidence for all steps"))
    for below, (points, color, label) in enumerate(curves):
        if len(points) > 1:  # one alone, of one --target, is no curve
            curve = sorted([*points, whole], key=lambda row: row.spikes)
            axes.plot(*_places(curve), color=color, lw=1.2, zorder=1)
        axes.scatter(*_places(points), color=color, s=22, label=label, zorder=3 - below)
    axes.scatter(*_places([whole]), color="#d1495b", s=34, label="all steps", zorder=4)
    for row in early:
        place = (row.spikes, 100 * row.accuracy)
        axes.annotate(row.flag, place, (4, -9), textcoords="offset points", fontsize=8, color="#3a3f47")
    axes.set_xlabel("spikes per image")
    axes.set_ylabel("validation accuracy [%]")
    axes.set_title(f"early exit at each confidence, by {whole.measure}", loc="left", fontsize=11)
    axes.grid(color="#e7e9ec")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right")
    with whole_file(path) as file:
        figure.savefig(file, format="png")


def _places(rows: list[Exits]) -> tuple[list[float], list[float]]:
    return [row.spikes for row in rows], [100 * row.accuracy for row in rows]
