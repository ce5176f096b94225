"""A campaign's plan: its runs, in the order in which to make them."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from spikesparse.commands.campaign.check import check_plan, flat, names_in
from spikesparse.commands.campaign.lookup import find_config
from spikesparse.errors import UserError
from spikesparse.files.safe_yaml import read_yaml


@dataclass(frozen=True)
class Run:
    """One row to be: a recipe of a campaign under a seed.

    Attributes:
        campaign: its name; results/<campaign>.csv holds its rows.
        recipe: its name.
        seed: of everything.
        arguments: of ``spikesparse``, without the data's and without checkpoints of other runs filled in.
        exits_of: a recipe whose network it takes, untrained any further, with the early exits that its validation split
            gives; ``arguments`` are that recipe's then.
        target: spikes, or what ``by`` says, per image that these exits may spend.
        by: "spikes" or "synops".
        measure: of the confidence at these exits, "probability" or "margin".
        cuda: made for a CUDA device: on a CPU it would take days.
    """

    campaign: str
    recipe: str
    seed: int
    arguments: tuple[str, ...]
    exits_of: str = ""
    target: float = 0.0
    by: str = "spikes"
    measure: str = "probability"
    cuda: bool = False

    @property
    def name(self) -> str:
        """As the command line of ``spikesparse campaign`` takes it."""
        return f"{self.campaign}/{self.recipe}/{self.seed}"

    @property
    def needs(self) -> list[str]:
        """The recipes whose checkpoints it takes, starts or learns from."""
        return [self.exits_of] if self.exits_of else names_in(list(self.arguments))


@dataclass(frozen=True)
class Plan:
    """A campaign.

    Attributes:
        name: the name of its file, and of its rows': results/<name>.csv.
        runs: seed by seed, recipe by recipe.
        twin: the recipe that the others are compared with, or <campaign>/<recipe> of another; None if there is none.
        about: what it is about, in a line.
    """

    name: str
    runs: tuple[Run, ...]
    twin: str | None = None
    about: str = ""


def read_plan(path: Path) -> Plan:
    """The plan in a YAML file: its ``recipes`` under each of its seeds, those of ``once`` under the first alone.

    Raises:
        UserError: naming the file, if it is no plan; see :func:`spikesparse.commands.campaign.check.check_plan`.
    """
    settings, name = read_yaml(path, str(path)), path.stem
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise UserError(f"{path}: a campaign is called as its file is, in letters, digits, _, - and dots: rename it.")
    check_plan(settings, str(path), name)
    runs: list[Run] = []
    for seed in settings["seeds"]:
        once = settings.get("once") or {} if seed == settings["seeds"][0] else {}
        known: dict[str, Run] = {}
        for recipe, flags in (settings["recipes"] | once).items():
            known[recipe] = _run(name, recipe, seed, flags, settings, known)
        runs += known.values()
    twin = settings.get("twin") or ("twin" if "twin" in settings["recipes"] else None)
    return Plan(name, tuple(runs), twin, settings.get("about") or "")


def _run(name: str, recipe: str, seed: int, flags: Any, settings: dict[str, Any], known: dict[str, Run]) -> Run:
    cuda = settings.get("cuda", False)
    if isinstance(flags, dict):
        flags = {**flags, "target": float(flags["target"])}
        return Run(name, recipe, seed, known[flags["exits_of"]].arguments, **flags, cuda=cuda)
    config, flags = settings["config"], flat(flags)
    if flags and not flags[0].startswith("-"):  # a recipe with a configuration of its own
        config, flags = flags[0], flags[1:]
    words = ("train", "--config", config, *flat(settings.get("flags") or []), *flags, f"--seed_everything={seed}")
    return Run(name, recipe, seed, words, cuda=cuda)


def with_configs(plan: Plan, path: Path) -> Plan:
    """The plan with its configurations found, beside it or among those of the package.

    Raises:
        UserError: for one that is nowhere.
    """
    found = {text: find_config(text, path) for text in dict.fromkeys(run.arguments[2] for run in plan.runs)}
    words = ((*run.arguments[:2], found[run.arguments[2]], *run.arguments[3:]) for run in plan.runs)
    runs = tuple(replace(run, arguments=each) for run, each in zip(plan.runs, words, strict=True))
    return replace(plan, runs=runs)
