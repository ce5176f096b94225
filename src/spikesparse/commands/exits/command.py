"""``spikesparse exits RUN``: a trained run's early exits, to choose one by."""

from __future__ import annotations

import argparse
import csv
import io
from pathlib import Path

from pytorch_lightning import Trainer
from rich.table import Table

from spikesparse.commands.exits.curve import ExitCurve, Exits
from spikesparse.commands.exits.figure import draw
from spikesparse.commands.tables import console
from spikesparse.data import CIFAR10DataModule
from spikesparse.errors import UserError
from spikesparse.files.closing import Closing
from spikesparse.files.run_folder import chosen_checkpoint, trained_precision
from spikesparse.files.whole_files import replace_file
from spikesparse.nn.early_exit import MEASURES, EarlyExit
from spikesparse.runs.load import load_run
from spikesparse.settings.build_errors import SettingsErrors
from spikesparse.settings.class_paths import split_allowed
from spikesparse.sparsity.asked import check_fraction, told_by
from spikesparse.sparsity.controllers import COUNTED
from spikesparse.training.memory import check_memory
from spikesparse.training.nonfinite_guard import NonFiniteGuard

CONFIDENCES = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98, 0.99)
CSV, PNG = "exits_val.csv", "exits_val.png"


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
    parser.add_argument(
        "--measure",
        choices=MEASURES,
        default="probability",
        help="what confidence is: the probability of the likeliest class, or its margin over the second's "
        "(default: %(default)s)",
    )
    parser.add_argument("--by", choices=COUNTED, default="spikes", help="what is to be saved (default: %(default)s)")
    parser.add_argument(
        "--target",
        type=float,
        nargs="+",
        help="seek confidences that spend at most so many spikes (or SynOps) per image (default: what --confidence do)",
    )
    parser.add_argument(
        "--reduction",
        type=float,
        nargs="+",
        help="the same, as what is to be cut of what --baseline spends, a fraction: 0.7 leaves 30 %%",
    )
    parser.add_argument("--baseline", metavar="CHECKPOINT", help="of the network to be compared with, such as its twin")
    rest, allowed = split_allowed(args)
    asked = parser.parse_args(rest)
    _check_reductions(asked.reduction or [], asked.baseline)
    if not chosen_checkpoint(asked.run).is_file():
        raise UserError(
            f"exits {asked.run}: no run folder with a checkpoint; RUN is a trained run, such as runs/digits/seed0."
        )
    exits = [EarlyExit(confidence, asked.measure) for confidence in (*sorted(asked.confidence), None)]
    module, data = load_run(asked.run, allow_import=allowed)
    asked.target = (asked.target or []) + _reduced(asked.reduction or [], asked.baseline, asked.by, data)
    curve = ExitCurve(module.net, data.timesteps, module.energy)
    with SettingsErrors():
        trainer = Trainer(
            devices=1,
            precision=trained_precision(asked.run) or "32-true",  # type: ignore[arg-type]
            logger=False,
            callbacks=[NonFiniteGuard()],
            enable_checkpointing=False,
            enable_model_summary=False,
        )
    check_memory("validate", module.net, data, trainer)
    trainer.validate(curve, data, verbose=False)
    rows = [curve.row(exit) for exit in exits]
    targets = asked.target or [getattr(row, asked.by) for row in rows[:-1]]
    sought = [curve.row(exit) for exit in curve.sought(sorted(targets), asked.by, asked.measure)]
    closing = Closing()
    with closing.part(asked.run / CSV, result=True):
        write(rows + sought, asked.run / CSV)
    with closing.part(asked.run / PNG):
        draw(rows, sought, asked.run / PNG)
    console().print(_table(rows, sought, data.timesteps))
    print(f"files         {asked.run}/{CSV} and {PNG}")
    flags = f"--model.early_exit.confidence={sought[-1].flag} --model.early_exit.measure={asked.measure}"
    print(f"test it       spikesparse test --ckpt_path={chosen_checkpoint(asked.run)} {flags}")
    closing.end()


def _check_reductions(reductions: list[float], baseline: str | None) -> None:
    if bool(reductions) != bool(baseline):
        raise UserError("exits: --reduction and --baseline, a checkpoint, go together; --target needs neither.")
    for reduction in reductions:
        check_fraction("--reduction", reduction)


def _reduced(reductions: list[float], baseline: str | None, by: str, data: CIFAR10DataModule) -> list[float]:
    """What reductions of a baseline's own count leave, per image of the validation split."""
    if not baseline:
        return []
    whole = told_by(baseline, f"{COUNTED[by][0]}/val", data, "--baseline")
    return [(1.0 - reduction) * whole for reduction in reductions]


def write(rows: list[Exits], path: Path) -> None:
    """Write rows as CSV; several confidences stand in one cell, as they do in the flag."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(vars(rows[0])), lineterminator="\n")
    writer.writeheader()
    writer.writerows({**vars(row), "confidence": "" if row.confidence is None else row.flag} for row in rows)
    replace_file(path, text.getvalue())


def _table(rows: list[Exits], sought: list[Exits], timesteps: int) -> Table:
    table = Table(title="early exit on the validation split, per image", title_justify="left")
    for heading in (rows[0].measure, "accuracy", "steps", "spikes", "SynOps", "energy uJ", "spikes against all steps"):
        table.add_column(heading, justify="right", overflow="fold")  # of many steps, the confidences need several lines
    *single, whole = rows
    for part in (single, sought, [whole]):
        table.add_section()
        for row in part:
            change = f"{row.spikes / whole.spikes - 1:+.1%}" if whole.spikes else "-"
            name = f"all {timesteps} steps" if row is whole else row.flag
            cells = (f"{row.accuracy:.2%}", f"{row.timesteps:.2f}", f"{row.spikes:,.0f}", f"{row.synops:,.0f}")
            table.add_row(name, *cells, f"{row.energy_uj:.3g}", "" if row is whole else change)
    return table
