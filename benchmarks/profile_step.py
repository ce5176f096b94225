"""Where the time of a training step goes: the kernels (operators, on a CPU) that take most of it.

    python benchmarks/profile_step.py --contestants "spikesparse,limit channels-last" --csv profile.csv

A table for each contestant, time per step. Peers' folders must be on PYTHONPATH.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch
from tables import about_machine, append_rows
from train_step.agreement import build
from train_step.contestants import Contestant, chosen
from train_step.setting import LAYOUTS, PRECISIONS, Setting
from train_step.step import Step, synchronize


def profile(contestant: Contestant, setting: Setting, steps: int, top: int) -> list[dict[str, Any]]:
    """The rows of one contestant."""
    cuda = setting.device.startswith("cuda")
    contender = build(contestant, setting)
    step = Step(contender, setting, contestant.layout or setting.layout)
    if contestant.compile is not None:
        contender.module.compile(mode=contestant.compile)
    for _ in range(3):
        step()
    synchronize(setting.device)
    kinds = torch.profiler.ProfilerActivity
    with torch.profiler.profile(activities=[kinds.CPU, kinds.CUDA] if cuda else [kinds.CPU]) as profiled:
        for _ in range(steps):
            step()
        synchronize(setting.device)
    name = "self_device_time_total" if cuda else "self_cpu_time_total"
    events = [e for e in profiled.key_averages() if not cuda or e.device_type != torch.autograd.DeviceType.CPU]
    times = {event: getattr(event, name) / 1e3 / steps for event in events}
    total = sum(times.values())
    rows = []
    for rank, event in enumerate(sorted(events, key=lambda e: -times[e])[:top], 1):
        share = round(100 * times[event] / total, 2) if total else 0.0
        numbers = {"rank": rank, "ms_per_step": round(times[event], 4), "percent": share}
        rows.append({"contestant": contestant.name, **numbers, "calls": event.count / steps, "kernel": event.key[:200]})
    return rows


def main() -> None:
    """Profile, print and append."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--contestants", required=True, metavar="NAME,NAME")
    parser.add_argument("--architecture", default="vgg9")
    parser.add_argument("--timesteps", type=int, default=8)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--precision", choices=PRECISIONS, default="bf16-mixed")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--layout", choices=LAYOUTS, default="channels-last", help="of those that have none of their own"
    )
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--top", type=int, default=30)
    parser.add_argument("--csv", type=Path, required=True, help="append the rows here")
    args = parser.parse_args()
    setting = Setting(args.architecture, args.timesteps, args.batch, args.precision, args.device, args.layout)
    settings = {name: getattr(args, name) for name in ("device", "architecture", "timesteps", "batch", "precision")}
    settings |= about_machine("hardware", "torch", "commit") | {"command": " ".join(sys.argv)}
    for contestant in chosen(args.contestants, args.device):
        rows = profile(contestant, setting, args.steps, args.top)
        print(f"{contestant.name}: ms a step, share, calls, kernel")
        for row in rows:
            print(f"{row['ms_per_step']:9.3f} {row['percent']:6.1f} % {row['calls']:6.0f}  {row['kernel'][:120]}")
        append_rows([{**row, **settings} for row in rows], args.csv)


if __name__ == "__main__":
    main()
