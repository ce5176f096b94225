"""Starts a worker for every contestant and lets them run in turns, so that noise hits all alike."""

from __future__ import annotations

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
from collections.abc import Callable
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
        facts: layout, agreement, versions, memory: whatever its worker answered.
        rounds: median milliseconds of its steps, round by round.
        failed: why it has no numbers.
    """

    contestant: Contestant
    facts: dict[str, Any] = field(default_factory=dict)
    rounds: list[float] = field(default_factory=list)
    failed: str = ""


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
        threading.Thread(target=self._listen, daemon=True).start()

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


Say = Callable[[str], None]


def run(
    contestants: list[Contestant],
    setting: Setting,
    rounds: int = 20,
    steps: int = 2,
    measure: tuple[str, ...] = ("time", "memory"),
    patience: float = 900.0,
    say: Say = print,
) -> list[Outcome]:
    """Measure all contestants; those that fail have their reason and no numbers."""
    outcomes = [Outcome(contestant) for contestant in contestants]
    processes: dict[str, Process] = {}
    try:
        for number, outcome in enumerate(outcomes, 1):
            name, start = outcome.contestant.name, time.perf_counter()
            say(f"[{number}/{len(outcomes)}] {name} ...")
            try:
                _start(outcome, setting, measure, patience, processes)
                text = f"ready in {time.perf_counter() - start:.0f} s"
            except Failed as reason:
                outcome.failed, text = str(reason), f"FAILED: {reason}"
            if "ms" in outcome.facts:
                text += f", {outcome.facts['ms']:.1f} ms a step"
            say(f"[{number}/{len(outcomes)}] {name}: {text}")
        if "time" in measure:
            _rounds(outcomes, processes, rounds, steps, patience, say)
    finally:
        for process in processes.values():
            process.end()
    return outcomes


def _start(
    outcome: Outcome, setting: Setting, measure: tuple[str, ...], patience: float, processes: dict[str, Process]
) -> None:
    """Prepare a worker and measure its memory: on a CPU in a process of its own, whose freed memory is given back."""
    cuda = setting.device.startswith("cuda")
    layout = None
    if "memory" in measure and not cuda:
        process = Process(outcome.contestant, setting, GIVE_BACK)
        try:
            outcome.facts |= process.ask("prepare", patience)
            layout = outcome.facts["layout"]
            outcome.facts |= process.ask("memory", patience)
        finally:
            process.end()
        if "time" not in measure:
            return
    process = processes[outcome.contestant.name] = Process(outcome.contestant, setting, KEEP)
    try:
        answer = process.ask("prepare", patience, layout=layout, check=layout is None)
        outcome.facts |= answer if layout is None else {}
        if "memory" in measure and cuda:
            outcome.facts |= process.ask("memory", patience)
        if "time" in measure:
            outcome.facts |= process.ask("warm_up", patience)
    except Failed:
        processes.pop(outcome.contestant.name).end()
        raise


def _rounds(
    outcomes: list[Outcome], processes: dict[str, Process], rounds: int, steps: int, patience: float, say: Say
) -> None:
    order, shuffled, start = [o for o in outcomes if not o.failed], random.Random(0), time.perf_counter()
    for done in range(rounds):
        shuffled.shuffle(order)
        for outcome in list(order):
            name = outcome.contestant.name
            try:
                times = processes[name].ask("turn", patience, steps=steps)["ms"]
                outcome.rounds.append(statistics.median(times))
            except Failed as reason:
                outcome.failed = f"in round {done + 1}: {reason}"
                order.remove(outcome)
                processes.pop(name).end()
                say(f"{name} FAILED {outcome.failed}")
        spent = time.perf_counter() - start
        say(f"round {done + 1}/{rounds}, about {spent / (done + 1) * (rounds - done - 1):.0f} s to go")
