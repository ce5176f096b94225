"""Run the plan of a campaign: every recipe under each seed, and in the end the table that compares them.

    spikesparse campaign                             the plans there are, and how many of their rows
    spikesparse campaign digits_loop --workers 2     make what has no row yet, two runs at once
    spikesparse campaign my_plan.yaml --budget 8m    a plan of your own; stop after eight minutes
    spikesparse campaign digits_loop/twin/0 --keep   make a run anew, and keep its row in the place of the one before
    spikesparse campaign digits_loop --table-only --metric energy_uj_per_image

A run that is stopped, here or by a power cut, goes on from its last epoch the next time. Several processes may run one
plan in one folder: each takes runs that no other is making. On a CPU, one worker for each core makes the most rows.

CIFAR-10 is downloaded by torchvision, or read from a file: --npz data/cifar10.npz. More flags of `spikesparse train`
stand last, behind `--`, as in `-- --trainer.accelerator=gpu`; they are part of the row's command. Class paths in a plan
of yours may name your own modules by --allow-import PREFIX.
"""

from __future__ import annotations

import argparse
import re
import shlex
import time
from collections.abc import Container
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from spikesparse.commands.campaign.closing import closing_table
from spikesparse.commands.campaign.comparison import METRICS
from spikesparse.commands.campaign.lookup import all_plans, plan_path
from spikesparse.commands.campaign.plan import Run, read_plan
from spikesparse.commands.campaign.rows import missing
from spikesparse.commands.campaign.selection import Selection, select
from spikesparse.errors import UserError
from spikesparse.settings.class_paths import allow_flags, split_allowed

if TYPE_CHECKING:
    from spikesparse.commands.campaign.crew import Crew
    from spikesparse.commands.campaign.queue import Queue

UNITS = {"s": 1, "m": 60, "h": 3600}


