"""The command line of ../train_step.py."""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from pathlib import Path

import torch
from tables import about_machine, append_rows, check_columns

from . import table
from .contestants import CONTESTANTS, chosen
from .driver import Driver
from .setting import LAYOUTS, PRECISIONS, Setting


def parse(description: str | None, arguments: list[str] | None = None) -> argparse.Namespace:
    """All flags; --fast sets those that were not given."""
    cuda = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--contestants", metavar="NAME,NAME", help="by name (default: all that run on the device)")
    parser.add_argument("--list", action="store_true", help="list the contestants")
    parser.add_argument("--architecture", help="vgg9 (the default), or layers such as 16-P-F32")
    parser.add_argument("--timesteps", type=int, nargs="+", help="one table for each T (default: 4)")
    parser.add_argument("--batch", type=int, help="images (default: 32, on CUDA 128)")
    parser.add_argument("--precision", choices=PRECISIONS, help="default: float32, on CUDA bf16-mixed")
    parser.add_argument("--device", default="cuda" if cuda else "cpu")
    parser.add_argument("--layout", choices=("auto", *LAYOUTS), default="auto", help="auto: each in its faster one")
    parser.add_argument("--measure", nargs="+", choices=("time", "memory"), default=["time", "memory"])
    parser.add_argument("--rounds", type=int, help="turns of each contestant (default: 20)")
    parser.add_argument("--steps", type=int, help="timed steps in a turn (default: 2, on CUDA 10)")
    parser.add_argument("--patience", type=float, default=900.0, help="seconds to wait for any one answer")
    parser.add_argument("--budget", type=float, default=float("inf"), help="seconds for all: then fewer rounds")
    parser.add_argument("--parallel", type=int, default=1, help="workers prepared at a time (timed: always one)")
    parser.add_argument("--together", action="store_true", help="all T in the same rounds; needs memory for all")
    parser.add_argument("--fast", action="store_true", help="a tiny network and few rounds: does it all run?")
    parser.add_argument("--csv", type=Path, help="append the rows here")
    args = parser.parse_args(arguments)
    cuda = args.device.startswith("cuda")
    defaults = {
        "architecture": "8-P-16-P-F32" if args.fast else "vgg9",
        "timesteps": [2] if args.fast else [4],
        "batch": 4 if args.fast else 128 if cuda else 32,
        "precision": "bf16-mixed" if cuda else "float32",
        "rounds": 2 if args.fast else 20,
        "steps": 1 if args.fast else 10 if cuda else 2,
    }
    for name, value in defaults.items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    return args


def main(description: str | None = None, arguments: list[str] | None = None) -> None:
    """Measure, print and append; exit with 1 if a contestant computed something else."""
    args = parse(description, arguments)
    if args.list:
        for contestant in CONTESTANTS:
            print(f"{contestant.name:32}{'CUDA only' if contestant.cuda_only else ''}")
        return
    contestants = chosen(args.contestants, args.device)
    if args.csv:
        check_columns(args.csv, table.COLUMNS)
    words = sys.argv if arguments is None else ["benchmarks/train_step.py", *arguments]
    about = {**about_machine(), "steps": args.steps, "command": shlex.join(words)}
    start, wrong = time.perf_counter(), []

    def say(text: str) -> None:
        print(f"{time.perf_counter() - start:6.0f} s  {text}", flush=True)

    driver = Driver(args.rounds, args.steps, tuple(args.measure), args.patience, args.budget, args.parallel, say)
    shape = (args.batch, args.precision, args.device, args.layout)
    settings = [Setting(args.architecture, timesteps, *shape) for timesteps in args.timesteps]
    for group in [settings] if args.together else [[setting] for setting in settings]:
        outcomes = driver.run([(contestant, setting) for setting in group for contestant in contestants])
        for setting in group:
            made = table.rows([outcome for outcome in outcomes if outcome.setting == setting], about)
            table.show(made, setting)
            if args.csv:
                append_rows(made, args.csv)
        wrong += table.disagreeing(outcomes)
    if wrong:
        sys.exit("\n".join(["not the same function, and so not to be compared:", *wrong]))
