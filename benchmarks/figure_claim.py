"""Draw what fewer spikes cost, every sparse recipe beside its own twin: the picture of docs/results.md.

    python benchmarks/figure_claim.py docs/claim.png

Everything in it is read from results/, as `spikesparse campaign` compares.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.figure import Figure
from matplotlib.ticker import MultipleLocator

from spikesparse.commands.campaign.comparison import SEEDS, Comparison, compare
from spikesparse.commands.pareto.published import RELATIVE

ROOT = Path(__file__).resolve().parents[1]


class Line(NamedTuple):
    """Recipes of one twin, joined by a line in this order; a recipe alone is a point."""

    label: str
    campaign: str
    twin: str
    recipes: tuple[str, ...]
    marker: str
    color: str
    width: float = 1.2
    seeds: tuple[int, ...] | None = None  # these alone


FULL, EXIT, VGG9, WIDE, STEPS, DIGITS = "#1f6feb", "#d1495b", "#1b1f24", "#3d8b5f", "#8250df", "#8a8f98"
LONG = "#bf3989"
QUIET = ("quiet_70", "quiet_85")
BY_STEP = ("by_step_70", "by_step_73", "by_step_85", "by_step_90")
STARTED = ("started_70", "started_73", "started_85")
LINES = (
    Line("vgg7, a budget", "vgg7_iso", "twin", QUIET, "o", FULL, 2),
    Line("vgg7, one network's early exits", "vgg7_iso", "twin", BY_STEP, "P", EXIT, 2),
    Line("vgg7, λ rising to 1", "vgg7_iso", "twin", ("linear_ramp",), "^", FULL, 2),
    Line("vgg7, λ = 1 throughout", "vgg7_iso", "twin", ("fixed_lambda",), "v", FULL, 2),
    Line("vgg7 from T=8, half charged, early exits", "vgg7_eight_steps", "twin", STARTED, "X", STEPS, 2),
    Line("the same from T=16", "vgg7_sixteen_steps", "twin", (*STARTED, "started_90"), "X", LONG, 2),
    Line("VGG9, one network's early exits", "vgg9", "twin", ("early_70", "early_85", "early_90"), "P", VGG9, 2),
    Line("proxy, vgg7 from T=4", "width_proxy", "twin", ("quiet_70",), "s", WIDE),
    Line(
        "proxy, twice the channels, from T=4",
        "width_proxy",
        "wide_twin",
        ("wide_quiet_70", "wide_quiet"),
        "D",
        WIDE,
    ),
    Line("proxy, vgg7 from T=8", "steps_proxy", "twin", ("quiet_70",), "s", STEPS, seeds=(0,)),
    Line(
        "proxy, vgg7 from T=8, early exits",
        "steps_proxy",
        "twin",
        ("half_70", "half_73", "half_85"),
        "P",
        STEPS,
        seeds=(0,),
    ),
    Line("proxy, the same, half charged at first", "steps_proxy", "twin", STARTED, "X", STEPS, seeds=(0,)),
    Line("proxy, vgg7 from T=16", "steps_proxy", "long_twin", ("long_quiet_70", "quiet_70"), "D", STEPS, seeds=(0,)),
    Line("the digits, early exit", "digits_exit", "twin", ("exit_1", "exit_2", "exit_4"), "P", DIGITS),
    Line("the digits", "digits_loop", "twin", ("budget_70", "budget_85"), "o", DIGITS),
)


def picture(results: Path = ROOT / "results") -> Figure:
    """Points lost against spikes saved, with 95 % intervals; hollow where fewer than five seeds decide nothing."""
    figure = Figure(figsize=(11, 5), dpi=150, layout="constrained")
    axes = figure.subplots()
    for line in LINES:
        found = {
            each.recipe: each for each in compare(line.campaign, line.twin, "spikes_per_image", results, line.seeds)
        }
        _draw_line(axes, [found[recipe] for recipe in line.recipes if recipe in found], line)
    (allred,) = RELATIVE
    x, y = [100 * saved for saved, _ in allred.points], [points for _, points in allred.points]
    axes.plot(x, y, "*", color="#b26a00", ms=13, mfc="none", mew=1.5, label="Allred et al. 2020, “up to”")
    axes.axhline(0, color="#aab0b8", lw=1)
    axes.set(xlabel="fewer spikes than the twin [%]", ylabel="test accuracy lost [points]")
    axes.invert_yaxis()
    axes.xaxis.set_major_locator(MultipleLocator(5))
    axes.grid(color="#e7e9ec")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(frameon=False, loc="outside right upper", fontsize=8)
    axes.set_title("What fewer spikes cost (hollow: fewer than five seeds)", loc="left")
    return figure


def _draw_line(axes: Any, found: list[Comparison], line: Line) -> None:
    color = line.color
    axes.plot([-100 * each.change for each in found], [each.drop for each in found], lw=line.width, color=color)
    for each in found:
        axes.errorbar(
            -100 * each.change,
            each.drop,
            yerr=[[each.drop - each.low], [each.high - each.drop]],
            fmt=line.marker,
            ms=7,
            mfc=color if each.seeds >= SEEDS else "white",
            capsize=3,
            elinewidth=1,
            color=color,
        )
    joined = "-" if len(line.recipes) > 1 else ""
    axes.plot([], [], line.marker, color=color, ls=joined, lw=line.width, label=line.label)


def main() -> None:
    """Draw it into the file that is named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="the picture to write")
    picture().savefig(parser.parse_args().out)


if __name__ == "__main__":
    main()
