"""From outcomes to rows, to a table and to a CSV."""

from __future__ import annotations

import statistics
from typing import Any

from ratios import interquartile, interval, paired_ratios
from rich.console import Console
from rich.table import Table

from .agreement import in_words
from .driver import Outcome
from .setting import Setting

LIMITS = ("limit contiguous", "limit channels-last")
COLUMNS = (
    *("contestant", "device", "hardware", "architecture", "timesteps", "batch", "precision", "layout"),
    *("median_ms", "iqr_ms", "images_per_s", "ratio_to_limit", "ratio_interval_95"),
    *("peak_mb", "peak_total_mb", "held_bytes_per_neuron_step", "saved_bytes_per_neuron_step"),
    *("agrees", "differs", "loss", "graphs", "graph_breaks", "failed"),
    *("torch", "triton", "peer", "threads", "rounds", "steps", "commit", "command"),
)
LOSS_MAY_DIFFER = 0.1  # of its median
SHOWN = {
    "contestant": "contestant",
    "median_ms": "ms",
    "iqr_ms": "IQR",
    "images_per_s": "images/s",
    "ratio_to_limit": "x limit",
    "ratio_interval_95": "95 %",
    "peak_mb": "peak MB",
    "held_bytes_per_neuron_step": "bytes held*",
    "saved_bytes_per_neuron_step": "saved*",
    "layout": "layout",
    "agrees": "the same function?",
}


def rows(outcomes: list[Outcome], about: dict[str, Any]) -> list[dict[str, Any]]:
    """A row for each contestant in one setting, the fastest first, those that failed last."""
    limits = [o for o in outcomes if o.contestant.name in LIMITS and not o.failed and o.rounds]
    limit = min(limits, key=lambda o: statistics.median(o.rounds), default=None)
    made = [_row(outcome, limit, about) for outcome in outcomes]
    return sorted(made, key=lambda row: (bool(row["failed"]), row["median_ms"] or 0.0))


def _row(outcome: Outcome, limit: Outcome | None, about: dict[str, Any]) -> dict[str, Any]:
    setting = outcome.setting
    row: dict[str, Any] = dict.fromkeys(COLUMNS, "")
    row |= {name: value for name, value in {**about, **outcome.facts}.items() if name in COLUMNS and value is not None}
    row |= {name: getattr(setting, name) for name in ("device", "architecture", "timesteps", "batch", "precision")}
    row |= {"contestant": outcome.contestant.name, "differs": outcome.contestant.differs, "failed": outcome.failed}
    if outcome.facts.get("agreement"):
        row["agrees"] = in_words(outcome.facts["agreement"])
    if "loss" in outcome.facts:
        row["loss"] = round(outcome.facts["loss"], 4)
    row["rounds"] = len(outcome.rounds)
    if outcome.rounds and not outcome.failed:
        median = statistics.median(outcome.rounds)
        row["median_ms"], row["iqr_ms"] = round(median, 3), round(interquartile(outcome.rounds), 3)
        row["images_per_s"] = round(1e3 * setting.batch / median, 1)
        if limit is not None:
            ratios = paired_ratios(outcome.rounds, limit.rounds)
            low, high = interval(ratios)
            row["ratio_to_limit"] = round(statistics.median(ratios), 3)
            row["ratio_interval_95"] = f"{low:.3f} to {high:.3f}"
    return row


def disagreeing(outcomes: list[Outcome]) -> list[str]:
    """Those that do not compute the same: as the check found, or, of the compiled, by the loss after the first steps.

    Only roughly: after some steps of training, two roundings have become other spikes and other weights, and losses
    that began alike differ by a few percent. In float32 only: in bfloat16 each library rounds in places of its own.
    """
    wrong = [
        f"{o.name}: {in_words(o.facts['agreement'])}"
        for o in outcomes
        if o.facts.get("agreement") and not o.facts["agreement"]["agrees"]
    ]
    spiking = [o for o in outcomes if o.contestant.spikes and o.setting.precision == "float32" and "loss" in o.facts]
    for outcome in spiking:
        if outcome.contestant.compile is None:  # checked exactly
            continue
        usual = statistics.median(o.facts["loss"] for o in spiking if o.setting == outcome.setting)
        if abs(outcome.facts["loss"] - usual) > LOSS_MAY_DIFFER * usual:
            wrong.append(f"{outcome.name}: its loss is {outcome.facts['loss']:.4f}, that of most is {usual:.4f}")
    return wrong


def show(made: list[dict[str, Any]], setting: Setting) -> None:
    """For a terminal."""
    title = (
        f"{setting.architecture}, T={setting.timesteps}, batch {setting.batch}, {setting.precision}, {setting.device}"
    )
    table = Table(title=f"one training step: {title}", title_justify="left")
    for name, heading in SHOWN.items():
        right = name not in ("contestant", "layout", "agrees")
        table.add_column(heading, justify="right" if right else "left", no_wrap=name != "agrees")
    for row in made:
        cells = [str(row[name]) for name in SHOWN]
        verdict = row["agrees"] if row["agrees"].startswith("NO") else row["agrees"].split(":")[0]
        cells[-1] = "; ".join(filter(None, [verdict, row["differs"], row["failed"] and f"FAILED: {row['failed']}"]))
        table.add_row(*cells)
    console = Console()
    console = console if console.is_terminal else Console(width=190)
    console.print(table)
    console.print(
        "* of memory, per hidden neuron and step, behind the forward pass: held by anything, saved by autograd"
    )
