"""``spikesparse exits RUN``: what each confidence of early exit would spend and get right, to choose one by."""

from __future__ import annotations

import argparse
import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from pytorch_lightning import LightningModule, Trainer
from rich.table import Table
from torch import nn

from spikesparse.data.loading import Batch
from spikesparse.early_exit import EarlyExit, stopped_after
from spikesparse.imports import split_allowed
from spikesparse.load import load_run
from spikesparse.metrics import EnergyConstants, SpikeCounts
from spikesparse.nn import SpikingNetwork
from spikesparse.report.runs import mapping
from spikesparse.settings_errors import SettingsErrors
from spikesparse.summary import console
from spikesparse.whole_files import replace_file
from spikesparse.yaml_files import read_yaml

CONFIDENCES = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98, 0.99)
CSV, PNG = "exits_val.csv", "exits_val.png"


@dataclass(frozen=True)
class Exits:
    """What came of a confidence.

    Attributes:
        confidence: None ran all steps.
        accuracy: share of the images that it answers right.
        timesteps: steps per image.
        spikes: per image.
        synops: per image.
        energy_uj: per image.
    """

    confidence: float | None
    accuracy: float
    timesteps: float
    spikes: float
    synops: float
    energy_uj: float


def main(args: list[str]) -> None:
    """Command line of ``spikesparse exits``.

    Raises:
        UserError: if there is no such run, or its network cannot be stopped early.
    """
    parser = argparse.ArgumentParser(
        prog="spikesparse exits",
        description="Accuracy, steps, spikes, SynOps and energy of a trained run on its validation split, for several "
        "confidences of early exit, in the precision of its training. A table, and a CSV and a figure in the run "
        "folder.",
    )
    parser.add_argument("run", metavar="RUN", type=Path, help="runs/<experiment>/seed<k>")
    parser.add_argument("--confidence", type=float, nargs="+", default=CONFIDENCES, help="(default: %(default)s)")
    rest, allowed = split_allowed(args)
    asked = parser.parse_args(rest)
    exits = [EarlyExit(confidence) for confidence in (*sorted(asked.confidence), None)]
    module, data = load_run(asked.run, allow_import=allowed)
    curve = ExitCurve(module.net, exits, data.timesteps, module.energy)
    with SettingsErrors():
        trainer = Trainer(
            devices=1,
            precision=_precision_of(asked.run),
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
        )
    trainer.validate(curve, data, verbose=False)
    rows = curve.rows()
    text = io.StringIO()
    writer = csv.DictWriter(text, list(vars(rows[0])), lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: "" if value is None else value for name, value in vars(row).items()} for row in rows)
    replace_file(asked.run / CSV, text.getvalue())
    draw(rows, asked.run / PNG)
    console().print(_table(rows, data.timesteps))
    print(f"{asked.run}/{CSV} and {PNG}; take one by --model.early_exit.confidence, in test, train or predict")


class ExitCurve(LightningModule):
    """Runs the validation split once for each number of steps, and sees where each of several exits would have stopped.

    Args:
        net: trained.
        exits: whose confidences to try.
        timesteps: T.
        energy: what an operation costs.
    """

    def __init__(self, net: SpikingNetwork, exits: list[EarlyExit], timesteps: int, energy: EnergyConstants) -> None:
        super().__init__()
        self.net, self.exits, self.timesteps, self.energy = net, exits, timesteps, energy
        self.counts = nn.ModuleList(SpikeCounts() for _ in exits)
        self.right, self.images = [0] * len(exits), 0

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Count a batch.

        Raises:
            UserError: if the network cannot be stopped early.
        """
        x = batch.images.to(next(self.net.parameters()).dtype)
        after = [stopped_after(self.net, x, t) for t in range(1, self.timesteps + 1)]
        step_logits = torch.stack([output.logits for output in after])
        for each, (exit, counts) in enumerate(zip(self.exits, self.counts, strict=True)):
            assert isinstance(counts, SpikeCounts)
            steps = exit.steps(step_logits) if exit.confidence else torch.full_like(batch.labels, self.timesteps)
            for t in steps.unique().tolist():
                of, output = steps == t, after[t - 1]
                counts.update(output.tally.of(of))
                self.right[each] += int((output.logits.argmax(1) == batch.labels)[of].sum())
        self.images += len(batch.labels)

    def rows(self) -> list[Exits]:
        """What came of each of the exits."""
        rows = []
        for exit, counts, right in zip(self.exits, self.counts, self.right, strict=True):
            assert isinstance(counts, SpikeCounts)
            bill = counts.bill()
            total = bill.rows(self.energy)["total"]
            spent = [float(total[f"{quantity}_per_image"]) for quantity in ("spikes", "synops", "energy_uj")]
            rows.append(Exits(exit.confidence, right / max(1, self.images), bill.timesteps, *spent))
        return rows


def _precision_of(folder: Path) -> Any:
    path = folder / "config.yaml"
    config = mapping(read_yaml(path, f"exits {path}")) if path.is_file() else {}
    return mapping(config.get("trainer")).get("precision") or "32-true"


def _table(rows: list[Exits], timesteps: int) -> Table:
    table = Table(title="early exit on the validation split, per image", title_justify="left")
    for heading in ("confidence", "accuracy", "steps", "spikes", "SynOps", "energy uJ", "spikes against all steps"):
        table.add_column(heading, justify="right")
    whole = rows[-1]
    for row in rows:
        change = f"{row.spikes / whole.spikes - 1:+.1%}" if whole.spikes else "-"
        name = f"all {timesteps} steps" if row.confidence is None else f"{row.confidence:g}"
        cells = (f"{row.accuracy:.2%}", f"{row.timesteps:.2f}", f"{row.spikes:,.0f}", f"{row.synops:,.0f}")
        table.add_row(name, *cells, f"{row.energy_uj:.3g}", "" if row is whole else change)
    return table


def draw(rows: list[Exits], path: Path) -> None:
    """Accuracy against spikes, a point for each confidence, as a PNG.

    Args:
        rows: of :class:`ExitCurve`, that of all steps last.
        path: where to.
    """
    figure = Figure(figsize=(6.4, 4.2), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    *early, whole = rows
    axes.plot([row.spikes for row in rows], [100 * row.accuracy for row in rows], color="#1f6feb", lw=1.2, zorder=1)
    axes.scatter([row.spikes for row in early], [100 * row.accuracy for row in early], color="#1f6feb", s=22)
    axes.scatter([whole.spikes], [100 * whole.accuracy], color="#d1495b", s=34, label="all steps", zorder=3)
    for row in early:
        place = (row.spikes, 100 * row.accuracy)
        axes.annotate(f"{row.confidence:g}", place, (4, -9), textcoords="offset points", fontsize=8, color="#3a3f47")
    axes.set_xlabel("spikes per image")
    axes.set_ylabel("validation accuracy [%]")
    axes.set_title("early exit at each confidence", loc="left", fontsize=11)
    axes.grid(color="#e7e9ec")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right")
    png = io.BytesIO()
    figure.savefig(png, format="png")
    replace_file(path, png.getvalue())
