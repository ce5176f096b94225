"""Reading the test set, once for each point of the front, and only if asked for."""

from __future__ import annotations

import json
from pathlib import Path

from optuna.study import Study

from spikesparse.commands.pareto.front import tested_key
from spikesparse.commands.pareto.plan import Plan
from spikesparse.commands.pareto.trial import LOG, run_to_log
from spikesparse.errors import UserError
from spikesparse.files.locks import FileLock
from spikesparse.files.run_folder import trainer_settings
from spikesparse.settings.class_paths import allow_flags
from spikesparse.settings.command_line import CommandLine


def test_front(study: Study, plan: Plan) -> None:
    """Test the checkpoint of each point of the front that has not been tested yet; the study keeps the results.

    Raises:
        UserError: if testing a checkpoint fails.
    """
    for trial in study.best_trials:
        if tested_key(trial.number) in study.user_attrs:
            continue
        checkpoint = plan.folder / trial.user_attrs["result"]["checkpoint"]
        folder = plan.folder / trial.user_attrs["folder"]
        command = [
            "test",
            f"--ckpt_path={checkpoint}",
            *_as_trained(checkpoint.parents[1]),
            *allow_flags(CommandLine(plan.args).allowed),
        ]
        with FileLock(folder / "lock") as lock:
            if run_to_log(command, folder / LOG, lock):
                raise UserError(f"--test: testing {checkpoint} failed; see {folder / LOG}.")
        result = json.loads((checkpoint.parents[1] / "result.json").read_text())
        kept = {f"{name}_test": result[name] for name in ("accuracy", "spikes", "synops", "energy_uj")}
        study.set_user_attr(tested_key(trial.number), kept)
        print(f"trial {trial.number}: test accuracy {result['accuracy']:.2%}", flush=True)


def _as_trained(run: Path) -> list[str]:
    """Flags for the accelerator and the precision of a run's training, wherever they were set."""
    trainer = trainer_settings(run)
    given = {name: trainer[name] for name in ("accelerator", "precision") if trainer.get(name) is not None}
    return [
        f"--trainer.{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in given.items()
    ]
