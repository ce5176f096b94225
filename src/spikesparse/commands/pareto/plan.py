"""What a study is about: the experiment, what is searched, and where it is kept."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spikesparse.commands.cli import SpikeCLI
from spikesparse.commands.pareto.space import BUDGET, LAMBDA, RAMP, Space
from spikesparse.errors import UserError
from spikesparse.settings.command_line import CommandLine
from spikesparse.settings.plain import BUDGETS

OBJECTIVES = ("synops", "spikes")


@dataclass(frozen=True)
class Plan:
    """A study, as its workers see it.

    Attributes:
        name: of the study.
        folder: what trials write, and the tables at the end.
        args: flags of every trial's training, as the user gave them.
        space: what is searched.
        objective: "synops" or "spikes": what is to be small beside a large accuracy.
        trials: finished trials that the study is to have.
        epochs: of the twin's training, and of a trial's that draws none.
        seed: of the search, of the twin's training, and of a trial's that draws none.
        cifar10: whether the images are CIFAR-10's, as far as the settings tell.
    """

    name: str
    folder: Path
    args: list[str]
    space: Space
    objective: str
    trials: int
    epochs: int
    seed: int
    cifar10: bool

    def identity(self) -> dict[str, Any]:
        """What must be the same whenever the study is resumed, as plain values."""
        return {
            "args": CommandLine(self.args).without_allowed.without_shown(),
            "configs": CommandLine(self.args).config_digest(),
            "files": CommandLine(self.args).file_digests(),
            "objective": self.objective,
            "space": self.space.description(),
        }


def make_plan(name: str, folder: Path, args: list[str], space: Space, objective: str, trials: int) -> Plan:
    """A plan, from the settings that ``args`` lead to.

    Raises:
        UserError: for flags that a study cannot have, or has settled otherwise.
        argparse.ArgumentError: for flags or values that ``fit`` does not know.
    """
    for flag in (arg.split("=", 1)[0] for arg in args):
        if flag in ("--ckpt_path", "--print_config") or flag.startswith("--trainer.logger"):
            raise UserError(f"{flag}: a study sets this itself.")
        searched = {f"--{RAMP.get(drawn, drawn)}" for drawn in space.drawn}
        if flag in searched:
            raise UserError(f"{flag}: the search sets this (--space); leave it out, or search a space without it.")
    if CommandLine(["fit", *args]).asks_for_budget() and BUDGET not in space.drawn:
        raise UserError(
            f"--budget: under the experiment's budget {LAMBDA}, which the search draws, is not read. Draw {BUDGET} in "
            f"its place (--space), or switch the budget off: {' '.join(f'--budget.{name}=null' for name in BUDGETS)}"
        )
    config = _parsed([*args, *space.twin_flags(2)])  # without a point, which may draw other epochs, or another seed
    _parsed([*args, *_any_point(space)])
    epochs = config.trainer.max_epochs
    if not epochs or epochs < 1:
        raise UserError(f"--trainer.max_epochs={epochs}: a search needs training runs that end.")
    seed = config.seed_everything if isinstance(config.seed_everything, int) else 0
    cifar10 = is_cifar10(config.data.source, config.data.data_dir)
    return Plan(name, folder, args, space, objective, trials, epochs, seed, cifar10)


def is_cifar10(source: str, data_dir: str) -> bool:
    """Whether images are CIFAR-10's: by their source or, where that is a file or folder of any images, by its name."""
    if source in ("npz", "folder"):
        return re.search(r"cifar-?10(?!\d)", Path(data_dir).name, re.IGNORECASE) is not None
    return source == "cifar10"


def _any_point(space: Space) -> list[str]:
    """A point of the space, so that a mistyped flag in it is seen before anything is trained."""
    return space.flags({name: of.to_external_repr(_inner(of)) for name, of in space.drawn.items()}, 2)


def _inner(of: Any) -> float:
    return float(getattr(of, "low", 0))  # of choices, the first


class _Parsed(Exception):
    """Carries the settings out of the command line before anything is built from them."""


class _Parser(SpikeCLI):
    def before_instantiate_classes(self) -> None:
        raise _Parsed(self.config["fit"])


def _parsed(args: list[str]) -> Any:
    logging.getLogger("lightning_fabric.utilities.seed").setLevel(logging.WARNING)  # no run begins here
    try:
        _Parser(["fit", *args])
    except _Parsed as parsed:
        return parsed.args[0]
    raise AssertionError("the command line is read before anything is built")
