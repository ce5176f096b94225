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
from torch import Tensor

from spikesparse.data.loading import Batch
from spikesparse.early_exit import EarlyExit, confidence_of, stopped_after
from spikesparse.errors import UserError
from spikesparse.exit_search import ExitSearch
from spikesparse.imports import split_allowed
from spikesparse.load import load_run
from spikesparse.metrics import EnergyConstants, SpikeCounts
from spikesparse.nn import SpikeTally, SpikingNetwork
from spikesparse.report.runs import mapping
from spikesparse.settings_errors import SettingsErrors
from spikesparse.summary import console
from spikesparse.whole_files import replace_file
from spikesparse.yaml_files import read_yaml

CONFIDENCES = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98, 0.99)
CSV, PNG = "exits_val.csv", "exits_val.png"
SPENT = ("spikes", "synops")


@dataclass(frozen=True)
class Exits:
    """What came of a confidence.

    Attributes:
        confidence: one for all steps, or one for each but the last; None ran all steps.
        accuracy: share of the images that it answers right.
        timesteps: steps per image.
        spikes: per image.
        synops: per image.
        energy_uj: per image.
    """

    confidence: float | list[float] | None
    accuracy: float
    timesteps: float
    spikes: float
    synops: float
    energy_uj: float


def main(args: list[str]) -> None:
    """Command line of ``spikesparse exits``.

    Raises:
        UserError: if there is no such run, its network cannot be stopped early, or even its first step spends more than
            was asked for.
    """
    parser = argparse.ArgumentParser(
        prog="spikesparse exits",
        description="Accuracy, steps, spikes, SynOps and energy of a trained run on its validation split, for several "
        "confidences of early exit, in the precision of its training: for one confidence, and for one after each step, "
        "sought so that the most is right at the same expense. A table, and a CSV and a figure in the run folder.",
    )
    parser.add_argument("run", metavar="RUN", type=Path, help="runs/<experiment>/seed<k>")
    parser.add_argument("--confidence", type=float, nargs="+", default=CONFIDENCES, help="(default: %(default)s)")
    parser.add_argument("--by", choices=SPENT, default="spikes", help="what is to be saved (default: %(default)s)")
    parser.add_argument(
        "--target",
        type=float,
        nargs="+",
        help="seek confidences that spend at most so many spikes (or SynOps) per image (default: what --confidence do)",
    )
    rest, allowed = split_allowed(args)
    asked = parser.parse_args(rest)
    exits = [EarlyExit(confidence) for confidence in (*sorted(asked.confidence), None)]
    module, data = load_run(asked.run, allow_import=allowed)
    curve = ExitCurve(module.net, data.timesteps, module.energy)
    with SettingsErrors():
        trainer = Trainer(
            devices=1,
            precision=_precision_of(asked.run),
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
        )
    trainer.validate(curve, data, verbose=False)
    rows = [curve.row(exit) for exit in exits]
    targets = asked.target or [getattr(row, asked.by) for row in rows[:-1]]
    sought = [curve.row(exit) for exit in curve.sought(sorted(targets), asked.by)]
    write(rows + sought, asked.run / CSV)
    draw(rows, sought, asked.run / PNG)
    console().print(_table(rows, sought, data.timesteps))
    print(f"files         {asked.run}/{CSV} and {PNG}")
    best = "best" if (asked.run / "checkpoints/best.ckpt").is_file() else "last"
    flag = f"--model.early_exit.confidence={_flag(sought[-1])}"
    print(f"test it       spikesparse test --ckpt_path={asked.run}/checkpoints/{best}.ckpt {flag}")


