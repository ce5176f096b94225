"""What each chart of a report shows, whoever draws it: names, units, numbers and colours."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from spikesparse.commands.report.compare import baseline_first, labels
from spikesparse.commands.report.runs import Run
from spikesparse.settings.plain import number

# Okabe and Ito's colours, told apart by colour-blind readers, the palest last; the baseline is grey. Runs that share a
# colour differ in their marker and in the hatching of their bars.
_BASELINE_COLOUR = "#555555"
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_MARKERS = ("circle", "square", "triangle", "diamond")
#: Names of the splits of a curve, the one drawn solid first.
SPLITS = {"val": "validation", "train": "training"}


@dataclass(frozen=True)
class Drawn:
    """A run as it is drawn: its number in the report, its label, its colour and its marker (bokeh's name)."""

    run: Run
    index: int
    label: str
    colour: str
    marker: str

    @property
    def key(self) -> str:
        """What ties its curves, bars, rows and legend entry together in the page."""
        return f"run-{self.index}"


@dataclass(frozen=True)
class Curve:
    """A quantity over the epochs.

    Attributes:
        name: of its PNG.
        title: of its chart.
        unit: of its axis.
        tags: split -> TensorBoard tag.
        exact: a value as text, in the axis's unit.
        scale: what a logged value is multiplied by to be in that unit.
        from_zero: whether its axis starts at zero.
    """

    name: str
    title: str
    unit: str
    tags: dict[str, str]
    exact: Callable[[float], str]
    scale: float = 1
    from_zero: bool = True

    def points(self, run: Run, split: str) -> tuple[list[float], list[float]]:
        """Epochs and values of a run; both empty if it has none."""
        epochs, values = run.curves.get(self.tags.get(split, ""), ([], []))
        return epochs, [self.scale * value for value in values]


@dataclass(frozen=True)
class Bars:
    """A quantity of each layer: ``column`` of the bill."""

    name: str
    title: str
    unit: str
    column: str

    def height(self, run: Run, layer: str) -> float | None:
        """Its value; None if that layer of that run has none."""
        return number(run.layers.get(layer, {}).get(self.column))


def percent(value: float) -> str:
    """97.49 %, for a value of 97.4930."""
    return f"{value:.2f} %"


def count(value: float) -> str:
    """A number of events per image, to a tenth."""
    return f"{value:,.1f}"


def plain(value: float) -> str:
    """A number without a unit."""
    return f"{value:.4g}"


def _tags(stem: str) -> dict[str, str]:
    return {split: f"{stem}/{split}" for split in SPLITS}


CURVES = (
    Curve("accuracy", "Accuracy", "accuracy [%]", _tags("accuracy"), percent, 100, from_zero=False),
    Curve("spikes", "Spikes", "spikes/image", _tags("efficiency/spikes_per_image"), count),
    Curve("synops", "Synaptic operations", "SynOps/image", _tags("efficiency/synops_per_image"), count),
    Curve("task_loss", "Task loss", "task loss [1]", _tags("loss/task"), plain),
    Curve("sparsity_loss", "Sparsity penalty, before λ", "penalty [1]", _tags("loss/sparsity"), plain),
    Curve("lambda", "Weight of the sparsity penalty", "λ [1]", {"val": "schedule/lambda"}, plain),
)
BARS = (
    Bars("layers_spikes", "Spikes of each layer", "spikes/image", "spikes_per_image"),
    Bars("layers_synops", "Synaptic operations into each layer", "SynOps/image", "synops_per_image"),
)


def drawn(runs: list[Run]) -> list[Drawn]:
    """The runs as they are drawn, the baseline first."""
    ordered = baseline_first(runs)
    look = [(_BASELINE_COLOUR, _MARKERS[0])] if len(runs) > 1 else []
    look += [(colour, marker) for marker in _MARKERS for colour in _COLOURS]
    names = labels(ordered)
    return [Drawn(run, i, names[i], *look[i % len(look)]) for i, run in enumerate(ordered)]


def marked(epochs: list[float]) -> int:
    """At every how many epochs a curve shows its marker, so that markers do not run into each other."""
    return max(1, round(len(epochs) / 20))


def layers(bars: Bars, runs: list[Drawn]) -> list[str]:
    """The layers to draw, in order: those with a bar above zero in any run, or else all that have the quantity."""
    heights: dict[str, list[float]] = {}
    for each in runs:
        for layer in each.run.layers:
            height = bars.height(each.run, layer)
            heights.setdefault(layer, []).extend([] if height is None else [height])
    return [layer for layer in heights if any(heights[layer])] or [layer for layer in heights if heights[layer]]


def side_by_side(runs: list[Drawn]) -> tuple[float, list[tuple[Drawn, float]]]:
    """Width of a bar, and each run that has layers with its bar's distance from the middle of a layer's unit width."""
    finished = [each for each in runs if each.run.layers]
    width = 0.8 / max(1, len(finished))
    return width, [(each, (place - (len(finished) - 1) / 2) * width) for place, each in enumerate(finished)]


def final_points(runs: list[Drawn]) -> dict[int, tuple[float, float]]:
    """Index of a run -> its spikes per image and accuracy in percent; empty if fewer than two runs are finished."""
    points = {}
    for each in runs:
        spikes, accuracy = each.run.measured("spikes", "spikes_per_image"), each.run.measured("accuracy", "accuracy")
        if spikes is not None and accuracy is not None:
            points[each.index] = (spikes, 100 * accuracy)
    return points if len(points) > 1 else {}


def pareto_front(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Of points (cost, gain), those than which no other has as much gain at less cost or more at as much, by cost.

    >>> pareto_front([(3.0, 9.0), (1.0, 5.0), (2.0, 4.0), (4.0, 9.0)])
    [(1.0, 5.0), (3.0, 9.0)]
    """
    front: list[tuple[float, float]] = []
    for cost, gain in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or gain > front[-1][1]:
            front.append((cost, gain))
    return front
