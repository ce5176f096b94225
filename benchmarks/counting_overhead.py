"""What counting costs: the same training step with and without it, interleaved.

    make overhead

Three steps on one network and one batch, in turn and in changing order: without any counting; counting spikes and
synaptic operations into the tally and the metric; the same with the penalty in the loss, whose gradient then flows
through the counts. Each round gives a ratio of times; the median over the rounds is printed with a 95 % interval
(bootstrap), beside the peak of memory within a step.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler, which measures the memory, is talkative

import torch
from ratios import interval, paired_ratios
from tables import about_machine, append_rows
from torch import Tensor
from torch.nn import functional as F

from spikesparse import SpikePenalty, SpikingVGG
from spikesparse.metrics import SpikeCounts
from spikesparse.nn import SpikeCounter, fast, network

SETTINGS = ("architecture", "batch", "timesteps", "encoder", "pooling", "by")
VARIANTS = ("no counting", "counting", "counting and penalty")


class NoCounter(SpikeCounter):
    """Hands spikes and their bits from layer to layer, as the counter does beside, and counts nothing."""

    def weights(self, *args: Any) -> None:
        """Nothing."""

    def neuron_events(self, x: Tensor, unit: float, fired: Tensor, events: Tensor, bits: Tensor | None) -> None:
        """What travels on."""
        self.changed(x, unit)
        self._bits = bits

    def neurons(self, x: Tensor, unit: float | None = None) -> None:
        """What travels on."""
        self.changed(x, unit)

    pooling_neurons = neurons

    def tally(self) -> Any:
        """Nothing."""


def fire_uncounted(y: Tensor, **settings: Any) -> Any:
    """The fused operator without its counts."""
    fired = FIRE(y, **settings | {"count": False})
    nothing = torch.zeros(1)  # in place of the counts, which a layer without space gives another shape
    return fired._replace(fired=nothing, events=nothing)


def make_step(variant: str, args: argparse.Namespace) -> Callable[[], None]:
    """A whole training step on random images: forward, backward, optimizer."""
    torch.manual_seed(0)
    net = SpikingVGG(args.architecture, timesteps=args.timesteps, pooling=args.pooling).to(args.device)
    optimizer = torch.optim.AdamW(net.parameters())
    penalty, metric = SpikePenalty(args.by), SpikeCounts().to(args.device)
    shape = (args.batch, 3, 32, 32)
    images = torch.randn(shape, device=args.device)
    if args.encoder == "poisson":
        images = (torch.rand(args.timesteps, *shape, device=args.device) < 0.3).float()
    labels = torch.randint(10, (args.batch,), device=args.device)

    def step() -> None:
        counting = variant != "no counting"
        network.SpikeCounter, fast.fire = (SpikeCounter, FIRE) if counting else (NoCounter, fire_uncounted)
        output = net(images)
        loss: Tensor = F.cross_entropy(output.logits, labels)
        if variant != "no counting":
            metric.update(output.tally)
            if variant == "counting and penalty":
                loss = loss + 0.5 * penalty(output.tally).to(loss.dtype)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if args.device == "cuda":
            torch.cuda.synchronize()

    return step


FIRE = fast.fire


def timed(step: Callable[[], None]) -> float:
    """Seconds of one step."""
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def peak_bytes(step: Callable[[], None], device: str) -> int:
    """Most memory that tensors held at one time within a step, above what was held before it."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        step()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profile.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    changes = sorted((e["ts"], e["args"]["Bytes"]) for e in events if e.get("name") == "[memory]")
    held = peak = 0
    for _, change in changes:
        held += change
        peak = max(peak, held)
    return peak


def measure(args: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each way of counting."""
    steps = {variant: make_step(variant, args) for variant in VARIANTS}
    for step in steps.values():
        step()
        step()
    peaks = {variant: peak_bytes(step, args.device) for variant, step in steps.items()}
    seconds: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
    order, shuffled = list(VARIANTS), random.Random(0)
    for done in range(args.rounds):
        shuffled.shuffle(order)
        for variant in order:
            seconds[variant].append(timed(steps[variant]))
        if (done + 1) % 10 == 0:
            print(f"{done + 1}/{args.rounds} rounds", flush=True)
    without, rows = seconds["no counting"], []
    for variant in VARIANTS[1:]:
        ratios = paired_ratios(seconds[variant], without)
        low, high = interval(ratios)
        extra = peaks[variant] - peaks["no counting"]
        rows.append(
            {
                **{name: getattr(args, name) for name in SETTINGS},
                "variant": variant,
                "step_ms_without": round(1e3 * statistics.median(without), 2),
                "extra_time_percent": round(100 * (statistics.median(ratios) - 1), 2),
                "interval_95_percent": f"{100 * (low - 1):.2f} to {100 * (high - 1):.2f}",
                "peak_mb_without": round(peaks["no counting"] / 1e6, 2),
                "extra_peak_kb": round(extra / 1e3, 1),
                "rounds": args.rounds,
                **about_machine(),
                "command": " ".join(sys.argv),
            }
        )
    return rows


def main() -> None:
    """Measure and print; --csv appends the rows to a file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architecture", default="vgg7")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--timesteps", type=int, default=4)
    parser.add_argument("--encoder", choices=("direct", "poisson"), default="direct")
    parser.add_argument("--pooling", default="max")
    parser.add_argument("--by", choices=("spikes", "synops"), default="synops", help="what the penalty counts")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--csv", type=Path, help="append the rows here")
    args = parser.parse_args()
    rows = measure(args)
    for row in rows:
        print(
            f"{row['variant']:>22}: {row['extra_time_percent']:+.2f} % of a step of {row['step_ms_without']} ms "
            f"(95 %: {row['interval_95_percent']}), {row['extra_peak_kb']:+,.1f} kB on a peak of "
            f"{row['peak_mb_without']:,.1f} MB"
        )
    if args.csv:
        append_rows(rows, args.csv)


if __name__ == "__main__":
    main()
