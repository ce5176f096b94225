"""The final quantities of runs as text, beside the baseline's."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass

from spikesparse.commands.report.compare import ABSENT, shown
from spikesparse.commands.report.plots import Drawn
from spikesparse.commands.report.runs import Run


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
        text: the value, rounded for reading.
        exact: the value with all its digits; "" if the text is that already.
        change: against the baseline; "" for the baseline itself, or where either has no value.
        better: whether that change is one for the better; None if it is no change.
    """

    text: str
    exact: str = ""
    change: str = ""
    better: bool | None = None


@dataclass(frozen=True)
class Quantity:
    """A final quantity of a run; ``in_result`` and ``in_bill`` name it in result.json and in bill.json's total."""

    heading: str
    in_result: str
    in_bill: str
    text: Callable[[float], str]
    more_is_better: bool = False

    def value(self, run: Run) -> float | None:
        """The quantity, in the unit that the run's files have it in; None if they lack it."""
        return run.measured(self.in_result, self.in_bill)

    def cell(self, run: Run, baseline: Run | None) -> Cell:
        """The run's value, with its change against a baseline."""
        value = self.value(run)
        if value is None:
            return Cell(ABSENT)
        before = None if baseline is None else self.value(baseline)
        if before is None or (not before and not self.more_is_better):
            return Cell(self.text(value), repr(value))
        change = f"{100 * (value - before):+.2f} points" if self.more_is_better else f"{value / before - 1:+.1%}"
        better = None if value == before else (value > before) == self.more_is_better
        return Cell(self.text(value), repr(value), change.replace("-", "\N{MINUS SIGN}").replace("%", " %"), better)


def significant(value: float) -> str:
    """Three digits, or all digits before the point.

    >>> significant(3.4135), significant(41.0), significant(1234.5)
    ('3.41', '41.0', '1,234')
    """
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:#.3g}"


QUANTITIES = (
    Quantity("accuracy", "accuracy", "accuracy", lambda v: f"{v:.2%}".replace("%", " %"), more_is_better=True),
    Quantity("spikes/image", "spikes", "spikes_per_image", lambda v: f"{v:,.1f}"),
    Quantity("rate [spikes/neuron/step]", "rate", "spike_rate", lambda v: f"{v:.4f}"),
    Quantity("SynOps/image", "synops", "synops_per_image", lambda v: f"{v:,.0f}"),
    Quantity("energy [µJ/image]", "energy_uj", "energy_uj_per_image", significant),
)
ACCURACY, SPIKES, *_, ENERGY = QUANTITIES
_WITHOUT_SPIKES = Quantity("", "ann_energy_uj", "ann_energy_uj_per_image", significant)


def results(runs: list[Drawn]) -> tuple[list[str], list[list[Cell]]]:
    """Headings, and a row for each run: what was measured at its end, with changes against the first."""
    splits = {shown(each.run.result.get("split", each.run.bill.get("split", ""))) for each in runs} - {""}
    headings = [quantity.heading for quantity in QUANTITIES]
    headings[0] = f"{splits.pop()} accuracy" if len(splits) == 1 else headings[0]
    rows = []
    for each in runs:
        baseline = runs[0].run if each.index else None
        share = energy_share(each.run)
        cells = [quantity.cell(each.run, baseline) for quantity in QUANTITIES]
        rows.append([*cells, Cell(ABSENT) if share is None else Cell(f"{share:.1%}".replace("%", " %"), repr(share))])
    return [*headings, "energy, share of the same network without spikes"], rows


def energy_share(run: Run) -> float | None:
    """Its energy over that of the same network without spikes."""
    energy, without = ENERGY.value(run), _WITHOUT_SPIKES.value(run)
    return energy / without if energy is not None and without else None


def origins(runs: list[Drawn]) -> tuple[list[str], list[list[Cell]]]:
    """Headings, and a row for each run: how long and on what it was trained."""
    keys = {
        "epochs": "epochs",
        "fit_seconds": "training [s]",
        "hardware": "hardware",
        "threads": "threads",
        "spikesparse": "spikesparse",
        "torch": "torch",
        "pytorch-lightning": "Lightning",
        "commit": "commit",
    }
    known = [{"epochs": each.run.config.get("trainer.max_epochs"), **each.run.bill, **each.run.result} for each in runs]
    for each, of_run in zip(runs, known, strict=True):
        if each.run.seconds is not None:
            of_run["fit_seconds"] = round(each.run.seconds, 1)
    return [*keys.values()], [[Cell(_or_absent(of_run.get(key))) for key in keys] for of_run in known]


def long_origins(run: Run) -> dict[str, str]:
    """A run's folder, its checkpoint and the command that made it: one line each."""
    known = {**run.bill, **run.result}
    command = known.get("command")
    if isinstance(command, list):
        command = shlex.join(["spikesparse", *(str(word) for word in command)])
    checkpoint = known.get("checkpoint")
    return {"folder": str(run.folder), "checkpoint": _or_absent(checkpoint), "command": _or_absent(command)}


def _or_absent(value: object) -> str:
    return ABSENT if value in (None, "") else shown(value)


def headline(runs: list[Drawn]) -> str:
    """The comparison of the runs in one sentence; "" if none is finished."""
    finished = [each for each in runs if None not in (SPIKES.value(each.run), ACCURACY.value(each.run))]
    if not finished:
        return ""
    quietest = min(finished, key=lambda each: SPIKES.value(each.run) or 0.0)
    spikes, accuracy = (q.cell(quietest.run, runs[0].run if quietest.index else None) for q in (SPIKES, ACCURACY))
    if quietest.index and spikes.change and accuracy.change:
        return (
            f"{quietest.label} is the quietest: {spikes.text} spikes per image, {spikes.change} against the baseline "
            f"{runs[0].label}, at {accuracy.text} accuracy, {accuracy.change}."
        )
    share = energy_share(quietest.run)
    energy = "" if share is None else f", with {100 * share:.1f} % of the energy of the same network without spikes"
    return f"{quietest.label}: {spikes.text} spikes per image at {accuracy.text} accuracy{energy}."