class ExitCurve(LightningModule):
    """Runs the validation split once for each number of steps, and sees where any early exit would have stopped.

    Args:
        net: trained.
        timesteps: T.
        energy: what an operation costs.
    """

    def __init__(self, net: SpikingNetwork, timesteps: int, energy: EnergyConstants) -> None:
        super().__init__()
        self.net, self.timesteps, self.energy = net, timesteps, energy
        self._seen: list[tuple[Tensor, Tensor, list[SpikeTally]]] = []  # step logits, labels, tallies after each step

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Keep what a batch gives after each step, and what it costs.

        Raises:
            UserError: if the network cannot be stopped early.
        """
        x = batch.images.to(next(self.net.parameters()).dtype)
        after = [stopped_after(self.net, x, t) for t in range(1, self.timesteps + 1)]
        self._seen.append((torch.stack([each.logits for each in after]), batch.labels, [each.tally for each in after]))

    def row(self, exit: EarlyExit) -> Exits:
        """What comes of an early exit."""
        counts, right, images = SpikeCounts(), 0, 0
        counts.to(self.device)
        for step_logits, labels, tallies in self._seen:
            steps = exit.steps(step_logits)
            for t in steps.unique().tolist():
                of = steps == t
                counts.update(tallies[t - 1].of(of))
                right += int((step_logits[t - 1].argmax(1) == labels)[of].sum())
            images += len(labels)
        bill = counts.bill()
        total = bill.rows(self.energy)["total"]
        spent = [float(total[f"{quantity}_per_image"]) for quantity in ("spikes", "synops", "energy_uj")]
        return Exits(exit.confidence, right / max(1, images), bill.timesteps, *spent)

    def sought(self, targets: list[float], by: str) -> list[EarlyExit]:
        """For each target the exit, a confidence after each step, that gets the most right without spending more.

        Args:
            targets: spikes or synaptic operations per image.
            by: "spikes" or "synops".

        Raises:
            UserError: for a target that one step's work exceeds.
        """
        step_logits = torch.cat([step_logits for step_logits, _, _ in self._seen], 1)
        labels = torch.cat([labels for _, labels, _ in self._seen])
        spent = torch.cat([torch.stack([getattr(t, by).sum(0) for t in tallies]) for _, _, tallies in self._seen], 1)
        right = step_logits.argmax(2) == labels
        search = ExitSearch(confidence_of(step_logits)[:-1].cpu(), right.cpu(), spent.cpu())
        found = []
        for target in targets:
            choice = search.within(target)
            if choice is None:
                raise UserError(f"--target {target:g}: one step spends {spent[0].mean():,.0f} {by} per image already.")
            found.append(EarlyExit(choice.confidence))
        return found


def write(rows: list[Exits], path: Path) -> None:
    """Write rows as CSV; several confidences stand in one cell, as they do in the flag."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(vars(rows[0])), lineterminator="\n")
    writer.writeheader()
    writer.writerows({**vars(row), "confidence": "" if row.confidence is None else _flag(row)} for row in rows)
    replace_file(path, text.getvalue())


def _precision_of(folder: Path) -> Any:
    path = folder / "config.yaml"
    config = mapping(read_yaml(path, f"exits {path}")) if path.is_file() else {}
    return mapping(config.get("trainer")).get("precision") or "32-true"


def _flag(row: Exits) -> str:
    confidence = row.confidence
    if isinstance(confidence, list):
        return "[" + ",".join(f"{each:g}" for each in confidence) + "]"
    return "null" if confidence is None else f"{confidence:g}"


def _table(rows: list[Exits], sought: list[Exits], timesteps: int) -> Table:
    table = Table(title="early exit on the validation split, per image", title_justify="left")
    for heading in ("confidence", "accuracy", "steps", "spikes", "SynOps", "energy uJ", "spikes against all steps"):
        table.add_column(heading, justify="right")
    *single, whole = rows
    for part in (single, sought, [whole]):
        table.add_section()
        for row in part:
            change = f"{row.spikes / whole.spikes - 1:+.1%}" if whole.spikes else "-"
            name = f"all {timesteps} steps" if row is whole else _flag(row)
            cells = (f"{row.accuracy:.2%}", f"{row.timesteps:.2f}", f"{row.spikes:,.0f}", f"{row.synops:,.0f}")
            table.add_row(name, *cells, f"{row.energy_uj:.3g}", "" if row is whole else change)
    return table


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
    for points, color, label in curves:
        curve = sorted([*points, whole], key=lambda row: row.spikes)
        axes.plot(*_places(curve), color=color, lw=1.2, zorder=1)
        axes.scatter(*_places(points), color=color, s=22, label=label)
    axes.scatter(*_places([whole]), color="#d1495b", s=34, label="all steps", zorder=3)
    for row in early:
        place = (row.spikes, 100 * row.accuracy)
        axes.annotate(_flag(row), place, (4, -9), textcoords="offset points", fontsize=8, color="#3a3f47")
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


def _places(rows: list[Exits]) -> tuple[list[float], list[float]]:
    return [row.spikes for row in rows], [100 * row.accuracy for row in rows]
