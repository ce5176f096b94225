"""Which plans and runs a command line names."""

from __future__ import annotations

from collections.abc import Container, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from spikesparse.commands.campaign.lookup import all_plans, find_plan, plan_path
from spikesparse.commands.campaign.plan import Plan, Run, read_plan, with_configs
from spikesparse.errors import UserError, did_you_mean
from spikesparse.files.paths import CONFIGS
from spikesparse.settings.class_paths import FLAG, split_allowed

ALL = "all"


@dataclass
class Selection:
    """Which runs of which plans to make.

    Attributes:
        plans: by name.
        whole: the names of those that were named themselves, not only runs of them.
        anew: the names of the runs that were named.
        unnamed: the names of the plans that come with all others.
    """

    plans: dict[str, Plan] = field(default_factory=dict)
    whole: set[str] = field(default_factory=set)
    anew: set[str] = field(default_factory=set)
    unnamed: set[str] = field(default_factory=set)

    @property
    def runs(self) -> list[Run]:
        """All runs of the plans, in their order."""
        return [run for plan in self.plans.values() for run in plan.runs]

    def planned(self, only: str, seeds: list[int] | None) -> list[Run]:
        """The runs whose name has this in it, under these seeds (all).

        Raises:
            UserError: if there is none.
        """
        planned = [run for run in self.runs if only in run.name and (seeds is None or run.seed in seeds)]
        if seeds is not None and (other := set(seeds) - {run.seed for run in self.runs}):
            raise UserError(f"--seeds {min(other)}: of no plan that is named; --list names all runs.")
        if not planned:
            raise UserError(f"--only={only}: no run of the plan has that in its name; --list names all.")
        return planned


def select(words: list[str], allowed: Container[str] = ()) -> Selection:
    """Read plans that are named by file or name, all of them, or runs: <plan>/<recipe>/<seed>.

    Args:
        words: of the command line.
        allowed: what the user's own ``--allow-import`` names.

    Raises:
        UserError: for a plan or a run that is not there, two plans of one name, or one that lets in what the user does
            not.
    """
    selection = Selection()
    paths: dict[str, Path] = {}
    by_name: set[str] = set()
    for path, run, named in _paths(words):
        if (other := paths.setdefault(path.stem, path)).resolve() != path.resolve():
            raise UserError(f"{other} and {path}: two plans of one name, whose rows would mix; rename one.")
        if path.stem not in selection.plans:
            selection.plans[path.stem] = with_configs(read_plan(path), path)
            _check_imports(selection.plans[path.stem], path, allowed)
        plan = selection.plans[path.stem]
        if run:
            name, known = f"{plan.name}/{run}", [each.name for each in plan.runs]
            if name not in known:
                raise UserError(f"{name}: not in the plan.{did_you_mean(name, known)} --list names all runs.")
            selection.anew.add(name)
            continue
        selection.whole.add(plan.name)
        by_name |= {plan.name} if named else set()
    selection.unnamed = selection.whole - by_name
    return selection


def _check_imports(plan: Plan, path: Path, allowed: Container[str]) -> None:
    """Importing runs code, and a plan may be a stranger's: only one that is shipped may allow it by itself."""
    if path.resolve().parent == (CONFIGS / "campaign").resolve():
        return
    for run in plan.runs:
        for prefix in split_allowed(list(run.arguments))[1]:
            if prefix not in allowed:
                raise UserError(
                    f"{path}: {run.recipe}: {FLAG}={prefix}: a plan cannot allow that by itself. If you trust it, add "
                    f"{FLAG} {prefix} to the command."
                )


def _paths(words: list[str]) -> Iterator[tuple[Path, str, bool]]:
    """(file of a plan, recipe/seed or "", whether it was named itself) of every word."""
    for word in words:
        if (path := plan_path(word)) is not None:
            yield path, "", True
        elif word == ALL:
            yield from ((path, "", False) for path in all_plans())
        elif word.count("/") >= 2:
            plan, recipe, seed = word.rsplit("/", 2)
            yield find_plan(plan), f"{recipe}/{seed}", True
        else:
            yield find_plan(word), "", True
