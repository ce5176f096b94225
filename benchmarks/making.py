"""Making a row of the plan: its command line, its training, and what is read from its run folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import yaml
from plan import ROOT, Run, add_row, correct_images, row_of, rows_of

from spikesparse.report.runs import read_run
from spikesparse.runs import run_name
from spikesparse.search.locks import FileLock

GRACE = 20  # seconds that a run has to close its files when the time is over
LOOK = 0.5  # seconds between two looks at whether it is
# glibc would give large tensors back to the system after each step (see the Makefile)
ALLOCATOR = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": "8589934592",
    "MALLOC_TRIM_THRESHOLD_": "17179869184",
}


def arguments_of(run: Run, data: list[str], more: list[str], campaign: list[Run]) -> list[str]:
    """The command line of a run, with the checkpoints that it needs filled in."""
    config = yaml.safe_load((ROOT / run.arguments[2]).read_text())
    words = [*run.arguments, *(data if config["data"]["source"] == "cifar10" else []), *more]
    for needed in needed_by(run, campaign):
        best = folder_of(arguments_of(needed, data, more, campaign), run.seed) / "checkpoints/best.ckpt"
        words = [word.replace(f"{{{needed.recipe}}}", str(best)) for word in words]
    return words


def needed_by(run: Run, plan: list[Run]) -> list[Run]:
    """The runs whose checkpoints it starts or learns from."""
    wanted = {(run.campaign, recipe, run.seed) for recipe in run.needs}
    return [other for other in plan if (other.campaign, other.recipe, other.seed) in wanted]


def lock_of(run: Run) -> FileLock:
    """Held by the one process that makes a run."""
    folder = Path("runs/.locks")
    folder.mkdir(parents=True, exist_ok=True)
    return FileLock(folder / run.name.replace("/", "-"))


def is_held(lock: FileLock) -> bool:
    """Whether another process has it."""
    if not lock.acquire(wait=False):
        return True
    lock.close()
    return False


def folder_of(words: list[str], seed: int) -> Path:
    """The folder of a run, from the root of the checkout."""
    return Path("runs") / run_name(["fit", *words[1:]]) / f"seed{seed}"


def train(words: list[str], seconds_left: float, fresh: bool, lock: FileLock, stop: threading.Event) -> bool:
    """Train and test, unless that is done, going on where it stopped; whether it came to its end.

    The training holds the run's lock too: it outlives this process if that is killed.

    Args:
        words: the command line.
        seconds_left: what it may take.
        fresh: begin anew.
        lock: of the run, held.
        stop: once it is set, the training is stopped as if the time were over.
    """
    flags = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
    environment = {**ALLOCATOR, **os.environ}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]))
    command = [sys.executable, "-m", "spikesparse", *words, *flags, *(["--fresh"] if fresh else [])]
    deadline = time.monotonic() + max(1.0, seconds_left)
    child = subprocess.Popen(command, env=environment, start_new_session=True, pass_fds=[lock.fileno()])
    while child.poll() is None and time.monotonic() < deadline and not stop.is_set():
        with suppress(subprocess.TimeoutExpired):
            child.wait(LOOK)
    if child.poll() is None:
        os.killpg(child.pid, signal.SIGTERM)
        try:
            child.wait(GRACE)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
        return False
    if child.returncode:
        raise SystemExit(
            f"reproduce: {' '.join(words)} ended with status {child.returncode}; what it said stands above"
        )
    return True


def finish(run: Run, words: list[str], folder: Path, results: Path, keep: bool) -> None:
    """Say how a row came out, beside the one there was, and keep it."""
    row = row_of(run, folder, words, (read_run(folder).seconds or 0.0) / 60)
    before = next(
        (r for r in rows_of(run.campaign, results) if (r["recipe"], int(r["seed"])) == (run.recipe, run.seed)), None
    )
    for column in ("accuracy_val", "accuracy_test", "spikes_per_image", "synops_per_image"):
        kept = f"   kept row: {before[column]}" if before else ""
        print(f"{run.name}: {column} {row[column]}{kept}", flush=True)
    if keep or before is None:
        add_row(run.campaign, row, correct_images(folder / "predictions_test.csv"), results)
