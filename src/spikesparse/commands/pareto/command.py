"""Search for networks that are accurate and quiet, and end with the front, its figure and its checkpoints.

A study is shared by any number of workers, on this machine and, with a database as --storage, on others. It goes on
where it stopped: the same command again. All other flags are those of `spikesparse fit`, for every trial.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType

from spikesparse.errors import UserError
from spikesparse.runs.folder import refuse_blocked
from spikesparse.settings.command_line import CommandLine

_STUDIES = Path("runs", "pareto")


def main(args: list[str]) -> None:
    """Command line of ``spikesparse pareto``.

    Raises:
        UserError: if optuna is not installed, or what is asked for cannot be.
    """
    parser = _parser()
    ours, training = parser.parse_known_args(args)
    try:
        import optuna  # noqa: F401
    except ImportError as error:
        raise UserError(
            'the search is done by optuna, which is not installed: pip install "spikesparse[search]"'
        ) from error
    from spikesparse.commands.pareto.space import DEFAULT

    for name in ("trials", "workers", "heartbeat", "grace"):
        if getattr(ours, name) < 1:
            raise UserError(f"--{name}={getattr(ours, name)}: it must be 1 or more.")
    if ours.grace <= ours.heartbeat:
        raise UserError(f"--grace={ours.grace}: it must be longer than --heartbeat={ours.heartbeat}.")
    ours.study = ours.study or _study_of(["fit", *training])
    ours.space = ours.space or DEFAULT
    before = {number: signal.signal(number, _stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        _search(ours, training, args)
    except KeyboardInterrupt:
        if not ours.helper:
            print(f"study {ours.study}: stopped; the same command goes on with it", flush=True)
        sys.exit(128 + signal.SIGINT)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _study_of(command: list[str]) -> str:
    """The name of a command's study, or the one that it has from when names still told more flags apart."""
    line = CommandLine(command)
    name, earlier = line.run_name(), line.run_name(earlier=True)
    return earlier if not (_STUDIES / name).exists() and (_STUDIES / earlier).exists() else name


def _stop(number: int, frame: FrameType | None) -> None:
    """Stop once: the trial under way is released before this process ends."""
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)
    raise KeyboardInterrupt


def _search(ours: argparse.Namespace, training: list[str], args: list[str]) -> None:
    from spikesparse.commands.pareto.plan import make_plan
    from spikesparse.commands.pareto.space import read_space
    from spikesparse.commands.pareto.study import open_study
    from spikesparse.commands.pareto.worker import work

    folder = _STUDIES / ours.study
    refuse_blocked(folder)
    plan = make_plan(ours.study, folder, training, read_space(ours.space), ours.objective, ours.trials)
    study = open_study(plan, ours.storage or f"sqlite:///{folder / 'study.db'}", ours.heartbeat, ours.grace)
    if ours.workers > 1:
        _start_workers(ours.workers, args)
    else:
        work(study, plan, poll=min(ours.heartbeat, 5))
    if not ours.helper:
        from spikesparse.commands.pareto.close import close

        close(study, plan, ours.test)


def _start_workers(count: int, args: list[str]) -> None:
    """Run so many workers to their end; end them with this process."""
    threads = str(max(1, (os.cpu_count() or 1) // count))
    environment = {"OMP_NUM_THREADS": threads, **os.environ}  # they share the cores, unless the user says otherwise
    command = [sys.executable, "-m", "spikesparse", "pareto", *args, "--workers=1", "--helper"]
    workers = [subprocess.Popen(command, env=environment) for _ in range(count)]
    try:
        statuses = [worker.wait() for worker in workers]
    finally:
        for worker in workers:
            worker.send_signal(signal.SIGTERM)  # nothing, if it has ended
        for worker in workers:
            worker.wait()
    if 0 not in statuses:
        raise UserError(f"no worker went on to the end (exit statuses {statuses}): see above.")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="spikesparse pareto", description=__doc__, allow_abbrev=False)
    add = parser.add_argument
    add("--study", help="its name, and its folder's: runs/pareto/<study> (default: the experiment and its flags)")
    add("--storage", help="URL of a database; SQLite, the default, is for one machine; see docs/pareto.md")
    add("--trials", type=int, default=24, help="finished trials the study is to have in all (default: %(default)s)")
    add("--workers", type=int, default=1, help="processes to start here (default: %(default)s)")
    add("--space", type=Path, help="what is searched (default: configs/search/default.yaml)")
    add("--objective", choices=("synops", "spikes"), default="synops", help="what is to be small (default: synops)")
    add("--test", action="store_true", help="test each point of the front on the test set, once")
    add("--heartbeat", type=int, default=30, help="seconds between a worker's signs of life (default: %(default)s)")
    add(
        "--grace", type=int, default=120, help="seconds without one, then its trial is another's (default: %(default)s)"
    )
    add("--helper", action="store_true", help=argparse.SUPPRESS)  # one of several workers: another closes the study
    return parser
