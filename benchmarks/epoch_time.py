"""Seconds of an epoch of training with all that belongs to it: data, steps, metrics, validation, checkpoints.

    python benchmarks/epoch_time.py "eager: --model.compile=off" "graphs: --model.compile=reduce-overhead"

Every setting is a name and flags of `spikesparse train`. They train the configuration on noise in CIFAR-10's shape, in
turns. An epoch's time is the median of all but each training's first, which compiles kernels. No pictures are drawn.
"""

from __future__ import annotations

import argparse
import shlex
import statistics
import subprocess
import sys
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from ratios import interquartile
from tables import about_machine, append_rows
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


def write_noise(path: Path, images: int, side: int) -> None:
    """An npz of so many training images, a tenth of which is for validation, and a few to test on."""
    draw = np.random.default_rng(0)
    arrays = {}
    for split, number in (("train", images), ("test", 100)):
        arrays[f"x_{split}"] = draw.integers(0, 256, (number, side, side, 3), np.uint8)
        arrays[f"y_{split}"] = np.arange(number) % 10
    np.savez(path, **arrays)


def train(folder: Path, data: Path, config: str, epochs: int, flags: list[str]) -> tuple[list[float], dict[str, Any]]:
    """Seconds of each epoch, and the settings that the training had."""
    words = [
        *("train", "--config", config, "--data.source=npz", f"--data.data_dir={data}"),
        *(f"--trainer.max_epochs={epochs}", f"--trainer.logger.save_dir={folder}", "--dashboard.every_n_epochs=0"),
        *("--model.scheduler.warmup_epochs=0", "--sparsity.start_epoch=0", "--sparsity.end_epoch=1"),
        *("--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", *flags),
    ]
    ended = subprocess.run([sys.executable, "-m", "spikesparse", *words], capture_output=True, text=True, check=False)
    if ended.returncode:
        raise SystemExit(
            f"epoch_time: {shlex.join(words)} ended with status {ended.returncode}:\n{ended.stderr[-2000:]}"
        )
    (config_file,) = folder.glob("*/seed*/config.yaml")
    settings: dict[str, Any] = yaml.safe_load(config_file.read_text())
    return [end - start for start, end in pairwise(epoch_ends(config_file.parent))], settings


def epoch_ends(folder: Path) -> list[float]:
    """When a training began and each of its validations ended, in seconds."""
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    (start,) = events.Scalars("schedule/global_batch_size")
    return [start.wall_time, *(event.wall_time for event in events.Scalars("accuracy/val"))]


def main() -> None:
    """Train, print and append."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="+", metavar="NAME: FLAGS")
    parser.add_argument("--config", default="configs/experiment/cifar10_vgg9.yaml")
    parser.add_argument("--images", type=int, default=50_000, help="a tenth of them is for validation")
    parser.add_argument("--side", type=int, default=32, help="pixels")
    parser.add_argument("--epochs", type=int, default=5, help="of each training, the first of them not counted")
    parser.add_argument("--rounds", type=int, default=1, help="trainings of each setting")
    parser.add_argument("--csv", type=Path, help="append the rows here")
    asked = parser.parse_args()
    if asked.epochs < 2:
        parser.error("--epochs: the first one is not counted, so at least 2 are needed")
    named = {name.strip(): shlex.split(flags) for name, _, flags in (each.partition(":") for each in asked.settings)}
    first: dict[str, list[float]] = {name: [] for name in named}
    later: dict[str, list[float]] = {name: [] for name in named}
    used: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "noise.npz"
        write_noise(data, asked.images, asked.side)
        for turn in range(asked.rounds):
            for name, flags in named.items():
                seconds, used[name] = train(Path(folder) / f"{turn}-{name}", data, asked.config, asked.epochs, flags)
                first[name].append(seconds[0])
                later[name] += seconds[1:]
                print(
                    f"{name}: first epoch {seconds[0]:.2f} s, then {', '.join(f'{s:.2f}' for s in seconds[1:])}",
                    flush=True,
                )
    rows = [
        {
            "setting": name,
            "flags": shlex.join(named[name]),
            "config": Path(asked.config).stem,
            "batch": used[name]["data"]["batch_size"],
            "timesteps": used[name]["data"]["timesteps"],
            "precision": used[name]["trainer"]["precision"],
            "train_images": round(0.9 * asked.images),
            "epochs": len(later[name]),
            "first_epoch_s": round(statistics.median(first[name]), 2),
            "epoch_s": round(statistics.median(later[name]), 3),
            "iqr_s": round(interquartile(later[name]), 3),
            "images_per_s": round(0.9 * asked.images / statistics.median(later[name]), 1),
            **about_machine(),
            "command": shlex.join(sys.argv),
        }
        for name in named
    ]
    for row in rows:
        print(f"{row['setting']:20} {row['epoch_s']:8.2f} s an epoch, {row['images_per_s']:,.0f} images a second")
    if asked.csv:
        append_rows(rows, asked.csv)


if __name__ == "__main__":
    main()
