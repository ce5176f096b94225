"""Run what the result tables are made of.

    python benchmarks/reproduce.py --list                  every run of the plan, and whether it has its row
    python benchmarks/reproduce.py --missing --budget 8m   run what has none, and stop after eight minutes
    python benchmarks/reproduce.py vgg7_iso/twin/0         run a row anew, and compare it with the one that is kept
    python benchmarks/reproduce.py vgg7_iso/twin/0 --keep  the same, and keep the new row

The plan is benchmarks/plan.yaml. A run that is stopped, here or by a power cut, goes on from its last epoch the next
time. Several processes may run it at once, in one checkout: each takes runs that no other is making. On a CPU, one for
each core under OMP_NUM_THREADS=1 makes more rows than one alone, and --missing leaves out the campaigns that are made
for CUDA, unless --only names them.

CIFAR-10 is downloaded by torchvision, or read from a file: --npz data/cifar10.npz. More flags of spikesparse stand
behind `--`, as in `-- --trainer.accelerator=gpu`; they are part of the row's command.
"""

from __future__ import annotations

import argparse
import re
import signal
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

from making import (
    arguments_of,
    finish,
    folder_of,
    is_held,
    lock_of,
    needed_by,
    take_exits,
    train,
)
from plan import PLAN, ROOT, Run, missing, read_plan

from spikesparse.files.locks import FileLock

UNITS = {"s": 1, "m": 60, "h": 3600}
LOOK = 5.0  # seconds between two looks at what other processes make


def seconds(text: str) -> float:
    """A duration such as 90s, 8m or 1.5h, in seconds.

    >>> seconds("8m"), seconds("1.5h"), seconds("90")
    (480.0, 5400.0, 90.0)
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text.strip())
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is no duration; 90s, 8m and 1.5h are")
    return float(match[1]) * UNITS[match[2] or "s"]


class Queue:
    """The runs that are still to be made, by this process or by others beside it.

    Args:
        runs: in the order in which they are to be made.
        anew: the names of those that are made even if they have a row.
        plan: all runs, for the checkpoints that one needs of another.
        results: the folder of the rows.
        flags: of ``spikesparse``: those of the data, and more that the user names.
    """

    def __init__(
        self, runs: list[Run], anew: set[str], plan: list[Run], results: Path, flags: tuple[list[str], list[str]]
    ) -> None:
        self.runs, self.anew, self.plan, self.results, self.flags = list(runs), anew, plan, results, flags
        self._for_checkpoint: set[str] = set()  # the names of those that are trained because another needs them

    def command(self, run: Run) -> list[str]:
        """The command line of a run; of one of early exits, that of the run whose network it takes."""
        campaign = [other for other in self.plan if other.campaign == run.campaign]
        if run.exits_of:
            (run,) = needed_by(run, campaign)
        return arguments_of(run, *self.flags, campaign)

    def take(self) -> tuple[Run, FileLock] | None:
        """A run that can be made and that no other process makes, with its lock; None if there is none at present.

        Rows travel with the repository and checkpoints do not: a run whose checkpoint is needed and is not here is
        trained once more, whether or not it has its row.
        """
        needed: list[Run] = []
        for run in list(self.runs):
            lock = lock_of(run)
            if not lock.acquire(wait=False):
                continue
            lacking = [other for other in needed_by(run, self.plan) if not self._is_there(other)]
            made = self._is_made(run)  # by another process meanwhile
            if made or not lacking:
                self.runs.remove(run)
            if not made and not lacking:
                return run, lock
            lock.close()
            if not made:
                needed += [other for other in lacking if other not in [*self.runs, *needed]]
        needed = [run for run in needed if not is_held(lock_of(run))]
        if not needed:
            return None
        print(f"=== {', '.join(run.name for run in needed)}: a checkpoint that others need", flush=True)
        self.runs = needed + self.runs
        self._for_checkpoint |= {run.name for run in needed}
        return self.take()

    def _is_made(self, run: Run) -> bool:
        if run.name in self._for_checkpoint:
            return self._is_there(run)
        return run.name not in self.anew and not missing([run], self.results)

    def _is_there(self, run: Run) -> bool:
        """Whether its best checkpoint is final: there is one long before training ends."""
        return (folder_of(self.command(run), run.seed) / "result.json").is_file()


def main() -> None:
    """Read the command line, and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", metavar="CAMPAIGN/RECIPE/SEED", help="runs to make anew")
    parser.add_argument("--missing", action="store_true", help="make the runs that have no row yet")
    parser.add_argument("--list", action="store_true", help="only say what there is and what is missing")
    parser.add_argument("--only", metavar="TEXT", default="", help="only runs whose name has this in it")
    parser.add_argument("--budget", type=seconds, default=float("inf"), help="stop after that long: 90s, 8m, 1.5h")
    parser.add_argument("--npz", help="CIFAR-10 as one file, in place of torchvision's download")
    parser.add_argument("--plan", type=Path, default=PLAN)
    parser.add_argument("--results", type=Path, default=ROOT / "results")
    parser.add_argument("--keep", action="store_true", help="put a row that was made anew in the kept one's place")
    at = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    asked, more = parser.parse_args(sys.argv[1:at]), sys.argv[at + 1 :]
    deadline = time.monotonic() + asked.budget
    _, plan = read_plan(asked.plan)
    planned = [run for run in plan if asked.only in run.name]
    if not planned:
        parser.error(f"--only={asked.only}: no run of the plan has that in its name; --list names all")
    open_runs = missing(planned, asked.results)
    if asked.list:
        for run in planned:
            needs = "  (made for CUDA)" if run.cuda else ""
            print(f"{'missing' if run in open_runs else 'there  '}  {run.name}{needs}")
        print(rows_there(planned, open_runs))
        return
    unknown = set(asked.runs) - {run.name for run in plan}
    if unknown:
        parser.error(f"{', '.join(sorted(unknown))}: not in the plan; --list names all")
    todo = [run for run in plan if run.name in asked.runs]
    if asked.missing:
        todo += open_runs if asked.only else those_for_here(open_runs)
    if not todo:
        why = rows_there(planned, open_runs) if asked.missing else "name a run, or --missing, or --list"
        print(f"nothing to do: {why}")
        return
    data = ["--data.source=npz", f"--data.data_dir={asked.npz}"] if asked.npz else []
    queue = Queue(todo, set(asked.runs), plan, asked.results, (data, more))
    stop = threading.Event()  # noted, not raised: in the midst of starting a training it would leave that behind
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    waited = False
    while queue.runs and not stop.is_set() and (left := deadline - time.monotonic()) >= 1:
        taken = queue.take()
        if taken is None:
            if queue.runs and not waited:
                names = ", ".join(run.name for run in queue.runs)
                print(f"=== waiting for other processes, which make or hold up {names}", flush=True)
            waited = True
            stop.wait(min(LOOK, left))
            continue
        run, lock = taken
        waited = False
        with closing(lock):
            if not make(run, queue.command(run), deadline, lock, stop, asked, len(queue.runs)):
                why = "stopped by a signal" if stop.is_set() else "the time is over"
                print(f"=== {why}: {run.name} goes on from its last epoch the next time", flush=True)
                break
    print(f"{rows_there(planned, missing(planned, asked.results))}; --list names them")
    if stop.is_set():
        sys.exit(128 + signal.SIGTERM)


