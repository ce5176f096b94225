"""The end of a study: its tables, its figure, and where the checkpoints are."""

from __future__ import annotations

from optuna.study import Study

from spikesparse.commands.pareto.figure import write_figure
from spikesparse.commands.pareto.front import FIGURE, FRONT, TRIALS, rows, write_tables
from spikesparse.commands.pareto.plan import Plan
from spikesparse.commands.pareto.testing import test_front
from spikesparse.files.closing import Closing
from spikesparse.files.locks import FileLock


def close(study: Study, plan: Plan, test: bool) -> None:
    """Write what the study found; test the front if asked for.

    Args:
        study: that is complete.
        plan: what it was about.
        test: whether the points of the front are tested.
    """
    with FileLock(plan.folder / "close.lock"):  # workers that end together must not both test
        table = rows(study, plan)
        closing = Closing()
        with closing.part(f"{plan.folder}/{TRIALS} and {FRONT}", result=True):
            write_tables(table, plan.folder)
        finished = sum(row["state"] == "complete" for row in table)
        title = f"{plan.name}: {finished} trials, seed {plan.seed}"
        with closing.part(plan.folder / FIGURE):
            write_figure(table, plan.folder / FIGURE, title, cifar10=plan.cifar10)
        if test:
            try:
                test_front(study, plan)
            finally:  # if a test fails, with those before it
                with closing.part(f"{plan.folder}/{TRIALS} and {FRONT}", result=True):
                    write_tables(rows(study, plan), plan.folder)
    print(f"study         {plan.name}: complete, {finished} finished trials, {len(study.best_trials)} on the front")
    print(
        f"files         {plan.folder}/: {FRONT}, {TRIALS}, {FIGURE}; a checkpoint for each point in {FRONT}", flush=True
    )
    closing.end()
