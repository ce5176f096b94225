"""What a plan may say: everything else is refused in one line that names the file."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, NoReturn

from spikesparse.errors import UserError, did_you_mean

KEYS = ("about", "config", "flags", "shared", "seeds", "twin", "recipes", "once", "cuda")
EXIT_KEYS = ("exits_of", "target", "by", "measure")
COUNTED = ("spikes", "synops")
MEASURES = ("probability", "margin")


def flat(flags: Any) -> list[str]:
    """A recipe's flags: those that several share are a list within it, to any depth, by YAML anchors."""
    return [flag for part in flags for flag in flat(part)] if isinstance(flags, list) else [flags]


def names_in(flags: Iterable[str]) -> list[str]:
    """The recipes whose checkpoints flags ask for: ``{twin}`` is the best one of ``twin``.

    >>> names_in(["--budget.baseline={twin}", "--model.init_from={long_twin}", "--data.timesteps=2"])
    ['long_twin', 'twin']
    """
    return sorted({name for flag in flags for name in re.findall(r"\{(\w+)\}", flag)})


def check_plan(settings: Any, where: str, name: str) -> None:
    """Refuse what is no plan.

    Args:
        settings: what its file holds.
        where: what to call the file in an error.
        name: of the campaign.

    Raises:
        UserError: for an unknown key, a value of another type than its own, or a recipe that needs one which is not
            there, is run less often, stands below it or needs it.
    """
    if not isinstance(settings, dict):
        raise UserError(f"{where}: no plan: it holds no mapping with {', '.join(KEYS)}.")
    several = [str(key) for key, value in settings.items() if isinstance(value, dict) and "recipes" in value]
    if several:
        raise UserError(f"{where}: a plan is one campaign: give each of {', '.join(several)} a file of its own.")
    _check_keys(settings, KEYS, where)
    for key in ("config", "seeds", "recipes"):
        if not settings.get(key):
            raise UserError(f"{where}: {key} is missing: a plan needs config, seeds and recipes.")
    _check_values(settings, where)
    recipes, once = settings["recipes"], settings.get("once") or {}
    if both := recipes.keys() & once.keys():
        raise UserError(f"{where}: {', '.join(sorted(both))}: in recipes and in once; give one another name.")
    for recipe, flags in (recipes | once).items():
        _check_recipe(recipe, flags, where)
    twin = settings.get("twin")
    if twin is not None and "/" not in twin and twin not in recipes:
        _unknown_recipe(f"{where}: twin", twin, recipes)
    _check_needs(recipes, once, where, f"{name}/{{}}/{settings['seeds'][0]}")


def _check_keys(given: dict[Any, Any], known: tuple[str, ...], where: str) -> None:
    for key in given:
        if key not in known:
            raise UserError(f"{where}: {key}: unknown.{did_you_mean(str(key), known)} There are: {', '.join(known)}.")


def _check_values(settings: dict[str, Any], where: str) -> None:
    for key in ("about", "config", "twin"):
        if settings.get(key) is not None and not isinstance(settings[key], str):
            raise UserError(f"{where}: {key}: {settings[key]!r} is no text.")
    seeds = settings["seeds"]
    if not isinstance(seeds, list) or not all(type(seed) is int and seed >= 0 for seed in seeds):
        raise UserError(f"{where}: seeds: {seeds!r} is no list of whole numbers from 0, such as [0, 1, 2].")
    if len(set(seeds)) < len(seeds):
        raise UserError(f"{where}: seeds: {seeds!r} names a seed twice.")
    for key in ("recipes", "once"):
        if not isinstance(settings.get(key) or {}, dict):
            raise UserError(f"{where}: {key}: no mapping of a name to flags, such as `twin: [--sparsity.end_value=0]`.")
    if not isinstance(settings.get("cuda", False), bool):
        raise UserError(f"{where}: cuda: {settings['cuda']!r} is neither true nor false.")
    _check_flags(settings.get("flags") or [], f"{where}: flags")


def _check_recipe(recipe: Any, flags: Any, where: str) -> None:
    if not isinstance(recipe, str) or not re.fullmatch(r"\w+", recipe):
        raise UserError(f"{where}: recipe {recipe!r}: a name is a text of letters, digits and _.")
    where = f"{where}: {recipe}"
    if not isinstance(flags, dict):
        _check_flags(flags, where)
        return
    _check_keys(flags, EXIT_KEYS, where)
    if not isinstance(flags.get("exits_of"), str):
        raise UserError(f"{where}: exits_of is missing: the recipe whose network it takes.")
    target = flags.get("target")
    if isinstance(target, bool) or not isinstance(target, int | float) or not 0 < target < float("inf"):
        raise UserError(
            f"{where}: target: {target!r} is no number above 0 of what an image may spend, as 9400 and 5.9e+7 are."
        )
    for key, known in (("by", COUNTED), ("measure", MEASURES)):
        if flags.get(key, known[0]) not in known:
            raise UserError(f"{where}: {key}: {flags[key]!r} is none of {', '.join(known)}.")


def _check_flags(flags: Any, where: str) -> None:
    if not isinstance(flags, list):
        raise UserError(f"{where}: {flags!r} is no list of flags, such as [--sparsity.end_value=0], or [] for none.")
    for flag in flat(flags):
        if not isinstance(flag, str):
            raise UserError(f"{where}: {flag!r} is no flag: write --name=value, quoted if it holds braces or a colon.")
        if flag.split("=")[0] in ("--seed_everything", "--seeds"):
            raise UserError(f"{where}: {flag}: the seeds of a campaign are its `seeds`.")


def _check_needs(recipes: dict[str, Any], once: dict[str, Any], where: str, named: str) -> None:
    """That what a recipe takes the checkpoint of is made before it, under each of its seeds."""
    every = recipes | once
    needs = {
        recipe: [flags["exits_of"]] if isinstance(flags, dict) else names_in(flat(flags))
        for recipe, flags in every.items()
    }
    above: set[str] = set()
    for recipe, wanted in needs.items():
        for other in wanted:
            said = f"{where}: {named.format(recipe)} needs {other}"
            if other not in every:
                _unknown_recipe(said, other, every)
            if circle := _way(other, recipe, needs):
                raise UserError(f"{said}: a circle, {' needs '.join([recipe, *circle])}.")
            if other in once and recipe in recipes:
                raise UserError(f"{said}, which is run once, under the first seed: put it among `recipes`.")
            if other not in above:
                raise UserError(f"{said}, which must stand above it.")
            if isinstance(every[other], dict):
                raise UserError(f"{said}, which trains nothing: name the recipe of that network, {needs[other][0]}.")
        above.add(recipe)


def _way(start: str, end: str, needs: dict[str, list[str]], seen: tuple[str, ...] = ()) -> list[str]:
    """Recipes from one to another, each needing the next; empty if there is no such way."""
    if start == end:
        return [end]
    for other in needs.get(start, []):
        if other not in seen and (rest := _way(other, end, needs, (*seen, start))):
            return [start, *rest]
    return []


def _unknown_recipe(said: str, name: str, known: Iterable[str]) -> NoReturn:
    known = list(known)
    near = did_you_mean(name, known)
    raise UserError(f"{said}: there is no recipe {name}.{near} There are: {', '.join(known)}.")
