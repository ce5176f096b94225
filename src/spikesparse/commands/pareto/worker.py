"""A worker: takes trials of a study until it has as many finished ones as asked for."""

from __future__ import annotations

import os
import platform
import time
from typing import Any

from optuna.exceptions import UpdateFinishedTrialError
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from spikesparse.commands.pareto.plan import Plan
from spikesparse.commands.pareto.space import BUDGET, LAMBDA
from spikesparse.commands.pareto.study import STARTED, hand_back, origin, take_up_lost_trials
from spikesparse.commands.pareto.trial import LOG, TrialFailed, measured, train
from spikesparse.errors import UserError
from spikesparse.files.locks import FileLock
from spikesparse.runs.result import machine

_HOPELESS = 3  # failed trials while none finished


def work(study: Study, plan: Plan, poll: float) -> None:
    """Run trials until the study is complete; wait while the last ones are with others, who may be lost.

    Args:
        study: shared with other workers.
        plan: what it is about.
        poll: seconds between two looks while there is nothing to start.

    Raises:
        UserError: if, since it began, three trials have failed, and twice as many as have finished.
        KeyboardInterrupt: if stopped; the trial is queued, to go on from its last checkpoint.
    """
    # Whoever looks for a trial holds this until it has one: so a trial is nobody else's, and N are N. (SQLite has no
    # row locks, and Optuna takes a lost trial back in two steps.)
    turn = FileLock(plan.folder / "turn.lock")
    earlier = {trial.number for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()}
    while True:
        with turn:
            take_up_lost_trials(study)
            finished = len(_in_state(study, TrialState.COMPLETE))
            if finished >= plan.trials:
                return
            _give_up_if_hopeless(study, plan, earlier)
            if finished + len(_in_state(study, TrialState.RUNNING)) < plan.trials:
                _run_one(study, plan, turn)
                continue
        time.sleep(poll)


class _Leaving(BaseException):
    """Carries what makes a worker leave its trial past Optuna, which would call the trial failed."""


def _run_one(study: Study, plan: Plan, turn: FileLock) -> None:
    mine: list[Trial] = []

    def objective(trial: Trial) -> tuple[float, float]:
        mine.append(trial)
        try:
            values = {} if trial.user_attrs.get("twin") else plan.space.draw(trial)
            trial.set_user_attr("worker", f"{platform.node()} {os.getpid()}")
            trial.set_user_attr(STARTED, trial.number)
            turn.close()
            return _result(study, plan, trial, values)
        except (KeyboardInterrupt, OSError) as error:
            raise _Leaving from error

    def tell(study: Study, trial: FrozenTrial) -> None:
        print(progress_line(study, plan, trial), flush=True)

    try:
        study.optimize(objective, n_trials=1, catch=(TrialFailed,), callbacks=[tell])
    except (ValueError, AssertionError, UpdateFinishedTrialError):
        # Optuna's words for a trial that another has taken up: this worker gave no sign of life for too long.
        later = {origin(trial) for trial in study.trials if mine and trial.number > mine[0].number}
        if not mine or origin(_frozen(study, mine[0])) not in later:
            raise
        print(f"trial {mine[0].number}: taken for lost, and with another worker by now", flush=True)
    except (_Leaving, KeyboardInterrupt, UnboundLocalError) as error:
        # The last is what Optuna makes of an interruption while it stores a result.
        for trial in mine:
            _put_back(study, trial)
        if isinstance(error, KeyboardInterrupt) or error.__context__ is None:
            raise
        raise error.__context__ from None


def _put_back(study: Study, trial: Trial) -> None:
    """Queue a trial that this worker leaves, unless it is finished, or with another worker by now."""
    frozen = _frozen(study, trial)
    if frozen.state == TrialState.RUNNING:
        hand_back(study, frozen)  # first: a worker killed in between leaves it queued twice, not lost
        trial.set_user_attr("stopped", True)
        study.tell(trial, state=TrialState.FAIL)


def _result(study: Study, plan: Plan, trial: Trial, values: dict[str, Any]) -> tuple[float, float]:
    flags = plan.space.flags(values, plan.epochs) if values else plan.space.twin_flags(plan.epochs)
    folder = plan.folder / f"trial{origin(_frozen(study, trial)):04d}"
    trial.set_user_attr("folder", folder.name)
    print(f"trial {trial.number}  begins  {_asked(_frozen(study, trial))}  {folder / LOG}", flush=True)
    started = time.monotonic()
    try:
        run, first_epoch = train(folder, [*plan.args, *flags], values.get("seed_everything", plan.seed))
        checkpoint, counts = measured(run)
    except TrialFailed as error:
        trial.set_user_attr("failed", str(error))
        raise
    here = machine()
    about: dict[str, Any] = {
        "minutes": round((time.monotonic() - started) / 60, 2),
        "first_epoch": first_epoch,
        "checkpoint": str(checkpoint.relative_to(plan.folder)),
        "flags": flags,
        **{key: here[key] for key in ("hardware", "threads", "torch", "commit")},
    }
    trial.set_user_attr("result", {**counts, **about})
    return counts["accuracy_val"], counts[plan.objective]


def _frozen(study: Study, trial: Trial) -> FrozenTrial:
    return next(each for each in study.get_trials(deepcopy=False) if each.number == trial.number)


def _in_state(study: Study, state: TrialState) -> list[FrozenTrial]:
    return study.get_trials(deepcopy=False, states=(state,))


def _give_up_if_hopeless(study: Study, plan: Plan, earlier: set[int]) -> None:
    """Give up by what became of trials since this worker began: what made the earlier ones fail may be mended."""
    ended = [trial for trial in study.get_trials(deepcopy=False) if trial.number not in earlier]
    failed = [trial for trial in ended if trial.state == TrialState.FAIL and "failed" in trial.user_attrs]
    finished = sum(trial.state == TrialState.COMPLETE for trial in ended)
    if len(failed) >= max(_HOPELESS, 2 * finished):
        log = plan.folder / failed[-1].user_attrs["folder"] / LOG
        raise UserError(
            f"{len(failed)} trials failed and {finished} finished since this worker began, the last with "
            f"{failed[-1].user_attrs['failed']} See {log}; mend it, and the same command goes on."
        )


def progress_line(study: Study, plan: Plan, trial: FrozenTrial) -> str:
    """What became of a trial, how far the study is and how long it will take."""
    if trial.state != TrialState.COMPLETE:
        return (
            f"trial {trial.number}: failed, {trial.user_attrs.get('failed')} See {trial.user_attrs.get('folder')}/{LOG}"
        )
    finished = _in_state(study, TrialState.COMPLETE)
    result = trial.user_attrs["result"]
    minutes = [each.user_attrs["result"]["minutes"] for each in finished]
    workers = 1 + len(_in_state(study, TrialState.RUNNING))
    left = sum(minutes) / len(minutes) * max(0, plan.trials - len(finished)) / workers
    return (
        f"trial {trial.number}  {len(finished)}/{plan.trials}  val accuracy {result['accuracy_val']:.2%}  "
        f"spikes/image {result['spikes']:,.0f}  SynOps/image {result['synops']:,.0f}  {_asked(trial)}  "
        f"{result['minutes']:.1f} min  {len(study.best_trials)} on the front  about {left:.0f} min left"
    )


def _asked(trial: FrozenTrial) -> str:
    if trial.user_attrs.get("twin"):
        return "lambda 0 (twin)"
    return f"lambda {trial.params[LAMBDA]:.3g}" if LAMBDA in trial.params else f"budget {trial.params[BUDGET]:,.0f}"
