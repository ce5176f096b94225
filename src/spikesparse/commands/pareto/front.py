"""The tables of a study: every trial, and those that no other beats."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from spikesparse.commands.pareto.plan import Plan
from spikesparse.commands.pareto.study import origin
from spikesparse.files.whole_files import replace_file

FRONT, TRIALS, FIGURE = "front.csv", "trials.csv", "front.png"
_MEASURED = ("accuracy_val", "spikes", "synops", "first_layer_synops", "first_layer_macs", "energy_uj")
_TESTED = ("accuracy_test", "spikes_test", "synops_test", "energy_uj_test")
_ORIGIN = ("minutes", "hardware", "threads", "torch", "commit")


def rows(study: Study, plan: Plan) -> list[dict[str, Any]]:
    """A row for each trial that began, by number; counts per image, on validation, of the checkpoint chosen on it."""
    trials = [trial for trial in study.get_trials(deepcopy=False) if trial.state != TrialState.WAITING]
    front = {trial.number for trial in study.best_trials}
    later = {origin(trial): trial.number for trial in trials if origin(trial) != trial.number}
    return [_row(trial, trial.number in front, later.get(origin(trial)), study, plan) for trial in trials]


def _row(trial: FrozenTrial, on_front: bool, latest: int | None, study: Study, plan: Plan) -> dict[str, Any]:
    result = trial.user_attrs.get("result", {}) if trial.state == TrialState.COMPLETE else {}
    tested = study.user_attrs.get(tested_key(trial.number), {})
    twin = bool(trial.user_attrs.get("twin"))
    note = trial.user_attrs.get("failed", "")
    if trial.state == TrialState.FAIL and not note:
        what = "stopped" if trial.user_attrs.get("stopped") else "its worker was lost"
        note = f"{what}; {f'goes on as trial {latest}' if latest and latest > trial.number else 'given up'}"
    took_up = origin(trial)
    return {
        "trial": trial.number,
        "state": trial.state.name.lower(),
        "on_front": "yes" if on_front else "no",
        "twin": "yes" if twin else "no",
        **{name: trial.params.get(name, "") for name in plan.space.drawn},
        **{name: result.get(name, "") for name in _MEASURED},
        **{name: tested.get(name, "") for name in _TESTED},
        "checkpoint": str(plan.folder / result["checkpoint"]) if result else "",
        "took_up_trial": took_up if took_up != trial.number else "",
        "epochs_before": result.get("first_epoch", ""),  # done by then, by the worker that was lost
        "seed": plan.seed,
        **{name: result.get(name, "") for name in _ORIGIN},
        "command": " ".join(["spikesparse fit", *plan.args, *result["flags"]]) if result else "",
        "note": note,
    }


def write_tables(table: list[dict[str, Any]], folder: Path) -> None:
    """Write trials.csv, and front.csv by rising accuracy."""
    front = sorted((row for row in table if row["on_front"] == "yes"), key=lambda row: float(row["accuracy_val"]))
    for name, part in ((TRIALS, table), (FRONT, front)):
        text = io.StringIO()
        writer = csv.DictWriter(text, list(table[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(part)
        replace_file(folder / name, text.getvalue())


def tested_key(number: int) -> str:
    """Under what the study keeps a trial's result on the test set: a finished trial takes no more."""
    return f"tested {number}"
