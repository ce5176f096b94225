"""Turn run folders into rows of a results table.

    python benchmarks/results_csv.py runs/cifar10_vgg7_cpu-*/seed0 > results/cifar10_vgg7_cpu.csv

Every column comes from the run folder itself: result.json (written by `spikesparse train` and `spikesparse test`),
config.yaml and the time stamps of its TensorBoard events.
"""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

COLUMNS = [
    *("run", "seed", "architecture", "timesteps", "encoder", "lambda_end", "epochs", "accuracy_val", "accuracy_test"),
    *("spikes_per_image", "spike_rate", "synops_per_image", "energy_uj_per_image", "fit_minutes", "hardware"),
    *("threads", "torch", "lightning", "commit", "command"),
]


def row(folder: Path) -> dict[str, object]:
    """One run's row."""
    result = json.loads((folder / "result.json").read_text())
    config = yaml.safe_load((folder / "config.yaml").read_text())
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    validation = events.Scalars("accuracy/val")
    start = min(e.wall_time for e in events.Scalars("schedule/global_batch_size"))
    window = config["sparsity"]["end_epoch"] or config["trainer"]["max_epochs"] // 2
    return {
        "run": folder.parent.name,
        "seed": config["seed_everything"],
        "architecture": config["model"]["net"]["init_args"]["architecture"],
        "timesteps": config["data"]["timesteps"],
        "encoder": config["data"]["encoder"],
        "lambda_end": config["sparsity"]["end_value"],
        "epochs": config["trainer"]["max_epochs"],
        "accuracy_val": f"{max(e.value for e in validation[window:]):.4f}",
        "accuracy_test": f"{result['accuracy']:.4f}",
        "spikes_per_image": f"{result['spikes']:.1f}",
        "spike_rate": f"{result['rate']:.5f}",
        "synops_per_image": f"{result['synops']:.0f}",
        "energy_uj_per_image": f"{result['energy_uj']:.4f}",
        "fit_minutes": f"{(validation[-1].wall_time - start) / 60:.1f}",
        "hardware": result["hardware"],
        "threads": result["threads"],
        "torch": result["torch"],
        "lightning": result["pytorch-lightning"],
        "commit": result["commit"],
        "command": "spikesparse " + " ".join(result["command"]),
    }


def main() -> None:
    """Write the rows of the folders named on the command line."""
    writer = csv.DictWriter(sys.stdout, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for folder in sys.argv[1:]:
        writer.writerow(row(Path(folder)))


if __name__ == "__main__":
    main()