def seconds(text: str) -> float:
    """A duration such as 90s, 8m or 1.5h, in seconds.

    >>> seconds("8m"), seconds("1.5h"), seconds("90")
    (480.0, 5400.0, 90.0)
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text.strip())
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is no duration; 90s, 8m and 1.5h are")
    return float(match[1]) * UNITS[match[2] or "s"]


def main(args: list[str]) -> None:
    """Command line of ``spikesparse campaign``.

    Raises:
        UserError: if a plan cannot be read, a run is not in it, or some runs failed.
    """
    at = args.index("--") if "--" in args else len(args)
    ours, allowed = split_allowed(args[:at])
    asked, more = _parser().parse_intermixed_args(ours), [*allow_flags(allowed), *args[at + 1 :]]
    if asked.workers < 1:
        raise UserError(f"--workers={asked.workers}: it must be 1 or more.")
    if not asked.plan:
        _say_plans(asked.results)
    elif asked.table_only:
        _say_tables(asked)
    else:
        _run(asked, select(asked.plan, allowed), more)


def _say_plans(results: Path) -> None:
    for path in all_plans():
        plan = read_plan(path)
        there = len(plan.runs) - len(missing(plan.runs, results))
        print(f"{plan.name:<20} {there:>3} of {len(plan.runs):<3} rows  {plan.about}")
    print("spikesparse campaign PLAN makes what lacks; --help says more")


def _say_tables(asked: argparse.Namespace) -> None:
    for name in asked.plan:
        path = plan_path(name)
        plan = read_plan(path) if path is not None else None  # rows are enough
        campaign, twin = (name, None) if plan is None else (plan.name, plan.twin)
        print(closing_table(campaign, asked.twin or twin, asked.metric, asked.results, asked.seeds))


def _run(asked: argparse.Namespace, chosen: Selection, more: list[str]) -> None:
    planned = chosen.planned(asked.only, asked.seeds)
    lacking = missing(planned, asked.results)
    if asked.list:
        for run in planned:
            needs = "  (made for CUDA)" if run.cuda else ""
            print(f"{'missing' if run in lacking else 'there  '}  {run.name}{needs}")
        print(rows_there(planned, lacking))
        return
    todo = [run for run in chosen.runs if run.name in chosen.anew]
    by_name = chosen.whole if asked.only else chosen.whole - chosen.unnamed
    without_row = [run for run in lacking if run.campaign in chosen.whole and run not in todo]
    todo += those_for_here(without_row, by_name)
    if not todo:
        print(f"nothing to do: {rows_there(planned, lacking)}")
    elif asked.dry_run:
        _say_commands(todo, asked, chosen, more)
        return
    crew = _make(todo, planned, asked, chosen, more) if todo else None
    for plan in (chosen.plans[name] for name in dict.fromkeys(run.campaign for run in [*planned, *todo])):
        twin = asked.twin or plan.twin
        with suppress(UserError):  # it has no rows yet
            text = closing_table(plan.name, twin, asked.metric, asked.results, asked.seeds, at_any_rate=True)
            print(f"\n{plan.name}\n\n{text}", flush=True)
    if crew is not None:
        crew.refuse_failed(len(todo))


def _make(todo: list[Run], planned: list[Run], asked: argparse.Namespace, chosen: Selection, more: list[str]) -> Crew:
    """Make these runs, and return the crew that did."""
    from spikesparse.commands.campaign.crew import Crew
    from spikesparse.commands.campaign.making import Limits

    limits = Limits(time.monotonic() + asked.budget)
    kept = chosen.anew if asked.keep else set()
    crew = Crew(_queue(todo, asked, chosen, more), limits, asked.workers, chosen.anew, kept)
    try:
        crew.work()
    finally:
        print(f"{rows_there(planned, missing(planned, asked.results))}; --list names them", flush=True)
    return crew


def _say_commands(todo: list[Run], asked: argparse.Namespace, chosen: Selection, more: list[str]) -> None:
    queue = _queue(todo, asked, chosen, more)
    for run in todo:
        words = shlex.join(["spikesparse", *queue.command(run)])
        print(f"{run.name}: {f'early exits of {run.exits_of} at {run.target:g} {run.by}' if run.exits_of else words}")


def _queue(todo: list[Run], asked: argparse.Namespace, chosen: Selection, more: list[str]) -> Queue:
    from spikesparse.commands.campaign.queue import Queue

    data = ["--data.source=npz", f"--data.data_dir={asked.npz}"] if asked.npz else []
    return Queue(todo, chosen.anew, chosen.runs, asked.results, (data, more))


def those_for_here(runs: list[Run], by_name: Container[str]) -> list[Run]:
    """Leave out runs for CUDA where there is no GPU, unless their campaign was named; print either case."""
    made_for_cuda = [run for run in runs if run.cuda]
    if not made_for_cuda:
        return runs
    import torch

    if torch.cuda.is_available():
        return runs
    asked_for = dict.fromkeys(run.campaign for run in made_for_cuda if run.campaign in by_name)
    if asked_for:
        print(f"=== {', '.join(asked_for)}: made for CUDA; without it, hours to days a run", flush=True)
    left_out = [run for run in made_for_cuda if run.campaign not in by_name]
    if left_out:
        names = ", ".join(dict.fromkeys(run.campaign for run in left_out))
        said = f"{len(left_out)} of {names}; their names, or --only, make them all the same"
        print(f"=== left out, there being no CUDA device: {said}", flush=True)
    return [run for run in runs if run not in left_out]


def rows_there(planned: list[Run], lacking: list[Run]) -> str:
    """How many rows there are, and how many of those that lack wait for a CUDA device."""
    for_cuda = sum(run.cuda for run in lacking)
    waiting = f", {for_cuda} of those missing are made for CUDA" if for_cuda else ""
    return f"{len(planned) - len(lacking)} of {len(planned)} rows are there{waiting}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="spikesparse campaign",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add(
        "plan",
        nargs="*",
        metavar="PLAN",
        help="a YAML file, the name of one in configs/campaign, here or shipped, or all; PLAN/RECIPE/SEED is a run to "
        "make anew",
    )
    add("--list", action="store_true", help="only say what rows there are and what is missing")
    add("--dry-run", action="store_true", help="only say what would be run")
    add("--table-only", action="store_true", help="only print the table of the rows that are there")
    add("--only", metavar="TEXT", default="", help="only runs whose name has this in it")
    add("--seeds", type=int, nargs="+", metavar="SEED", help="only runs and rows under these seeds (default: all)")
    add("--budget", type=seconds, default=float("inf"), metavar="TIME", help="stop after that long: 90s, 8m, 1.5h")
    add("--workers", type=int, default=1, help="runs at once, which share the cores (default: %(default)s)")
    add("--npz", metavar="FILE", help="CIFAR-10 as one file, in place of torchvision's download")
    add("--results", type=Path, default=Path("results"), metavar="DIR", help="of the rows (default: %(default)s)")
    add("--keep", action="store_true", help="put a row that was made anew in the kept one's place")
    add("--twin", help="a recipe, or <campaign>/<recipe> of another campaign (default: the plan's)")
    add("--metric", default="spikes_per_image", choices=list(METRICS), help="of the table (default: %(default)s)")
    add("--missing", action="store_true", help=argparse.SUPPRESS)  # what it does by itself; reproduce.py had to be told
    return parser
