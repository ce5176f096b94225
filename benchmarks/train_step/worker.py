"""One contestant in a process of its own: answers requests, a JSON line each, and sleeps between them.

python -m train_step.worker '{"contestant": {...}, "setting": {...}}'
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from importlib import metadata
from typing import Any

import torch

from . import memory
from .agreement import agreement, build
from .contender import Unavailable
from .contestants import Contestant
from .folded import hidden_neurons
from .same_weights import draw_weights
from .setting import LAYOUTS, Setting
from .step import Step


class Worker:
    """Its methods are the requests; each returns what is answered."""

    def __init__(self, contestant: Contestant, setting: Setting) -> None:
        self.contestant, self.setting = contestant, setting
        self.cuda = setting.device.startswith("cuda")
        self.step: Step

    def check(self) -> dict[str, Any]:
        """Compare with the reference."""
        if not self.cuda and self.contestant.cuda_only:
            raise Unavailable("needs CUDA")
        found = agreement(self.contestant, self.setting)
        if self._asks_for_layout():  # compiled and tuned here, beside others; what is timed has the machine to itself
            contender = build(self.contestant, self.setting)
            for name in LAYOUTS:
                self._part(Step(contender, self.setting, name))()
        memory.give_back(self.cuda)
        versions = {"torch": torch.__version__, "triton": _version("triton"), "threads": torch.get_num_threads()}
        peer = f"{self.contestant.peer} {_version(self.contestant.peer)}" if self.contestant.peer else ""
        return {"agreement": found, "peer": peer, **versions}

    def build(self, layout: str | None = None) -> dict[str, Any]:
        """Build, in the given layout or else the faster one; a compiler only gets to work at the first step."""
        contender = build(self.contestant, self.setting)
        layout = self.contestant.layout or layout or (self.setting.layout if self.setting.layout != "auto" else None)
        if layout is None:
            times = {name: self._probe(Step(contender, self.setting, name)) for name in LAYOUTS}
            layout = min(times, key=lambda name: times[name])
            draw_weights(contender.module)
        self.step = Step(contender, self.setting, layout)
        if self.contestant.compile is not None:
            contender.module.compile(mode=self.contestant.compile)
        memory.give_back(self.cuda)
        return {"layout": layout}

    def warm_up(self, most: int = 12) -> dict[str, Any]:
        """Steps until two in a row take no longer than the fastest, within a quarter: compiled, tuned, allocated.

        The loss behind the first of them is everybody's, compiled or not: they have all done the same steps by then.
        """
        start, times, losses = time.perf_counter(), [], []
        while len(times) < most:
            times.append(self.step.timed())
            if not losses:
                losses.append(self.step.error())
            if len(times) > 2 and max(times[-2:]) < 1.25 * min(times):
                break
        graphs = breaks = 0
        if self.contestant.compile is not None:
            from torch._dynamo.utils import counters

            graphs, breaks = counters["stats"]["unique_graphs"], sum(counters["graph_break"].values())
        self._rest()
        seconds = round(time.perf_counter() - start, 1)
        return {"ms": min(times), "seconds": seconds, "loss": losses[0], "graphs": graphs, "graph_breaks": breaks}

    def turn(self, steps: int) -> dict[str, Any]:
        """Milliseconds of some steps, after one that is not timed: memory and clocks rested."""
        self.step()
        times = [self.step.timed() for _ in range(steps)]
        self._rest()
        return {"ms": times}

    def memory(self) -> dict[str, Any]:
        """Peaks; bytes kept for the backward pass per hidden neuron and step."""
        found: dict[str, Any] = memory.peaks(self.step)
        setting = self.setting
        neuron_steps = hidden_neurons(setting) * setting.timesteps * setting.batch
        found["held_bytes_per_neuron_step"] = round(memory.held_bytes(self.step) / neuron_steps, 3)
        if self.contestant.compile is None and not self.step.contender.recomputes:
            found["saved_bytes_per_neuron_step"] = round(memory.saved_bytes(self.step) / neuron_steps, 3)
        memory.give_back(self.cuda)
        return found

    def _asks_for_layout(self) -> bool:
        return self.contestant.layout is None and self.setting.layout == "auto"

    def _part(self, step: Step) -> Step:
        """The step on a part of the batch."""
        part = max(2, len(step.images) // (1 if self.cuda else 4))  # BatchNorm needs two values
        step.images, step.labels = step.images[:part], step.labels[:part]
        return step

    def _probe(self, step: Step) -> float:
        """Milliseconds of an eager step on a part of the batch, in a layout."""
        self._part(step)()
        return min(step.timed() for _ in range(2))

    def _rest(self) -> None:
        memory.give_back(self.cuda)
        time.sleep(0.05)  # the threads of OpenMP spin for some milliseconds before they sleep


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def main() -> None:
    """Answer until there are no more requests."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    given = json.loads(sys.argv[1])
    given["setting"]["image"] = tuple(given["setting"]["image"])
    worker = Worker(Contestant(**given["contestant"]), Setting(**given["setting"]))
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = getattr(worker, request.pop("do"))(**request)
        except Unavailable as reason:
            answer = {"failed": str(reason)}
        except Exception as error:  # becomes a row of the table
            traceback.print_exc()
            first = str(error).strip().splitlines()[:1]
            answer = {"failed": f"{type(error).__name__}: {''.join(first)}"[:300]}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
