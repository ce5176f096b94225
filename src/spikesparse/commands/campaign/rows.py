"""The rows of a campaign: results/<campaign>.csv, and beside it which test images each run classified right."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from spikesparse.commands.campaign.plan import Run
from spikesparse.errors import UserError
from spikesparse.files.locks import FileLock
from spikesparse.files.safe_yaml import read_yaml
from spikesparse.files.whole_files import replace_file

COLUMNS = [
    "recipe",
    "seed",
    "config",
    "architecture",
    "timesteps",
    "steps_per_image",
    "encoding",
    "train_images",
    "precision",
    "lambda_end",
    "budget",
    "epochs",
    "epoch_of_best",
    "accuracy_val",
    "accuracy_test",
    "spikes_per_image",
    "spike_rate",
    "synops_per_image",
    "first_layer_macs",
    "energy_uj_per_image",
    "fit_minutes",
    "hardware",
    "threads",
    "torch",
    "lightning",
    "commit",
    "command",
]


def rows_of(campaign: str, results: Path) -> list[dict[str, str]]:
    """The rows that a campaign has so far.

    Raises:
        UserError: if the file of its name is another table.
    """
    path = results / f"{campaign}.csv"
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
    if reader.fieldnames != COLUMNS or not all(row["seed"].isdecimal() for row in rows):
        raise UserError(
            f"{path}: a table with other columns than a campaign's: move it away, or name another --results."
        )
    return rows


def missing(runs: Iterable[Run], results: Path) -> list[Run]:
    """The runs that have no row yet."""
    runs = list(runs)
    there = {c: {(r["recipe"], int(r["seed"])) for r in rows_of(c, results)} for c in {run.campaign for run in runs}}
    return [run for run in runs if (run.recipe, run.seed) not in there[run.campaign]]


def row_of(run: Run, folder: Path, command: list[str], minutes: float) -> dict[str, Any]:
    """A finished run's row: every value comes from its run folder, but the minutes.

    The commit is that of the checkout which the code ran from; of an installed package it is the version.
    """
    import torch

    from spikesparse.settings.command_line import CommandLine

    result = json.loads((folder / "result.json").read_text())
    bill = json.loads((folder / "bill.json").read_text())
    config = read_yaml(folder / "config.yaml", f"{folder}/config.yaml")
    best = torch.load(folder / "checkpoints" / Path(result["checkpoint"]).name, map_location="cpu", weights_only=True)
    budget = config.get("budget") or {}
    asked = next((n for n in ("target", "reduction", "max_accuracy_drop") if budget.get(n) is not None), None)
    words = {"target": budget.get("by"), "reduction": f"less {budget.get('by')}", "max_accuracy_drop": "drop"}
    encoder = config["data"]["encoder"]
    return {
        "recipe": run.recipe,
        "seed": run.seed,
        "config": CommandLine(run.arguments).experiment,
        "architecture": config["model"]["net"]["init_args"]["architecture"],
        "timesteps": config["data"]["timesteps"],
        "steps_per_image": f"{result['timesteps']:.4g}",  # fewer under early exit
        "encoding": encoder if isinstance(encoder, str) else encoder["class_path"],
        "train_images": config["data"]["train_images"] or "all",
        "precision": config["trainer"]["precision"] or "32-true",
        "lambda_end": "" if asked else config["sparsity"]["end_value"],
        "budget": f"{budget[asked]:g} {words[asked]}" if asked else "",
        "epochs": config["trainer"]["max_epochs"],
        "epoch_of_best": best["epoch"] + 1,
        "accuracy_val": _accuracy(best),
        "accuracy_test": f"{result['accuracy']:.4f}",
        "spikes_per_image": f"{result['spikes']:.1f}",
        "spike_rate": f"{result['rate']:.5f}",
        "synops_per_image": f"{result['synops']:.0f}",
        "first_layer_macs": f"{bill['rows']['total']['macs_per_image'] or 0:.0f}",
        "energy_uj_per_image": f"{result['energy_uj']:.4f}",
        "fit_minutes": f"{minutes:.1f}",
        "hardware": result["hardware"],
        "threads": result["threads"],
        "torch": result["torch"],
        "lightning": result["pytorch-lightning"],
        "commit": result["commit"] or result.get("spikesparse", ""),
        "command": "spikesparse " + " ".join(command),
    }


def _accuracy(checkpoint: dict[str, Any]) -> str:
    """Of a checkpoint, on the validation split; empty if its epoch was not validated."""
    value = checkpoint.get("measured", {}).get("accuracy/val")
    return "" if value is None else f"{value:.4f}"


def correct_images(predictions: Path) -> np.ndarray:
    """Which test images a run classified right: bool, in the test set's order."""
    with predictions.open(newline="") as file:
        return np.array([row["label"] == row["predicted"] for row in csv.DictReader(file)])


def add_row(campaign: str, row: dict[str, Any], correct: np.ndarray, results: Path) -> None:
    """Add a row, or replace the one of the same recipe and seed; keep which test images were right beside it.

    Several processes may do so at once.
    """
    results.mkdir(parents=True, exist_ok=True)
    with FileLock(results / f".{campaign}.lock"):
        key = (row["recipe"], str(row["seed"]))
        others = [r for r in rows_of(campaign, results) if (r["recipe"], r["seed"]) != key]
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows([*others, row])
        bits = dict(correct_of(campaign, results))
        bits[f"{row['recipe']}/{row['seed']}"] = correct
        packed = {name: np.packbits(values) for name, values in sorted(bits.items())}
        sizes = {f"{name}#": np.array(len(values)) for name, values in bits.items()}
        file = io.BytesIO()
        arrays: dict[str, Any] = packed | sizes
        np.savez_compressed(file, **arrays)
        replace_file(results / f"{campaign}_correct.npz", file.getvalue())
        replace_file(results / f"{campaign}.csv", text.getvalue())  # last: what stands here counts as made


def correct_of(campaign: str, results: Path) -> Iterator[tuple[str, np.ndarray]]:
    """(recipe/seed, which test images were right) of every row of a campaign."""
    path = results / f"{campaign}_correct.npz"
    if not path.is_file():
        return
    with np.load(path) as kept:
        for name in kept.files:
            if not name.endswith("#"):
                yield name, np.unpackbits(kept[name], count=int(kept[f"{name}#"])).astype(bool)