def those_for_here(runs: list[Run]) -> list[Run]:
    """Without those made for CUDA where there is none, which are said to be left out."""
    made_for_cuda = [run for run in runs if run.cuda]
    if not made_for_cuda:
        return runs
    import torch

    if torch.cuda.is_available():
        return runs
    campaigns = ", ".join(dict.fromkeys(run.campaign for run in made_for_cuda))
    left_out = f"{len(made_for_cuda)} of {campaigns}; --only makes them all the same"
    print(f"=== left out, there being no CUDA device: {left_out}", flush=True)
    return [run for run in runs if not run.cuda]


def rows_there(planned: list[Run], lacking: list[Run]) -> str:
    """How many rows there are, and how many of those that lack wait for a CUDA device."""
    for_cuda = sum(run.cuda for run in lacking)
    waiting = f", {for_cuda} of those missing are made for CUDA" if for_cuda else ""
    return f"{len(planned) - len(lacking)} of {len(planned)} rows are there{waiting}"


def make(
    run: Run,
    words: list[str],
    deadline: float,
    lock: FileLock,
    stop: threading.Event,
    asked: argparse.Namespace,
    more: int,
) -> bool:
    """Make a row, whose lock is held; whether it came to its end in time."""
    anew, exits = run.name in asked.runs, None
    begun = lock.path.with_name(f"{lock.path.name}.anew")  # of a run that was begun anew and is not at its end yet
    what = (
        f"early exits of {run.exits_of} at {run.target:g} {run.by}"
        if run.exits_of
        else f"spikesparse {' '.join(words)}"
    )
    print(f"=== {run.name} ({more} more): {what}", flush=True)
    if run.exits_of:
        exits = take_exits(run, folder_of(words, run.seed), deadline, lock, stop)
        if exits is None:
            return False
    else:
        fresh = anew and not begun.is_file()
        if fresh:
            begun.touch()
        if not train(words, fresh, deadline, lock, stop):
            return False
    finish(run, words, exits, asked.results, asked.keep and anew)
    begun.unlink(missing_ok=True)
    return True


if __name__ == "__main__":
    main()
