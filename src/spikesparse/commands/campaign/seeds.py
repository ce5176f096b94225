"""``spikesparse train --seeds 5``: one recipe over seeds, with the code that runs a campaign."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from pathlib import Path

from spikesparse.commands.campaign.closing import closing_table
from spikesparse.commands.campaign.crew import Crew
from spikesparse.commands.campaign.making import Limits
from spikesparse.commands.campaign.plan import Plan, Run
from spikesparse.commands.campaign.queue import Queue
from spikesparse.errors import UserError
from spikesparse.settings.command_line import CommandLine


def over_seeds(name: str, args: list[str], recipes: Callable[[list[str]], dict[str, list[str]]]) -> None:
    """Train recipes under each seed, and print their means and intervals, or what they come to beside their twin.

    Each is ``spikesparse train``, so a run that is finished is not made again. Rows are kept in
    <results>/<run's name>_<name>.csv.

    Args:
        name: "seeds" or "compare".
        args: a command line of ``train`` with ``--seeds``, and ``--workers`` and ``--results`` of a campaign.
        recipes: the flags of each recipe, from those flags of the command line that are training's.

    Raises:
        UserError: for seeds that are none, or if a run failed.
    """
    asked, rest = _parser().parse_known_args(args)
    seeds = _seeds(asked.seeds)
    if CommandLine(rest).value("--seed_everything") is not None:
        raise UserError("--seeds and --seed_everything: name the seeds by one of them.")
    if asked.workers < 1:
        raise UserError(f"--workers={asked.workers}: it must be 1 or more.")
    fresh, rest = "--fresh" in rest, [arg for arg in rest if arg != "--fresh"]
    campaign = f"{CommandLine(rest).run_name()}_{name}"
    flags = recipes(rest)
    plan = Plan(
        campaign,
        tuple(
            Run(campaign, recipe, seed, ("train", *words, f"--seed_everything={seed}"))
            for seed in seeds
            for recipe, words in flags.items()
        ),
    )
    names = {run.name for run in plan.runs}
    queue = Queue(plan.runs, names, plan.runs, asked.results, ([], []))
    crew = Crew(queue, Limits(), asked.workers, fresh=names if fresh else set(), kept=names)
    crew.work()
    if crew.made:
        print(f"\n{asked.results}/{campaign}.csv\n")
        print(closing_table(campaign, None, "spikes_per_image", asked.results, seeds, at_any_rate=True), flush=True)
    crew.refuse_failed(len(plan.runs))


def _seeds(text: str) -> list[int]:
    """Seeds 0 to N - 1 of a number N, or those of a list.

    >>> _seeds("3"), _seeds("4,7")
    ([0, 1, 2], [4, 7])
    """
    if re.fullmatch(r"\d{1,4}", text) and int(text):
        return list(range(int(text)))
    if re.fullmatch(r"\d{1,9}(,\d{1,9})+", text) and len(set(text.split(","))) == len(text.split(",")):
        return [int(seed) for seed in text.split(",")]
    raise UserError(f"--seeds={text}: a number of seeds, as 5 for 0 to 4, or several of them, as 3,4.")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--seeds", nargs="?", default="", const="")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--results", type=Path, default=Path("results"))
    return parser
