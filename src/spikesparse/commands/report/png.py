"""The charts of a report as PNGs, for papers and slides, by matplotlib."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from spikesparse.commands.report.plots import (
    BARS,
    CURVES,
    SPLITS,
    Bars,
    Curve,
    Drawn,
    final_points,
    layers,
    marked,
    pareto_front,
    side_by_side,
)
from spikesparse.files.whole_files import whole_file

_MARKERS = {"circle": "o", "square": "s", "triangle": "^", "diamond": "D"}
_HATCHES = {"circle": "", "square": "//", "triangle": "\\\\", "diamond": "xx"}  # of bars of the same colour
_DPI = 200
_TICKS = "{x:,.10g}"
_STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#aab0b8",
    "axes.labelcolor": "#3a3f47",
    "xtick.color": "#3a3f47",
    "ytick.color": "#3a3f47",
    "axes.grid.axis": "y",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e7e9ec",
}


def write_pngs(runs: list[Drawn], folder: Path) -> list[Path]:
    """Draw each chart that has anything to show, and return where the PNGs are."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # a name in a script that the font lacks is drawn as boxes
        for curve in CURVES:
            if any(curve.points(each.run, split)[0] for each in runs for split in SPLITS):
                written.append(_save(folder, curve.name, *_curves(curve, runs), runs))
        for bars in BARS:
            if layers(bars, runs):
                finished = [each for each, _ in side_by_side(runs)[1]]
                written.append(_save(folder, bars.name, *_bars(bars, runs), finished))
        if points := final_points(runs):
            finished = [each for each in runs if each.index in points]
            written.append(_save(folder, "pareto", *_scatter(finished, points), finished))
    return written


def _empty(title: str, x: str, y: str, width: float, runs: int) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, 3.4 + 0.2 * runs), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_title(title, loc="left", fontsize=12, fontweight="bold")
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    return figure, axes


def _save(folder: Path, name: str, figure: Figure, axes: Axes, runs: list[Drawn]) -> Path:
    handles = [Line2D([], [], color=each.colour, marker=_MARKERS[each.marker], lw=2) for each in runs]
    places = [str(each.index) for each in runs]
    legend = figure.legend(handles, places, loc="outside lower left", frameon=False, fontsize=9)
    for text, each in zip(legend.get_texts(), runs, strict=True):  # a label is text, not TeX or a hidden "_name"
        text.set_parse_math(False)
        text.set_text(each.label)
    path = folder / f"{name}.png"
    with whole_file(path) as file:
        figure.savefig(file, format="png", bbox_inches="tight")  # as wide as the longest label
    return path


def _curves(curve: Curve, runs: list[Drawn]) -> tuple[Figure, Axes]:
    figure, axes = _empty(curve.title, "epoch", curve.unit, 6, len(runs))
    for each in reversed(runs):
        for split, name in SPLITS.items():
            epochs, values = curve.points(each.run, split)
            solid = {"lw": 2, "marker": _MARKERS[each.marker], "ms": 4, "markevery": marked(epochs)}
            look: dict[str, Any] = solid if split == "val" else {"lw": 1.2, "ls": "--"}
            axes.plot(epochs, values, color=each.colour, label=name, **look)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_formatter(StrMethodFormatter(_TICKS))
    if curve.from_zero:
        axes.set_ylim(bottom=0)
    if len(curve.tags) > 1:
        axes.set_title(
            " and ".join(f"{name} {dash}" for name, dash in zip(SPLITS.values(), "─┄", strict=True)), loc="right"
        )
    return figure, axes


def _bars(bars: Bars, runs: list[Drawn]) -> tuple[Figure, Axes]:
    names = layers(bars, runs)
    figure, axes = _empty(bars.title, "layer", bars.unit, max(6, 0.7 * len(names)), len(runs))
    width, beside = side_by_side(runs)
    for each, offset in beside:
        heights = [bars.height(each.run, layer) or 0.0 for layer in names]
        at = [x + offset for x in range(len(names))]
        axes.bar(at, heights, width, color=each.colour, edgecolor="white", linewidth=0.6, hatch=_HATCHES[each.marker])
    axes.set_xticks(range(len(names)), names, parse_math=False, rotation=40 if len(names) > 8 else 0)
    axes.yaxis.set_major_formatter(StrMethodFormatter(_TICKS))
    return figure, axes


def _scatter(runs: list[Drawn], points: dict[int, tuple[float, float]]) -> tuple[Figure, Axes]:
    figure, axes = _empty("Accuracy against spikes", "spikes/image", "accuracy [%]", 6, len(runs))
    front = pareto_front(list(points.values()))
    axes.step([x for x, _ in front], [y for _, y in front], where="post", color="#8a919b", ls=":", zorder=1)
    for each in reversed(runs):
        axes.scatter(*points[each.index], s=90, color=each.colour, marker=_MARKERS[each.marker], ec="white", zorder=2)
    axes.margins(0.15, 0.2)
    axes.xaxis.set_major_formatter(StrMethodFormatter(_TICKS))
    return figure, axes
