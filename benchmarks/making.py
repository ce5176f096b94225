"""Making a row of the plan: its command lines, its training or early exits, and what is read from its run folder."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

from plan import ROOT, Run, add_row, correct_images, row_of, rows_of

from spikesparse.commands.report.runs import read_run
from spikesparse.files.locks import FileLock
from spikesparse.files.run_folder import chosen_checkpoint
from spikesparse.files.safe_yaml import read_yaml
from spikesparse.settings.command_line import run_name

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
    config = read_yaml(ROOT / run.arguments[2], run.arguments[2])
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


def train(words: list[str], fresh: bool, deadline: float, lock: FileLock, stop: threading.Event) -> bool:
    """Train and test, unless that is done, going on where it stopped; whether it came to its end.

    Args:
        words: the command line.
        fresh: begin anew.
        deadline: as in :func:`call`, like the others.
        lock: of the run, held.
        stop: ends it.
    """
    flags = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
    return call([*words, *flags, *(["--fresh"] if fresh else [])], deadline, lock, stop)


def exits_folder(run: Run, trained: Path) -> Path:
    """Where a run of early exits lies: beside the run whose network it takes."""
    exits = f"exits-{run.target:g}-{run.by}-{run.measure}"
    return trained.parent.with_name(f"{trained.parent.name}-{exits}") / trained.name


def take_exits(
    run: Run, trained: Path, deadline: float, lock: FileLock, stop: threading.Event
) -> dict[str, str] | None:
    """Choose the early exits of a trained run on its validation split, and test them.

    That is done in a copy of the run's folder, so that its own test stays and rows of one network can be made at once.
    The command that is given names the folder itself: what a reader has who trained the network.

    Args:
        run: of early exits.
        trained: the folder of the run whose network it takes.
        deadline: as in :func:`call`, like the others.
        lock: of the run, held.
        stop: ends it.

    Returns:
        What the exits came to on the validation split, and the command; None if it did not come to its end.
    """
    folder = exits_folder(run, trained)
    checkpoint = folder / chosen_checkpoint(trained).relative_to(trained)
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    for file in (checkpoint, folder / "config.yaml"):
        shutil.copyfile(trained / file.relative_to(folder), file)
    sought = ["exits", str(folder), "--measure", run.measure, "--by", run.by, "--target", f"{run.target:g}"]
    if not call(sought, deadline, lock, stop):
        return None
    with (folder / "exits_val.csv").open(newline="") as file:
        *_, chosen = csv.DictReader(file)
    exit_flags = [f"--model.early_exit.{name}={chosen[name]}" for name in ("confidence", "measure")]
    tested = ["test", f"--ckpt_path={checkpoint}", *exit_flags]
    if not call([*tested, "--trainer.enable_progress_bar=false"], deadline, lock, stop):
        return None
    command = f"spikesparse {' '.join(sought)}; spikesparse {' '.join(tested)}"
    return {**chosen, "command": command.replace(str(folder), str(trained))}


def call(words: list[str], deadline: float, lock: FileLock, stop: threading.Event) -> bool:
    """Run ``spikesparse`` with these words; whether it came to its end.

    It holds the run's lock too: it outlives this process if that is killed.

    Args:
        words: the command line.
        deadline: of ``time.monotonic``; it is stopped then.
        lock: of the run, held.
        stop: once it is set, it is stopped as if the time were over.
    """
    environment = {**ALLOCATOR, **os.environ}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]))
    command = [sys.executable, "-m", "spikesparse", *words]
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


def finish(run: Run, words: list[str], exits: dict[str, str] | None, results: Path, keep: bool) -> None:
    """Say how a row came out, beside the one there was, and keep it.

    Args:
        run: that was made.
        words: the command line of its training, or of that whose network it takes.
        exits: what :func:`take_exits` found, of a run of early exits.
        results: the folder of the rows.
        keep: put it in the place of the one there was.
    """
    trained = folder_of(words, run.seed)
    folder = exits_folder(run, trained) if exits else trained
    row = row_of(run, folder, words, (read_run(trained).seconds or 0.0) / 60)
    if exits:
        row |= {"budget": f"{run.target:g} {run.by}", "accuracy_val": f"{float(exits['accuracy']):.4f}"}
        row |= {"command": exits["command"]}
        trained_on = json.loads((trained / "result.json").read_text())["hardware"]  # whose minutes they are
        if trained_on != row["hardware"]:
            row["hardware"] = f"{trained_on}; exits on {row['hardware']}"
    before = next(
        (r for r in rows_of(run.campaign, results) if (r["recipe"], int(r["seed"])) == (run.recipe, run.seed)), None
    )
    for column in ("accuracy_val", "accuracy_test", "spikes_per_image", "synops_per_image"):
        kept = f"   kept row: {before[column]}" if before else ""
        print(f"{run.name}: {column} {row[column]}{kept}", flush=True)
    if keep or before is None:
        add_row(run.campaign, row, correct_images(folder / "predictions_test.csv"), results)
