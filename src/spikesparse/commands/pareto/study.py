"""The study that workers share: Optuna's storage, its sampler, and who has which trial."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning, OptunaError
from optuna.samplers import BaseSampler, TPESampler
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback, fail_stale_trials
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from spikesparse.commands.pareto.plan import Plan
from spikesparse.errors import UserError
from spikesparse.files.locks import FileLock
from spikesparse.settings.command_line import CommandLine


@contextmanager
def _experiments_are_known() -> Iterator[None]:
    """Without Optuna's warnings that heartbeats and groups may change: the versions are pinned, and tests see it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        yield


with _experiments_are_known():
    #: Queues a lost trial once more, under the same parameters. At most so often: one may be what kills its workers.
    RETRY = RetryHeartbeatStaleTrialCallback(max_retry=20)
#: What a trial says of itself once it is drawn: its number, since one that takes another up inherits what that said.
STARTED = "started"
_READY, _IDENTITY = "ready", "identity"


class DrawsByTrial(BaseSampler):
    """Optuna's TPE, with draws that are a function of (seed, trial number) and of what is known by then.

    Workers need no seeds of their own, and a study by one worker comes out the same again.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._tpe = TPESampler(seed=seed)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Draw anew for this trial."""
        with _experiments_are_known():
            # group: the twin has no parameters, so that what all trials have in common is nothing.
            # constant_liar: trials that others are running count as poor ones, so that workers keep apart.
            seed = 10_007 * self._seed + trial.number
            self._tpe = TPESampler(multivariate=True, group=True, constant_liar=True, seed=seed)
        self._tpe.before_trial(study, trial)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """As TPE does."""
        return self._tpe.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """As TPE does."""
        return self._tpe.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """As TPE does."""
        return self._tpe.sample_independent(study, trial, param_name, param_distribution)


def open_study(plan: Plan, url: str, heartbeat: int, grace: int) -> Study:
    """The study of a plan: made, with the points to try first queued, or joined.

    Args:
        plan: what it is about.
        url: Optuna's storage.
        heartbeat: seconds between two signs of life of a worker.
        grace: seconds without one after which its trial is another's.

    Raises:
        UserError: if the storage cannot be used, or holds a study of that name about something else.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # we say what there is to say
    plan.folder.mkdir(parents=True, exist_ok=True)
    waits = {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {}
    try:
        with FileLock(plan.folder / "study.lock"), _experiments_are_known():  # one makes it, the others join
            storage = RDBStorage(
                url,
                engine_kwargs=waits,
                heartbeat_interval=heartbeat,
                grace_period=grace,
                heartbeat_stale_trial_callback=RETRY,
            )
            study = optuna.create_study(
                storage=storage,
                study_name=plan.name,
                directions=["maximize", "minimize"],
                sampler=DrawsByTrial(plan.seed),
                load_if_exists=True,
            )
            if not study.user_attrs.get(_READY):
                _queue_first_points(study, plan)
            _queue_failed_twin(study)
    except (OptunaError, SQLAlchemyError, ImportError) as error:  # no url in the text: it may hold a password
        reason = str(getattr(error, "orig", None) or error).splitlines()[0]
        raise UserError(f"--storage: cannot be used ({type(error).__name__}: {reason}); see docs/pareto.md.") from error
    theirs, ours = study.user_attrs[_IDENTITY], plan.identity()
    theirs = {**theirs, "args": CommandLine(theirs["args"]).without_shown()}  # an older study has these flags too
    if differs := [what for what in ours if theirs.get(what, ours[what]) != ours[what]]:  # an older study tells less
        raise UserError(
            f"--study={plan.name}: a study of that name is about something else ({', '.join(differs)} differ); name "
            "another, or give the very same flags and files."
        )
    return study


def _queue_first_points(study: Study, plan: Plan) -> None:
    study.set_user_attr(_IDENTITY, plan.identity())
    study.enqueue_trial({}, user_attrs={"twin": True}, skip_if_exists=True)
    for point in plan.space.first:
        study.enqueue_trial(point, skip_if_exists=True)
    study.set_user_attr(_READY, True)


def _queue_failed_twin(study: Study) -> None:
    """A failed trial is replaced by another point; the twin is one of a kind, and what made it fail may be mended."""
    twins = [trial for trial in study.get_trials(deepcopy=False) if trial.user_attrs.get("twin")]
    if twins and all(trial.state == TrialState.FAIL for trial in twins):
        hand_back(study, twins[-1])


def take_up_lost_trials(study: Study) -> None:
    """Queue what dead workers had once more; to be called by whoever may start a trial, and nobody beside."""
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if (
            trial.user_attrs.get(STARTED) != trial.number
        ):  # its worker died while it drew, before its first sign of life
            hand_back(study, trial)
            study.tell(trial.number, state=TrialState.FAIL)
    with _experiments_are_known():
        fail_stale_trials(study)


def hand_back(study: Study, trial: FrozenTrial) -> None:
    """Queue a trial once more."""
    RETRY(study, trial)


def origin(trial: FrozenTrial) -> int:
    """The number of the trial that this one resumes; its own number if it is the first."""
    with _experiments_are_known():
        return ([*RETRY.retry_history(trial), trial.number])[0]
