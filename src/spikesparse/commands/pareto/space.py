"""The search space: a YAML file that says what is drawn for which flag."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import Trial

from spikesparse.errors import UserError
from spikesparse.files.paths import CONFIGS
from spikesparse.files.safe_yaml import read_yaml
from spikesparse.settings.class_paths import FLAG
from spikesparse.settings.plain import BUDGETS

DEFAULT = CONFIGS / "search" / "default.yaml"
LAMBDA, BUDGET = "sparsity.end_value", "budget.target"  # how sparse; the other way round, by what may be spent
EPOCHS = "trainer.max_epochs"
#: Shares of ``--trainer.max_epochs``, so that one space serves runs of any length -> the flags that they become.
RAMP = {"ramp.start": "sparsity.start_epoch", "ramp.end": "sparsity.end_epoch"}


@dataclass(frozen=True)
class Space:
    """A search space.

    Attributes:
        drawn: flag without its dashes, or one of :data:`RAMP` -> what is drawn for it.
        first: points to try first; what one leaves out is drawn.
    """

    drawn: dict[str, BaseDistribution]
    first: list[dict[str, Any]]

    def description(self) -> dict[str, Any]:
        """The space as plain values, to tell one from another."""
        return {"drawn": {name: repr(of) for name, of in self.drawn.items()}, "first": self.first}

    def draw(self, trial: Trial) -> dict[str, Any]:
        """A point: flag without its dashes -> value. A trial that has them already, being taken up, keeps its own."""
        values: dict[str, Any] = {}
        for name, of in self.drawn.items():
            if isinstance(of, FloatDistribution):
                values[name] = trial.suggest_float(name, of.low, of.high, log=of.log)
            elif isinstance(of, IntDistribution):
                values[name] = trial.suggest_int(name, of.low, of.high, log=of.log)
            elif isinstance(of, CategoricalDistribution):
                values[name] = trial.suggest_categorical(name, of.choices)
        return values

    def flags(self, values: dict[str, Any], epochs: int) -> list[str]:
        """The command line of a point.

        Args:
            values: flag without its dashes -> value.
            epochs: of a training run whose point does not say so itself.
        """
        epochs = values.get(EPOCHS, epochs)
        plain = {name: value for name, value in values.items() if name not in RAMP}
        start = math.floor(values.get("ramp.start", 0.0) * epochs)
        if "ramp.start" in values:
            plain[RAMP["ramp.start"]] = start
        if "ramp.end" in values:  # at the latest in the last epoch: the best checkpoint is chosen from here on
            plain[RAMP["ramp.end"]] = min(epochs - 1, max(start, round(values["ramp.end"] * epochs)))
        return [f"--{name}={_text(value)}" for name, value in plain.items()]

    def twin_flags(self, epochs: int) -> list[str]:
        """The command line of the accuracy-only twin: lambda 0 and no budget, everything else as the experiment has it.

        Its best checkpoint is chosen among as many epochs as that of any point may be.
        """
        shares = {name: of.low for name in RAMP if isinstance(of := self.drawn.get(name), FloatDistribution)}
        off = [f"--budget.{name}=null" for name in BUDGETS] if BUDGET in self.drawn else []
        return ["--sparsity.start_value=0", f"--{LAMBDA}=0", *off, *self.flags(shares, epochs)]


def read_space(path: Path) -> Space:
    """Read a search space.

    Raises:
        UserError: naming the file, the entry and what is wrong with it.
    """
    whole = read_yaml(path, f"--space={path}")
    if not isinstance(whole, dict) or not isinstance(whole.get("search"), dict) or set(whole) - {"search", "first"}:
        raise UserError(f"--space={path}: it needs `search:` with a flag in each line, and may have `first:`, no more.")
    drawn = {name: _distribution(name, entry, path) for name, entry in whole["search"].items()}
    if (LAMBDA in drawn) == (BUDGET in drawn):
        raise UserError(
            f"--space={path}: either {LAMBDA}, the weight of the sparsity penalty, or {BUDGET}, what may be spent, "
            "must be among what is drawn."
        )
    if any(str(name).startswith(FLAG.removeprefix("--")) for name in drawn):
        raise UserError(f"--space={path}: {FLAG} stands on your own command line only.")
    for name in RAMP:
        share = drawn.get(name)
        if share is not None and not (isinstance(share, FloatDistribution) and 0 <= share.low <= share.high <= 1):
            raise UserError(f"--space={path}: {name} is a share of the epochs: give low and high between 0.0 and 1.0.")
    if not _are_counts(drawn.get(EPOCHS)):
        raise UserError(f"--space={path}: {EPOCHS}: give whole numbers of at least 1: a search needs runs that end.")
    first = whole.get("first") or []
    for point in first:
        _check_point(point, drawn, path)
    return Space(drawn, first)


def _distribution(name: str, entry: Any, path: Path) -> BaseDistribution:
    where = f"--space={path}: {name}"
    if not isinstance(entry, dict) or not (set(entry) == {"choices"} or {"low", "high"} <= set(entry)):
        raise UserError(f"{where}: {entry!r} must be {{low: ..., high: ..., log: true}} or {{choices: [...]}}.")
    if "choices" in entry:
        choices = entry["choices"]
        if not isinstance(choices, list) or not choices or any(isinstance(choice, list | dict) for choice in choices):
            raise UserError(f"{where}: choices must be a list of at least one plain value.")
        return CategoricalDistribution(choices)
    low, high, log = entry["low"], entry["high"], entry.get("log", False)
    unknown = set(entry) - {"low", "high", "log"}
    for value in (low, high):  # YAML takes 1e-3 for a word
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise UserError(f"{where}: {value!r} is no number (write 0.001, not 1e-3).")
    if unknown or not isinstance(log, bool) or low > high or (log and low <= 0):
        raise UserError(f"{where}: needs low <= high and, if log is true, low > 0; {entry!r} has something else.")
    if isinstance(low, int) and isinstance(high, int):
        return IntDistribution(low, high, log=log)
    return FloatDistribution(low, high, log=log)


def _are_counts(of: BaseDistribution | None) -> bool:
    values = of.choices if isinstance(of, CategoricalDistribution) else (getattr(of, "low", 1),)
    return all(type(value) is int and value >= 1 for value in values)


def _check_point(point: Any, drawn: dict[str, BaseDistribution], path: Path) -> None:
    for name, value in point.items() if isinstance(point, dict) else [(str(point), None)]:
        if not _holds(drawn.get(name), value):
            raise UserError(f"--space={path}: first: {name}={value!r} is not in what is searched.")


def _holds(of: BaseDistribution | None, value: Any) -> bool:
    if isinstance(of, CategoricalDistribution):
        return value in of.choices
    if isinstance(of, FloatDistribution | IntDistribution) and isinstance(value, int | float):
        return of.low <= value <= of.high and (isinstance(of, FloatDistribution) or isinstance(value, int))
    return False


def _text(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)
