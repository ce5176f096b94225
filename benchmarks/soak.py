"""A long run in one process: does anything grow that should not?

    make soak

Trains a tiny network on the digits through the command line, dashboards and checkpoints on, for thousands of short
epochs, and draws its pictures ten times as often as a run of that length would, since they ask for most memory. After
each epoch it notes the process's memory, open files and threads, and the size of the run folder and of
TensorBoard's files in it. Warm-up is the first fifth: the heap keeps the room of what was freed, and needs some 1,000
epochs until it finds a place for everything. After that, memory may grow by less than 1 %, by the fitted line as well
as from its first tenth to its last, files and threads not at all, and TensorBoard's files by no more than
TENSORBOARD_KB_PER_EPOCH.
"""

from __future__ import annotations

import argparse
import csv
import io
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from pytorch_lightning import Callback, LightningModule, Trainer

from spikesparse.commands.main import main as spikesparse
from spikesparse.files.paths import CONFIGS
from spikesparse.files.whole_files import replace_file
from spikesparse.runs.result import machine

SEED = 0
WARM_UP = 0.2
MEMORY_GROWTH = 0.01
DRAWINGS = 100
TENSORBOARD_KB_PER_EPOCH = 8.0  # 3 of scalars, and 64 of pictures and histograms now and then
ROWS = 100


class Sample(NamedTuple):
    """What the process held after an epoch; kB are 1024 bytes.

    Memory is what is the process's own, in RAM or swapped out. Beside it RSS, which has the pages of the libraries'
    files too: the system drops these and reads them again as it likes.
    """

    epoch: int
    seconds: float
    memory_kb: int
    rss_kb: int
    open_files: int
    own_threads: int
    run_folder_kb: int
    tensorboard_kb: int


class Sampler(Callback):
    """Takes a sample between epochs, when the checkpoints of the one before are written."""

    samples: ClassVar[list[Sample]] = []  # of the class: the command line makes the object

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self.started = time.monotonic()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at the epoch before."""
        if trainer.current_epoch:
            self._look(trainer, trainer.current_epoch)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at the last."""
        self._look(trainer, trainer.current_epoch)

    def _look(self, trainer: Trainer, epoch: int) -> None:
        sizes = {path: path.stat().st_size for path in Path(str(trainer.log_dir)).rglob("*") if path.is_file()}
        tensorboard = sum(size for path, size in sizes.items() if path.name.startswith("events."))
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        self.samples.append(
            Sample(
                **{"epoch": epoch, "seconds": round(time.monotonic() - self.started, 1)},
                **{"memory_kb": sum(int(status[name].split()[0]) for name in ("RssAnon", "VmSwap"))},
                **{"rss_kb": int(status["VmRSS"].split()[0])},
                **{"open_files": len(os.listdir("/proc/self/fd")), "own_threads": len(os.listdir("/proc/self/task"))},
                **{"run_folder_kb": sum(sizes.values()) // 1024, "tensorboard_kb": tensorboard // 1024},
            )
        )


def growth(values: Sequence[float]) -> tuple[float, float]:
    """By what share of their start values grow: by the fitted line, and from their first tenth to the last (medians).

    >>> growth([100, 100, 100, 100]), growth([100, 101, 102, 103, 104, 105, 106, 107, 108, 109, 110])
    ((0.0, 0.0), (0.1, 0.1))
    """
    line = statistics.linear_regression(range(len(values)), values)
    tenth = max(1, len(values) // 10)
    first, last = statistics.median(values[:tenth]), statistics.median(values[-tenth:])
    return line.slope * (len(values) - 1) / line.intercept, last / first - 1


def verdict(samples: Sequence[Sample]) -> tuple[list[str], list[str]]:
    """What was found after warm-up, a line for each thing looked at; and those of them that are wrong."""
    settled = samples[int(WARM_UP * len(samples)) :]
    fitted, moved = growth([sample.memory_kb for sample in settled])
    epochs = settled[-1].epoch - settled[0].epoch
    per_epoch = (settled[-1].tensorboard_kb - settled[0].tensorboard_kb) / epochs
    found = [
        (
            f"memory: {fitted:+.2%} by the fitted line, {moved:+.2%} from the first tenth to the last, of "
            f"{settled[0].memory_kb / 1024:.0f} MB",
            max(fitted, moved) < MEMORY_GROWTH,
        ),
        (f"TensorBoard: {per_epoch:.2f} kB an epoch", per_epoch <= TENSORBOARD_KB_PER_EPOCH),
    ]
    for name in ("open_files", "own_threads"):
        values = [getattr(sample, name) for sample in settled]
        found.append((f"{name}: {values[0]} at first, {values[-1]} at last", values[-1] <= values[0]))
    said = f"epochs {settled[0].epoch} to {settled[-1].epoch}, after a warm-up"
    return [said, *(line for line, _ in found)], [line for line, good in found if not good]


def soak(epochs: int) -> list[Sample]:
    """Train for so many epochs in the current folder."""
    Sampler.samples = []
    status = spikesparse(
        [
            *("fit", "--config", str(CONFIGS / "experiment" / "digits.yaml"), f"--trainer.max_epochs={epochs}"),
            *("--trainer.limit_train_batches=2", "--trainer.limit_val_batches=1", "--trainer.accelerator=cpu"),
            *("--model.net.architecture=4-P-8-P", f"--seed_everything={SEED}"),
            *("--trainer.enable_progress_bar=false", f"--trainer.callbacks+={__name__}.Sampler"),
            f"--allow-import={__name__}",
            f"--dashboard.every_n_epochs={max(1, epochs // DRAWINGS)}",
        ]
    )
    if status:
        sys.exit(status)
    return Sampler.samples


def write(samples: Sequence[Sample], path: Path, command: str) -> None:
    """About ROWS of the samples, evenly chosen, the last among them."""
    step = max(1, len(samples) // ROWS)
    about: dict[str, Any] = {**machine(), "seed": SEED, "command": command}
    text = io.StringIO()
    writer = csv.DictWriter(text, [*Sample._fields, *about], lineterminator="\n")
    writer.writeheader()
    writer.writerows({**sample._asdict(), **about} for sample in samples[::-step][::-1])
    replace_file(path, text.getvalue())


def main() -> int:
    """Train, write, and say what grew; 1 if something did that should not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=6000)
    parser.add_argument("--csv", type=Path, help="write about a hundred of the samples here")
    args = parser.parse_args()
    about = " ".join(["benchmarks/soak.py", *sys.argv[1:]])
    commit = machine()["commit"]  # of the code that runs, whatever is committed meanwhile
    place = args.csv.resolve() if args.csv else None
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        samples = soak(args.epochs)
        os.chdir(Path(__file__).parent)
    if place:
        write(samples, place, about)
    lines, wrong = verdict(samples)
    print("\n".join(lines))
    print("something grows: " + "; ".join(wrong) if wrong else f"nothing grows ({commit})")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
