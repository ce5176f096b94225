"""The front as a picture: ours, beside what others published, on the same axes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

from spikesparse.commands.pareto.published import ABSOLUTE, RELATIVE
from spikesparse.files.whole_files import whole_file

Row = dict[str, Any]
_OURS, _TWIN, _FAINT = "#1f6feb", "#d1495b", "#b3b8c0"
_STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.edgecolor": "#aab0b8",
    "axes.labelcolor": "#3a3f47",
    "xtick.color": "#3a3f47",
    "ytick.color": "#3a3f47",
    "axes.grid": True,
    "grid.color": "#e7e9ec",
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
}


def behind_first_layer(row: Row) -> float:
    """SynOps/image of the weight layers behind the first."""
    return float(row["synops"]) - float(row["first_layer_synops"])


def with_first_layer(row: Row) -> float:
    """Operations/image of all weight layers: SynOps, and the first layer's MACs under analog input."""
    return float(row["synops"]) + float(row["first_layer_macs"])


def write_figure(table: list[Row], path: Path, title: str, cifar10: bool, split: str = "val") -> None:
    """Draw the finished trials of :func:`spikesparse.commands.pareto.front.rows`.

    Args:
        table: its rows.
        path: the PNG to write, whole or not at all.
        title: above it.
        cifar10: whether the images are CIFAR-10's: only then are the curves that others measured on it drawn.
        split: of the accuracies in the table.
    """
    done = [row for row in table if row["state"] == "complete"]
    twin = next((row for row in done if row["twin"] == "yes"), None)
    with rc_context(_STYLE):
        figure = Figure(figsize=(13.5, 4.9), dpi=150, layout="constrained")
        FigureCanvasAgg(figure)
        relative, without, whole = figure.subplots(1, 3)
        _spikes(relative, done, twin)
        _operations(without, done, twin, cifar10, first_layer=False)
        _operations(whole, done, twin, cifar10, first_layer=True)
        relative.set_ylabel(f"{'validation' if split == 'val' else split} accuracy [%]")
        labels: dict[str, Any] = {}
        for axes in (relative, without, whole):
            labels |= {label: handle for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
        legend = figure.legend(
            list(labels.values()),
            list(labels),
            loc="outside lower left",
            ncols=len(labels),
            frameon=False,
            fontsize=9,
            title=_note(cifar10, twin is not None),
            title_fontsize=8,
            alignment="left",
        )
        legend.get_title().set_color("#6a717b")
        figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold")
        with whole_file(path) as file:
            figure.savefig(file, format="png")


def _spikes(axes: Axes, done: list[Row], twin: Row | None) -> None:
    unit = 100 / float(twin["spikes"]) if twin and float(twin["spikes"]) else 1.0
    _points(axes, done, lambda row: unit * float(row["spikes"]))
    axes.set_title("spikes")
    axes.set_xlabel("spikes/image [% of the twin's]" if twin else "spikes/image")
    axes.set_xlim(left=0)
    if twin:
        _relative_points(axes, 100.0, 0.0, twin)


def _operations(axes: Axes, done: list[Row], twin: Row | None, cifar10: bool, first_layer: bool) -> None:
    count = with_first_layer if first_layer else behind_first_layer
    _points(axes, done, count)
    axes.set_xscale("log")
    axes.set_title("operations, with the first layer's" if first_layer else "operations behind the first layer")
    axes.set_xlabel("(SynOps + first layer's MACs)/image" if first_layer else "SynOps/image")
    if twin:
        rest = with_first_layer(twin) - behind_first_layer(twin) if first_layer else 0.0
        _relative_points(axes, behind_first_layer(twin), rest, twin)
    if cifar10:
        for curve in ABSOLUTE:
            more = curve.first_layer if first_layer else 0
            x, y = [1e6 * millions + more for millions, _ in curve.points], [accuracy for _, accuracy in curve.points]
            axes.plot(x, y, "s-", color=curve.color, ms=4, lw=1.2, label=curve.label)
    low, high = axes.get_xlim()
    wide = high / low > 30  # few labels on a wide axis, some between on a narrow one
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0,) if wide else (1.0, 2.0, 3.0, 5.0)))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _points(axes: Axes, done: list[Row], x: Any) -> None:
    def at(rows: list[Row]) -> tuple[list[float], list[float]]:
        return [x(row) for row in rows], [100 * float(row["accuracy_val"]) for row in rows]

    others = [row for row in done if row["on_front"] != "yes"]
    front = sorted((row for row in done if row["on_front"] == "yes"), key=lambda row: float(row["accuracy_val"]))
    joined = at(front)[0] == sorted(at(front)[0])  # counted otherwise than it was searched, it may be no curve
    axes.plot(*at(others), "o", color=_FAINT, ms=5, mec="none", label="other trials")
    axes.plot(*at(front), "o-" if joined else "o", color=_OURS, ms=6, lw=1.6, mec="white", label="ours: the front")
    twins = [row for row in done if row["twin"] == "yes"]
    axes.plot(*at(twins), "*", color=_TWIN, ms=13, mec="white", label="our accuracy-only twin", zorder=4)


def _relative_points(axes: Axes, unit: float, rest: float, twin: Row) -> None:
    accuracy = 100 * float(twin["accuracy_val"])
    for theirs in RELATIVE:
        x = [unit * (1 - saved) + rest for saved, _ in theirs.points]
        y = [accuracy - points for _, points in theirs.points]
        axes.plot(x, y, "D", color=theirs.color, mfc="none", mew=1.5, ms=7, label=theirs.label, zorder=3)


def _note(cifar10: bool, twin: bool) -> str:
    relative = [theirs.note for theirs in RELATIVE if twin]
    return "\n".join(relative + [curve.note if cifar10 else curve.elsewhere for curve in ABSOLUTE])
