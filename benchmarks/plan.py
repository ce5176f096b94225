"""The plan behind the result tables: which runs there are to be, and which rows are there already."""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
PLAN = ROOT / "benchmarks/plan.yaml"
sys.path.insert(0, str(ROOT / "src"))
from spikesparse.files.locks import FileLock  # noqa: E402
from spikesparse.files.safe_yaml import read_yaml  # noqa: E402
from spikesparse.files.whole_files import replace_file  # noqa: E402

COLUMNS = [
    *("recipe", "seed", "config", "architecture", "timesteps", "steps_per_image", "encoding", "train_images"),
    *("precision", "lambda_end", "budget", "epochs", "epoch_of_best", "accuracy_val", "accuracy_test"),
    *("spikes_per_image", "spike_rate", "synops_per_image", "first_layer_macs", "energy_uj_per_image", "fit_minutes"),
    *("hardware", "threads", "torch", "lightning", "commit", "command"),
]


@dataclass(frozen=True)
class Run:
    """One row to be: a recipe of a campaign under a seed.

    Attributes:
        campaign: its name; results/<campaign>.csv holds its rows.
        recipe: its name.
        seed: of everything.
        arguments: of ``spikesparse``, without the data's and without checkpoints of other runs filled in.
        exits_of: a recipe whose network it takes, untrained any further, with the early exits that its validation split
            gives; ``arguments`` are that recipe's then.
        target: spikes, or what ``by`` says, per image that these exits may spend.
        by: "spikes" or "synops".
        measure: of the confidence at these exits, "probability" or "margin".
        cuda: made for a CUDA device: on a CPU it would take days.
    """

    campaign: str
    recipe: str
    seed: int
    arguments: tuple[str, ...]
    exits_of: str = ""
    target: float = 0.0
    by: str = "spikes"
    measure: str = "probability"
    cuda: bool = False

    @property
    def name(self) -> str:
        """As the command line of reproduce.py takes it."""
        return f"{self.campaign}/{self.recipe}/{self.seed}"

    @property
    def needs(self) -> list[str]:
        """The recipes whose checkpoints it takes, starts or learns from."""
        if self.exits_of:
            return [self.exits_of]
        return sorted({name for argument in self.arguments for name in re.findall(r"\{(\w+)\}", argument)})


def read_plan(path: Path = PLAN) -> tuple[dict[str, dict[str, Any]], list[Run]]:
    """Campaigns by name, and all runs in the order in which they are to be made: seed by seed, recipe by recipe.

    A campaign's ``recipes`` are run under each of its seeds, those of ``once`` under the first alone.

    Raises:
        ValueError: for a recipe that needs a recipe which is not there or comes after it.
    """
    campaigns: dict[str, dict[str, Any]] = read_yaml(path, str(path))
    runs = []
    for campaign, about in campaigns.items():
        cuda = about.get("cuda", False)
        for seed in about["seeds"]:
            known: dict[str, Run] = {}
            once = about.get("once", {}) if seed == about["seeds"][0] else {}
            for recipe, flags in (about["recipes"] | once).items():
                if isinstance(flags, dict):
                    words = known[flags["exits_of"]].arguments if flags["exits_of"] in known else ()
                    run = Run(campaign, recipe, seed, words, **flags, cuda=cuda)
                else:
                    config, flags = about["config"], _flat(flags)
                    if flags and not flags[0].startswith("-"):  # a recipe with a configuration of its own
                        config, flags = flags[0], flags[1:]
                    words = ("train", "--config", config, *about.get("flags", []), *flags, f"--seed_everything={seed}")
                    run = Run(campaign, recipe, seed, words, cuda=cuda)
                if missing := set(run.needs) - set(known):
                    raise ValueError(
                        f"{path}: {run.name} needs {', '.join(sorted(missing))}, which must stand above it"
                    )
                known[recipe] = run
                runs.append(run)
    return campaigns, runs


def _flat(flags: Any) -> list[str]:
    """A recipe's flags: those that several share are a list within it, to any depth, by YAML anchors."""
    return [flags] if isinstance(flags, str) else [flag for part in flags for flag in _flat(part)]


def rows_of(campaign: str, results: Path) -> list[dict[str, str]]:
    """The rows that a campaign has so far."""
    path = results / f"{campaign}.csv"
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def missing(runs: list[Run], results: Path) -> list[Run]:
    """The runs that have no row yet."""
    there = {c: {(r["recipe"], int(r["seed"])) for r in rows_of(c, results)} for c in {run.campaign for run in runs}}
    return [run for run in runs if (run.recipe, run.seed) not in there[run.campaign]]


def row_of(run: Run, folder: Path, command: list[str], minutes: float) -> dict[str, Any]:
    """A finished run's row: every value comes from its run folder, but the minutes."""
    import torch

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
        "config": Path(run.arguments[2]).stem,
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
        "accuracy_val": f"{best['measured']['accuracy/val']:.4f}",
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
        "commit": result["commit"],
        "command": "spikesparse " + " ".join(command),
    }


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
        np.savez_compressed(file, **packed, **sizes)
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
