"""Making a queue's runs, several at once: what each is told, what is said meanwhile, and what stops them."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from types import FrameType

from spikesparse.commands.campaign.making import Attempt, Limits, RunFailed, finish, take_exits, train
from spikesparse.commands.campaign.plan import Run
from spikesparse.commands.campaign.queue import Queue
from spikesparse.errors import UserError
from spikesparse.files.locks import FileLock

LOOK = 2.0  # seconds between two looks at what other processes make
HOPELESS = 3  # failed runs while none came to its end: what is wrong with them is wrong with all


@dataclass
class Pace:
    """How long runs have taken so far, for a word on how long the others will."""

    minutes: dict[str, list[float]] = field(default_factory=dict)  # by recipe

    def note(self, run: Run, minutes: float) -> None:
        """A run came to its end."""
        self.minutes.setdefault(run.recipe, []).append(minutes)
        self.minutes.setdefault(_kind(run), []).append(minutes)

    def left(self, runs: list[Run], workers: int) -> float | None:
        """Minutes that these will take: each the mean of its recipe so far, or of its kind; None if nothing tells.

        >>> pace, quiet = Pace(), Run("c", "quiet", 0, ())
        >>> pace.note(quiet, 4.0)
        >>> pace.left([quiet, Run("c", "twin", 1, ())], workers=2)
        4.0
        """
        known = [self.minutes.get(run.recipe, self.minutes.get(_kind(run))) for run in runs]
        means = [sum(each) / len(each) for each in known if each]
        return sum(means) / workers if len(means) == len(runs) else None


def _kind(run: Run) -> str:
    return "/exits" if run.exits_of else "/train"  # no recipe's name


@dataclass
class Crew:
    """So many workers that make a queue's runs.

    Args:
        queue: the runs.
        limits: what ends them all.
        workers: how many at once.
        fresh: the names of runs whose training is begun anew.
        kept: the names of those whose row takes the place of the one there was.
    """

    queue: Queue
    limits: Limits
    workers: int = 1
    fresh: set[str] = field(default_factory=set)
    kept: set[str] = field(default_factory=set)
    made: list[Run] = field(default_factory=list)
    pace: Pace = field(default_factory=Pace)
    _waited: bool = False

    def work(self) -> None:
        """Make the runs until there is none left, the time is over or a signal stops them.

        What goes wrong with one run is kept in ``queue.failed``; the others are made, but those that need it.
        """
        with ThreadPoolExecutor(self.workers, thread_name_prefix="campaign") as pool, stopped_by_signals(self.limits):
            working = [pool.submit(self._work) for _ in range(self.workers)]
            failed = False
            while not failed:
                done, going = wait(working, timeout=0.5, return_when=FIRST_EXCEPTION)
                failed = any(each.exception() for each in done)
                if not going:
                    break
            if failed:  # not a run: this program, or its disk
                self.limits.stop.set()
            for each in working:
                each.result()

    def refuse_failed(self, runs: int) -> None:
        """Say at the end that some of so many runs failed.

        Raises:
            UserError: if some did.
        """
        if self.queue.failed:
            first, why = next(iter(self.queue.failed.items()))
            raise UserError(
                f"{len(self.queue.failed)} of {runs} runs failed, the first {first}: {why}. The same command goes on."
            )

    def _work(self) -> None:
        queue, limits = self.queue, self.limits
        while queue.runs and not limits.stop.is_set() and (left := limits.deadline - time.monotonic()) >= 1:
            taken = queue.take()
            if taken is None:
                self._say_who_waits()
                limits.stop.wait(min(LOOK, left))
                continue
            run, lock = taken
            self._waited = False
            with closing(lock):
                try:
                    if not self._make(run, lock):
                        why = "stopped by a signal" if limits.stop.is_set() else "the time is over"
                        print(f"=== {why}: {run.name} goes on from its last epoch the next time", flush=True)
                        return
                except RunFailed as error:
                    self._say_failed(run, str(error))

    def _say_who_waits(self) -> None:
        if self.queue.runs and not self._waited and self.workers == 1:
            names = ", ".join(run.name for run in self.queue.runs)
            print(f"=== waiting for other processes, which make or hold up {names}", flush=True)
        self._waited = True

    def _say_failed(self, run: Run, why: str) -> None:
        self.queue.fail(run, why)
        print(f"=== {run.name} failed: {why}", flush=True)
        if len(self.queue.failed) >= HOPELESS and not self.made:
            print(f"=== given up: {len(self.queue.failed)} runs failed and none came to its end", flush=True)
            self.queue.runs.clear()

    def _make(self, run: Run, lock: FileLock) -> bool:
        """Make a row, whose lock is held. Returns whether it was finished in time."""
        words, begun_at = self.queue.command(run), time.monotonic()
        begun = lock.path.with_name(f"{lock.path.name}.anew")  # of a run that was begun anew and is not at its end yet
        log = lock.path.with_name(f"{lock.path.name}.log") if self.workers > 1 else None
        threads = max(1, (os.cpu_count() or 1) // self.workers) if self.workers > 1 else None
        attempt = Attempt(lock, self.limits, log, threads)
        what = (
            f"early exits of {run.exits_of} at {run.target:g} {run.by}"
            if run.exits_of
            else f"spikesparse {' '.join(words)}"
        )
        number = self.queue.taken
        said = f"; its output: {log}" if log else ""
        print(f"=== {run.name} ({number} of {number + len(self.queue.runs)}): {what}{said}", flush=True)
        exits = None
        if run.exits_of:
            exits = take_exits(run, words, attempt)
            if exits is None:
                return False
        else:
            fresh = run.name in self.fresh and not begun.is_file()
            if fresh:
                begun.touch()
            if not train(words, fresh, attempt):
                return False
        finish(run, words, exits, self.queue.results, run.name in self.kept)
        begun.unlink(missing_ok=True)
        self._say_made(run, (time.monotonic() - begun_at) / 60)
        return True

    def _say_made(self, run: Run, minutes: float) -> None:
        self.made.append(run)
        self.pace.note(run, minutes)
        left = self.pace.left(self.queue.runs, self.workers)
        about = f", about {left:.1f} min" if left is not None and self.queue.runs else ""
        print(f"=== {run.name}: made in {minutes:.1f} min; {len(self.queue.runs)} to begin{about}", flush=True)


@contextmanager
def stopped_by_signals(limits: Limits) -> Iterator[None]:
    """While this lasts, a signal lets the runs write their checkpoints and stop; a second Ctrl-C ends them at once.

    It is noted, not raised: in the midst of starting a training it would leave that behind.

    Raises:
        KeyboardInterrupt: at the end, after Ctrl-C.
        SystemExit: at the end, after another signal: 128 and its number.
    """
    got: list[int] = []

    def note(number: int, _: FrameType | None) -> None:
        got.append(number)
        if limits.stop.is_set():
            limits.hurry.set()
        limits.stop.set()

    before: dict[signal.Signals, Callable[[int, FrameType | None], object] | int | None] = {}
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
            before[number] = signal.signal(number, note)
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
    if got:
        if got[0] == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + got[0])
