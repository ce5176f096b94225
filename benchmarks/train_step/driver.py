"""Starts a worker for every contestant and lets them run in turns, so that noise hits all alike."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import queue
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from .contestants import ROOT, Contestant
from .setting import Setting

#: As `make` sets them for training: freed memory stays with the process, its pages need not be cleared anew.
KEEP = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "8589934592", "MALLOC_TRIM_THRESHOLD_": "17179869184"}
#: The opposite, for measuring: what a tensor frees is gone at once.
GIVE_BACK = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}


class Failed(Exception):
    """A contestant cannot go on; the message says why."""


@dataclass
class Outcome:
    """What became of a contestant.

    Attributes:
        contestant: which.
        setting: of its network.
        facts: layout, agreement, versions, memory: whatever its worker answered.
        rounds: median milliseconds of its steps, round by round.
        failed: why it has no numbers.
    """

    contestant: Contestant
    setting: Setting
    facts: dict[str, Any] = field(default_factory=dict)
    rounds: list[float] = field(default_factory=list)
    failed: str = ""

    @property
    def name(self) -> str:
        """For progress."""
        return f"{self.contestant.name}, T={self.setting.timesteps}"


class Process:
    """A worker seen from outside."""

    def __init__(self, contestant: Contestant, setting: Setting, environment: dict[str, str]) -> None:
        paths = [ROOT / "benchmarks", ROOT / "src", *contestant.search_path()]
        if missing := [path for path in contestant.search_path() if not path.is_dir()]:
            raise Failed(f"{missing[0].name} is not installed: make peers")
        earlier = os.environ.get("PYTHONPATH")
        path = os.pathsep.join([*map(str, paths), *([earlier] if earlier else [])])
        given = json.dumps({"contestant": dataclasses.asdict(contestant), "setting": dataclasses.asdict(setting)})
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115 lives as long as the worker
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "train_step.worker", given],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            env={**os.environ, **environment, "PYTHONPATH": path},
        )
        self.answers: queue.Queue[str] = queue.Queue()
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.answers.put(line)
        self.answers.put("")

    def ask(self, do: str, patience: float, **request: Any) -> dict[str, Any]:
        """The answer to a request.

        Raises:
            Failed: if the worker says so, dies, or takes longer than ``patience`` seconds.
        """
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps({"do": do, **request}) + "\n")
            self.process.stdin.flush()
            line = self.answers.get(timeout=patience)
        except queue.Empty:
            raise Failed(f"no answer to {do} within {patience:.0f} s") from None
        except OSError:
            line = ""
        if not line:
            raise Failed(f"its process ended with status {self.process.wait()}{self._last_words()}")
        answer: dict[str, Any] = json.loads(line)
        if "failed" in answer:
            raise Failed(answer["failed"])
        return answer

    def _last_words(self) -> str:
        self.log.seek(0)
        lines = self.log.read().strip().splitlines()
        return f": {lines[-1][:200]}" if lines else ""

    def end(self) -> None:
        """At once."""
        self.process.kill()
        self.process.wait()
        self._listener.join()
        for file in (self.process.stdin, self.process.stdout, self.log):
            with contextlib.suppress(OSError):  # what was not yet sent to a process that is gone
                file.close()


@dataclass
class Driver:
    """Prepares the workers, several at a time if asked to, and then lets them run one at a time.

    Args:
        rounds: turns of each worker.
        steps: timed steps in a turn.
        measure: "time", "memory" or both.
        patience: seconds to wait for an answer.
        budget: seconds for everything: less patience and fewer rounds if it gets short.
        parallel: workers that are prepared at a time; never more than one is timed.
        say: told of the progress.
    """

    rounds: int = 20
    steps: int = 2
    measure: tuple[str, ...] = ("time", "memory")
    patience: float = 900.0
    budget: float = float("inf")
    parallel: int = 1
    say: Callable[[str], None] = print

    def run(self, entries: list[tuple[Contestant, Setting]]) -> list[Outcome]:
        """Measure all of them; those that fail have their reason and no numbers."""
        self._start = time.perf_counter()
        self._processes: dict[str, Process] = {}
        outcomes = [Outcome(contestant, setting) for contestant, setting in entries]
        try:
            with ThreadPoolExecutor(self.parallel) as pool:
                self._all(outcomes, self._check, pool.map, "compared with the reference")
                self._all(outcomes, self._layout, map, "")
                self._all(outcomes, self._finish, pool.map, "ready")
            if "time" in self.measure:
                self._rounds(outcomes)
        finally:
            for process in self._processes.values():
                process.end()
        return outcomes

    def _all(
        self, outcomes: list[Outcome], do: Callable[[Outcome], None], each: Callable[..., Iterable[Any]], done: str
    ) -> None:
        """Do something with all that have not failed."""
        left, finished = [outcome for outcome in outcomes if not outcome.failed], 0

        def one(outcome: Outcome) -> None:
            nonlocal finished
            start = time.perf_counter()
            if done:
                self.say(f"{outcome.name} ...")
            try:
                do(outcome)
            except Failed as reason:
                self._fail(outcome, str(reason))
            finished += 1
            if done and not outcome.failed:
                text = f"{done} in {time.perf_counter() - start:.0f} s"
                text += f", {outcome.facts['ms']:.1f} ms a step" if "ms" in outcome.facts else ""
                self.say(f"[{finished}/{len(left)}] {outcome.name}: {text}")

        list(each(one, left))

    def _fail(self, outcome: Outcome, reason: str) -> None:
        outcome.failed = reason
        self.say(f"{outcome.name} FAILED: {reason}")
        if outcome.name in self._processes:
            self._processes.pop(outcome.name).end()

    def _ask(self, outcome: Outcome, do: str, **request: Any) -> dict[str, Any]:
        left = self._start + 0.7 * self.budget - time.perf_counter()
        return self._processes[outcome.name].ask(do, max(1.0, min(self.patience, left)), **request)

    def _check(self, outcome: Outcome) -> None:
        self._processes[outcome.name] = Process(outcome.contestant, outcome.setting, KEEP)
        outcome.facts |= self._ask(outcome, "check")

    def _layout(self, outcome: Outcome) -> None:
        outcome.facts |= self._ask(outcome, "build")

    def _finish(self, outcome: Outcome) -> None:
        """Memory: on a CPU in a fresh process, whose freed memory goes back at once. Then warm up."""
        if "memory" in self.measure and outcome.setting.device.startswith("cuda"):
            outcome.facts |= self._ask(outcome, "memory")
        elif "memory" in self.measure:
            fresh = Process(outcome.contestant, outcome.setting, GIVE_BACK)
            try:
                fresh.ask("build", self.patience, layout=outcome.facts["layout"])
                outcome.facts |= fresh.ask("memory", self.patience)
            finally:
                fresh.end()
        if "time" in self.measure:
            outcome.facts |= self._ask(outcome, "warm_up")

    def _rounds(self, outcomes: list[Outcome]) -> None:
        order, shuffled, start = [o for o in outcomes if not o.failed], random.Random(0), time.perf_counter()
        for done in range(1, self.rounds + 1):
            shuffled.shuffle(order)
            for outcome in list(order):
                try:
                    times = self._processes[outcome.name].ask("turn", self.patience, steps=self.steps)["ms"]
                    outcome.rounds.append(statistics.median(times))
                except Failed as reason:
                    self._fail(outcome, f"in round {done}: {reason}")
                    order.remove(outcome)
            now = time.perf_counter()
            each = (now - start) / done
            self.say(f"round {done}/{self.rounds}, about {each * (self.rounds - done):.0f} s to go")
            if now + each > self._start + self.budget:
                self.say("no time for another round")
                break
