"""Making a row of a plan: its command lines, its training or early exits, and what is read from its run folder."""

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
from collections.abc import Iterable
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path

from spikesparse.commands.campaign.plan import Run
from spikesparse.commands.campaign.rows import add_row, correct_images, row_of, rows_of
from spikesparse.files.locks import FileLock
from spikesparse.files.run_folder import chosen_checkpoint
from spikesparse.files.safe_yaml import read_yaml
from spikesparse.settings.class_paths import allow_flags
from spikesparse.settings.command_line import CommandLine

GRACE = 20  # seconds that a run has to close its files when the time is over
LOOK = 0.5  # seconds between two looks at whether it is
# glibc would give large tensors back to the system after each step (see the Makefile)
ALLOCATOR = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": "8589934592",
    "MALLOC_TRIM_THRESHOLD_": "17179869184",
}


class RunFailed(Exception):
    """Why a run came to no end, in a sentence."""


@dataclass(frozen=True)
class Limits:
    """What ends a run before its end.

    Attributes:
        deadline: of ``time.monotonic``; it is stopped then.
        stop: once it is set, it is stopped as if the time were over.
        hurry: once this is set too, it is not waited for.
    """

    deadline: float = float("inf")
    stop: threading.Event = field(default_factory=threading.Event)
    hurry: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True)
class Attempt:
    """A run that this process makes.

    Attributes:
        lock: of the run, held.
        limits: what ends it.
        log: where what it says goes; None: to where this process says its own.
        threads: of PyTorch, unless the user says otherwise; None: as many as there are.
    """

    lock: FileLock
    limits: Limits
    log: Path | None = None
    threads: int | None = None


def arguments_of(run: Run, data: list[str], more: list[str], campaign: Iterable[Run]) -> list[str]:
    """The command line of a run, with the checkpoints that it needs filled in."""
    words = [*run.arguments, *(data if data and _source(run) == "cifar10" else []), *more]
    campaign = list(campaign)
    for needed in needed_by(run, campaign):
        best = folder_of(arguments_of(needed, data, more, campaign), run.seed) / "checkpoints/best.ckpt"
        words = [word.replace(f"{{{needed.recipe}}}", str(best)) for word in words]
    return words


def _source(run: Run) -> str:
    """The data source that a run's configuration or flags name; the data module's own without."""
    line = CommandLine(run.arguments)
    source, config = line.value("--data.source"), line.value("--config")
    settings = read_yaml(Path(config), config) if config else {}
    return source or (settings.get("data") or {}).get("source") or "cifar10"


def needed_by(run: Run, plan: Iterable[Run]) -> list[Run]:
    """The runs whose checkpoints it starts or learns from."""
    wanted = {(run.campaign, recipe, run.seed) for recipe in run.needs}
    return [other for other in plan if (other.campaign, other.recipe, other.seed) in wanted]


def lock_of(folder: Path) -> FileLock:
    """Held by the one process that makes the run of a folder, whichever campaigns it belongs to."""
    locks = Path("runs/.locks")
    locks.mkdir(parents=True, exist_ok=True)
    return FileLock(locks / f"{folder.parent.name}-{folder.name}")


def is_held(lock: FileLock) -> bool:
    """Whether another process has it."""
    if not lock.acquire(wait=False):
        return True
    lock.close()
    return False


def folder_of(words: list[str], seed: int) -> Path:
    """The folder of a run, from the current one."""
    line = CommandLine(words)
    return Path(line.value("--trainer.logger.init_args.save_dir") or "runs") / line.run_name() / f"seed{seed}"


def train(words: list[str], fresh: bool, attempt: Attempt) -> bool:
    """Train and test, unless that is done, going on where it stopped; whether it came to its end.

    Args:
        words: the command line.
        fresh: begin anew.
        attempt: of the run.

    Raises:
        RunFailed: if it ended with an error, or has no result.
    """
    flags = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
    if not call([*words, *flags, *(["--fresh"] if fresh else [])], attempt):
        return False
    result = folder_of(words, int(CommandLine(words).seed)) / "result.json"
    if not result.is_file():  # with --trainer.fast_dev_run, or a logger of the user's own
        raise RunFailed(f"it left no {result}: a row is read from a run folder, of a training that was tested")
    return True


def exits_folder(run: Run, trained: Path) -> Path:
    """Where a run of early exits lies: beside the run whose network it takes."""
    exits = f"exits-{run.target:g}-{run.by}-{run.measure}"
    return trained.parent.with_name(f"{trained.parent.name}-{exits}") / trained.name


def take_exits(run: Run, words: list[str], attempt: Attempt) -> dict[str, str] | None:
    """Choose the early exits of a trained run on its validation split, and test them.

    That is done in a copy of the run's folder, so that its own test stays and rows of one network can be made at once.
    The command that is given names the folder itself: what a reader has who trained the network.

    Args:
        run: of early exits.
        words: the command line of the run whose network it takes.
        attempt: of the run.

    Returns:
        What the exits came to on the validation split, and the command; None if it did not come to its end.
    """
    trained, allowed = folder_of(words, run.seed), allow_flags(CommandLine(words).allowed)
    folder = exits_folder(run, trained)
    checkpoint = folder / chosen_checkpoint(trained).relative_to(trained)
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    for needed in (checkpoint, folder / "config.yaml"):
        shutil.copyfile(trained / needed.relative_to(folder), needed)
    sought = ["exits", str(folder), "--measure", run.measure, "--by", run.by, "--target", f"{run.target:g}", *allowed]
    if not call(sought, attempt):
        return None
    with (folder / "exits_val.csv").open(newline="") as file:
        *_, chosen = csv.DictReader(file)
    exit_flags = [f"--model.early_exit.{name}={chosen[name]}" for name in ("confidence", "measure")]
    tested = ["test", f"--ckpt_path={checkpoint}", *exit_flags, *allowed]
    if not call([*tested, "--trainer.enable_progress_bar=false"], attempt):
        return None
    command = f"spikesparse {' '.join(sought)}; spikesparse {' '.join(tested)}"
    return {**chosen, "command": command.replace(str(folder), str(trained))}


def call(words: list[str], attempt: Attempt) -> bool:
    """Run ``spikesparse`` with these words; whether it came to its end.

    It holds the run's lock too: it outlives this process if that is killed.

    Args:
        words: the command line.
        attempt: of the run.

    Raises:
        RunFailed: if it ended by itself, with an error.
    """
    environment = {**ALLOCATOR, **os.environ}
    if attempt.threads is not None:
        environment.setdefault("OMP_NUM_THREADS", str(attempt.threads))
    command = [sys.executable, "-m", "spikesparse", *words]
    with open(attempt.log, "a") if attempt.log is not None else nullcontext() as output:
        child = subprocess.Popen(
            command,
            env=environment,
            start_new_session=True,
            pass_fds=[attempt.lock.fileno()],
            stdout=output,
            stderr=None if output is None else subprocess.STDOUT,
        )
    limits = attempt.limits
    while child.poll() is None and time.monotonic() < limits.deadline and not limits.stop.is_set():
        with suppress(subprocess.TimeoutExpired):
            child.wait(LOOK)
    if child.poll() is None:
        _end(child, limits)
        return False
    if child.returncode:
        where = attempt.log or "above"
        raise RunFailed(f"`spikesparse {words[0]}` ended with status {child.returncode}; what it said stands {where}")
    return True


def _end(child: subprocess.Popen[bytes], limits: Limits) -> None:
    """End a child process and its children: by SIGTERM first, then by force."""
    os.killpg(child.pid, signal.SIGTERM)
    until = time.monotonic() + GRACE
    while child.poll() is None and time.monotonic() < until and not limits.hurry.is_set():
        with suppress(subprocess.TimeoutExpired):
            child.wait(LOOK)
    if child.poll() is None:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def finish(run: Run, words: list[str], exits: dict[str, str] | None, results: Path, keep: bool) -> None:
    """Say how a row came out, beside the one there was, and keep it.

    Args:
        run: that was made.
        words: the command line of its training, or of that whose network it takes.
        exits: what :func:`take_exits` found, of a run of early exits.
        results: the folder of the rows.
        keep: put it in the place of the one there was.
    """
    from spikesparse.commands.report.runs import read_run

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
