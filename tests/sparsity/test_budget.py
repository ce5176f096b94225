"""The closed loop: lambda from a target or an allowed drop of accuracy."""

import itertools
import math
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml

from refusals import refused_with
from spikesparse import SparsityAnnealing, SpikeBudget, load_run
from spikesparse.commands.cli import SpikeCLI
from spikesparse.commands.flags import with_flags
from spikesparse.commands.main import main
from spikesparse.commands.quiet import quiet as quiet_libraries
from spikesparse.commands.report.runs import read_run
from spikesparse.commands.train import twin_args
from spikesparse.files.paths import CONFIGS
from spikesparse.runs.checkpoints import BestCheckpoint
from spikesparse.settings.command_line import CommandLine
from spikesparse.sparsity.control import LARGEST, LEAST, adapted, moved, step_by_accuracy, step_by_count
from spikesparse.sparsity.weight import in_force

quiet = pytest.mark.filterwarnings("ignore")  # Lightning's advice on tiny runs is not what is tested here
ALONE = 10_000.0  # what the simulated network spends without penalty
AIM = 0.95  # of the target
EPOCHS, RAMP = 40, (2, 20)


# ---- on a simulated network ---------------------------------------------------------------------------------------


def simulated(target, answer, elasticity, knee, noise, epochs=EPOCHS, ramp=RAMP, fading=False):
    """Log of spikes over what is aimed at, and lambda, epoch by epoch.

    The network goes a share ``answer`` of the way, in log spikes, to where the epoch's lambda would lead it: there it
    spends ALONE / (1 + lambda / knee) ** elasticity. With a fading learning rate it answers ever less.
    """
    budget, rng = SpikeBudget(target=target, start_epoch=ramp[0], end_epoch=ramp[1]), random.Random(1)
    spikes, trace = math.log(ALONE), []
    for epoch in range(epochs):
        weight = budget.value_at(epoch)
        rate = min(1.0, 0.8 * (1 + math.cos(math.pi * epoch / epochs))) if fading else 1.0
        spikes += rate * answer * (math.log(ALONE) - elasticity * math.log1p(weight / knee) - spikes)
        budget.move(epoch, math.exp(spikes + rng.gauss(0, noise)))
        trace.append((spikes - math.log(AIM * target), weight))
    return trace


GRID = [
    case
    for case in itertools.product(
        (0.15, 0.3, 0.6, 1.0), (0.2, 0.5, 1.0, 1.5), (0.1, 0.3, 1.0), (0.0, 0.03), (0.3, 0.5, 0.8)
    )
    if (1 + 30 / case[2]) ** -case[1] < case[4]  # some lambda up to 30 reaches the target
]


def test_the_loop_is_stable_on_every_network_of_the_grid():
    assert len(GRID) > 200
    for answer, elasticity, knee, noise, share in GRID:
        trace = simulated(share * ALONE, answer, elasticity, knee, noise)
        case = (answer, elasticity, knee, noise, share)
        off, weights = [error for error, _ in trace], [weight for _, weight in trace]
        assert weights[: RAMP[0]] == [0.0, 0.0], case
        assert all(LEAST <= weight <= LARGEST for weight in weights[RAMP[0] :]), case
        assert abs(sum(off[-5:]) / 5) < 0.05, case
        clear = [error for error in off[RAMP[1] :] if abs(error) > 0.02]  # beyond the noise of a mean
        assert sum(a * b < 0 for a, b in itertools.pairwise(clear)) <= 4, case
        assert max(abs(error) for error in off[-5:]) < 0.1, case
        assert max(weights[-8:]) < 2 * min(weights[-8:]), case
        if not noise:
            assert all(error < -math.log(AIM) + 0.02 for error in off[-5:]), case  # within the best's tolerance


def test_most_short_trainings_keep_the_target_before_the_learning_rate_has_faded():
    kept = []
    for answer, elasticity, knee, noise, share in GRID:
        trace = simulated(share * ALONE, answer, elasticity, knee, noise, epochs=12, ramp=(1, 7), fading=True)
        kept.append(any(error <= math.log(1.02 / AIM) for error, _ in trace[7:]))
    assert sum(kept) > 0.85 * len(kept)


def test_an_oscillation_dies_within_a_few_epochs():
    """A network that answers at once, twice as steeply as the grid's: unstable at the first gain, not at the last."""
    trace = simulated(0.2 * ALONE, 1.0, 3.0, 0.1, 0.0)
    assert max(abs(error) for error, _ in trace[-10:]) < 0.01


@pytest.mark.parametrize(("share", "bound"), [(1e-4, LARGEST), (3.0, LEAST)])
def test_a_target_out_of_reach_leaves_lambda_at_its_bound(share, bound):
    weights = [weight for _, weight in simulated(share * ALONE, 0.5, 0.5, 0.3, 0.03, epochs=80)]
    assert weights[-20:] == [bound] * 20


def test_a_silent_network_is_let_spike_again():
    budget = SpikeBudget(target=1000.0, end_epoch=0)
    weights = [budget.move(epoch, value) or budget.weight for epoch, value in enumerate([5000.0, 5000.0, 0.0, 0.0])]
    assert weights[3] < weights[2] < weights[1]


@pytest.mark.parametrize("slope", [0.005, 0.02, 0.05])
@pytest.mark.parametrize("drop", [0.0, 0.01, 0.03])
@pytest.mark.parametrize("answer", [0.3, 1.0])
def test_lambda_settles_where_the_drop_is_used_up(slope, drop, answer):
    """Accuracy falls by ``slope`` for each e-fold of lambda beyond 0.2."""
    budget = SpikeBudget(max_accuracy_drop=drop, baseline=0.9)
    accuracy, off = 0.9, []
    for epoch in range(80):
        steady = 0.9 - slope * max(0.0, math.log(max(budget.weight, LEAST) / 0.2))
        accuracy += answer * (steady - accuracy)
        budget.move(epoch, accuracy)
        off.append(accuracy - (0.9 - drop))
    assert budget.weight in (LARGEST, pytest.approx(0.2 * math.exp(drop / slope), rel=0.1))
    assert max(abs(each) for each in off[-5:]) < 0.002 or budget.weight == LARGEST


# ---- the law, by hand ---------------------------------------------------------------------------------------------


def test_the_law_by_hand():
    assert step_by_count(0.8, 0.5, 0.3) == pytest.approx(0.8 * 0.35)
    assert step_by_count(0.8, 0.04, 0.36) == 0  # coming down fast, but not there yet
    assert step_by_count(0.8, -0.1, 0.3) == pytest.approx(0.8 * -0.25)
    assert moved(0.4, math.log(2)) == pytest.approx(0.8)
    assert (moved(0.4, 9.0), moved(0.4, -9.0)) == (pytest.approx(1.6), pytest.approx(0.1))
    assert (moved(90.0, 1.0), moved(0.02, -1.0)) == (LARGEST, LEAST)
    assert (adapted(1.0, 0.3, -0.1), adapted(1.0, 0.3, 0.31), adapted(1.0, 0.15, 0.3)) == (0.5, 2.0, 1.0)
    assert (adapted(0.4, 0.3, -0.1), adapted(3.9, 0.3, 0.3), adapted(7.0, 0.3, 0.3)) == (0.3, 6.0, 6.0)
    assert step_by_accuracy(0.01, 0.02) == pytest.approx(math.log(1.5) / 2)
    assert step_by_accuracy(-0.005, 0.0) == pytest.approx(-math.log(2) / 2)
    assert step_by_accuracy(-1.0, 0.02) == -math.log(2)


def test_what_is_allowed_falls_along_the_ramp_from_what_was_counted():
    budget = SpikeBudget(target=1000.0, schedule="linear", start_epoch=1, end_epoch=5)
    budget.move(0, 16_000.0)
    allowed = [budget.allowed(epoch) for epoch in range(7)]
    assert allowed[0] is None
    assert allowed[1:] == pytest.approx([16_000, 8000, 4000, 2000, 1000, 1000])
    assert budget.weight == budget.controller.initial


def test_a_drop_waits_for_the_accuracy_to_come_there_once():
    budget, weights = SpikeBudget(max_accuracy_drop=0.02, baseline=0.9, start_epoch=2, initial=0.5), []
    for epoch, accuracy in enumerate([0.2, 0.95, 0.5, 0.85, 0.9, 0.8]):
        budget.move(epoch, accuracy)
        weights.append(budget.weight)
    # Nothing before the ramp; then the initial one. Every change of sign halves the gain, down to 0.3.
    fall, rise = 0.5**0.5, 1.5**0.3  # the whole drop is left at 0.9; the others are far below
    assert weights == pytest.approx([0, 0.5, 0.5 * fall, 0.25, 0.25 * rise, 0.25 * rise / 2**0.3])


def handed_on(first, second, tmp_path):
    """A callback that is given another's state, by way of a checkpoint."""
    torch.save(first.state_dict(), tmp_path / "state.ckpt")
    second.load_state_dict(torch.load(tmp_path / "state.ckpt", weights_only=True))
    return second


def test_a_drop_that_was_kept_before_a_stop_is_known_behind_it(tmp_path):
    """Within it in epoch 0; then 3 points below: lambda falls by its full speed, at half the gain for the new sign."""
    settings = {"max_accuracy_drop": 0.02, "baseline": 0.9, "initial": 0.5}
    first = SpikeBudget(**settings)
    first.move(0, 0.95)
    resumed = handed_on(first, SpikeBudget(**settings), tmp_path)
    resumed.move(1, 0.85)
    assert resumed.weight == pytest.approx(0.5 * 0.5**0.5)
    waiting = handed_on(SpikeBudget(**settings), SpikeBudget(**settings), tmp_path)
    for epoch, accuracy in ((0, 0.85), (1, 0.84)):  # never within it
        waiting.move(epoch, accuracy)
    assert waiting.weight == 0.5


def trainer_of(budget, epoch, **more):
    trainer = {"state": SimpleNamespace(fn="fit"), "sanity_checking": False, "is_global_zero": False} | more
    return SimpleNamespace(current_epoch=epoch, callbacks=[budget], **trainer)


def test_a_validation_before_a_stop_moves_lambda_at_the_end_of_its_epoch(tmp_path):
    """A target of 100 holds at once and 95 is aimed at: from 190, a factor of two above, then from 380.

    The first move only sets lambda; the error having doubled, the gain of 2 becomes 4; the step is
    4 * (log 4 - log 2 / 2), more than the largest, which is log 4.
    """
    budget = SpikeBudget(target=100, end_epoch=0)
    for epoch, spikes in ((0, 190.0), (1, 380.0)):
        budget.on_validation_end(trainer_of(budget, epoch), module_with(0.9, spikes))
        budget = handed_on(budget, SpikeBudget(target=100, end_epoch=0), tmp_path)
        budget.on_train_epoch_end(trainer_of(budget, epoch), None)
    assert budget.weight == pytest.approx(0.2 * 4)
    budget.on_train_epoch_end(trainer_of(budget, 2), None)  # not validated
    assert budget.weight == pytest.approx(0.2 * 4)


@pytest.mark.parametrize(
    ("budget", "trainer"),
    [
        (SpikeBudget(target=100, end_epoch=0), {"sanity_checking": True}),
        (SpikeBudget(target=100, end_epoch=0), {"state": SimpleNamespace(fn="validate")}),
        (SpikeBudget(), {}),
    ],
    ids=["sanity check", "validate", "no budget"],
)
def test_what_is_no_validation_of_an_epoch_moves_nothing(budget, trainer):
    """Not even epoch 0, in which the sanity check runs."""
    budget.on_validation_end(trainer_of(budget, 0, **trainer), module_with(0.9, 400.0))
    budget.on_train_epoch_end(trainer_of(budget, 0), None)
    assert budget.weight == 0
    assert budget.allowed(5) is None if budget.active else True


def test_a_drop_that_was_never_kept_leaves_lambda_at_its_initial_value():
    budget = SpikeBudget(max_accuracy_drop=0.02, baseline=0.9)
    for epoch, accuracy in enumerate([0.2, 0.5, 0.87]):
        budget.move(epoch, accuracy)
    assert budget.weight == budget.controller.initial


BAD = {
    ("target=5", "max_accuracy_drop=0.1"): ["--budget.target=5", "--budget.max_accuracy_drop=0.1", "name one of them"],
    ("target=0",): ["--budget.target=0", "above 0"],
    ("target=-5",): ["--budget.target=-5", "above 0"],
    ("target=nan",): ["budget.target", "nan"],
    ("target=5", "by=energy"): ["--budget.by='energy'", "spikes, synops"],
    ("max_accuracy_drop=0.1",): ["--budget.baseline="],
    ("max_accuracy_drop=1.5", "baseline=0.9"): ["--budget.max_accuracy_drop=1.5", "0.01 is one percent"],
    ("max_accuracy_drop=0.1", "baseline=84"): ["--budget.baseline=84", "0.84"],
    ("max_accuracy_drop=0.1", "baseline=none.ckpt"): ["--budget.baseline=none.ckpt", "no such file"],
    ("baseline=0.9",): ["--budget.baseline=0.9", "--budget.max_accuracy_drop"],
    ("reduction=0.7",): ["--budget.reduction=0.7", "of what?"],
    ("reduction=0.7", "baseline=0.9"): ["--budget.reduction=0.7", "<a checkpoint>"],
    ("reduction=70", "baseline=a.ckpt"): ["--budget.reduction=70", "a fraction"],
    ("target=5", "initial=0"): ["--budget.initial=0", "0.01 and 100"],
    ("target=5", "tolerance=-1"): ["--budget.tolerance=-1"],
}


def value_of(text):
    try:
        return float(text) if "." in text else int(text)
    except ValueError:
        return float(text) if text == "nan" else text


@pytest.mark.parametrize("flags", [flags for flags in BAD if "baseline=none.ckpt" not in flags], ids=" ".join)
def test_the_class_refuses_a_bad_value(flags):
    settings = {name: value_of(text) for name, _, text in (flag.partition("=") for flag in flags)}
    with refused_with("") as refused:
        SpikeBudget(**settings)
    for word in BAD[flags]:
        assert word in with_flags(refused.value)


def test_the_ends_of_what_is_allowed_are_allowed():
    for settings in ({"initial": 0.01}, {"initial": 100.0}, {"tolerance": 0.0}, {"tolerance": 0.99}):
        assert SpikeBudget(target=5, **settings).active
    for drop in (0.0, 0.99):
        assert SpikeBudget(max_accuracy_drop=drop, baseline=1.0).allowed(0) == 1.0 - drop
    for settings in ({"initial": 100.1}, {"tolerance": 1.0}, {"target": float("inf")}):
        with refused_with(f"--budget.{next(iter(settings))}="):
            SpikeBudget(**{"target": 5, **settings})
    for settings in ({"max_accuracy_drop": 1.0, "baseline": 0.9}, {"max_accuracy_drop": 0.1, "baseline": 1.01}):
        with refused_with("--budget"):
            SpikeBudget(**settings)


@quiet
@pytest.mark.parametrize("flags", BAD, ids=" ".join)
def test_bad_value_ends_with_one_clear_line(flags, tiny_args, capsys):
    assert main(["fit", *tiny_args, *(f"--budget.{flag}" for flag in flags)]) == 2
    line = [line for line in capsys.readouterr().err.splitlines() if line.startswith("spikesparse: error:")]
    assert len(line) == 1
    for word in BAD[flags]:
        assert word in line[0]


@quiet
def test_a_budget_without_validation_is_refused(tiny_args, capsys):
    assert main(["fit", *tiny_args, "--budget.target=50", "--trainer.limit_val_batches=0"]) == 2
    assert "goes by validation" in capsys.readouterr().err


@quiet
def test_a_baseline_that_does_not_tell_its_accuracy_is_refused(tiny_args, capsys):
    torch.save({"state_dict": {}}, "old.ckpt")
    assert main(["fit", *tiny_args, "--budget.max_accuracy_drop=0.1", "--budget.baseline=old.ckpt"]) == 2
    assert "--budget.baseline=old.ckpt" in capsys.readouterr().err


# ---- in training --------------------------------------------------------------------------------------------------


def test_the_budget_is_in_force_where_it_is_active():
    annealing, off, on = SparsityAnnealing(1.0), SpikeBudget(), SpikeBudget(target=5)
    for callbacks, wanted in (
        ([annealing, off], annealing),
        ([on, annealing], on),
        ([annealing, on], on),
        ([off], None),
    ):
        assert in_force(SimpleNamespace(callbacks=callbacks)) is wanted


def lambdas(text):
    return [float(value) for value in re.findall(r"^epoch .* lambda (\S+)", text, re.MULTILINE)]


@quiet
@pytest.mark.parametrize("flags", [pytest.param([], marks=pytest.mark.slow), ["--trainer.val_check_interval=2"]])
def test_lambda_moves_once_per_epoch_by_its_last_validation(tiny_args, flags, capsys):
    cli = SpikeCLI(["fit", *tiny_args, "--budget.target=30", "--sparsity.start_epoch=1", *flags])
    printed = capsys.readouterr().out
    moves = [line for line in printed.splitlines() if line.startswith("budget: ") and "spikes/image" in line]
    assert len(moves) == 4
    weights = lambdas(printed)
    assert weights[:2] == [0, 0.2]
    assert len(set(weights)) == 4
    assert printed.count("not read: --sparsity.end_value") == 1
    assert f"{cli.model.sparsity_weight:.3g}" == f"{weights[3]:.3g}"
    assert float(cli.trainer.callback_metrics["schedule/lambda"]) == pytest.approx(cli.model.sparsity_weight)
    assert float(cli.trainer.callback_metrics["schedule/budget_spikes_per_image"]) == pytest.approx(30)


@quiet
@pytest.mark.slow
def test_lambda_stays_between_validations(tiny_args, capsys):
    flags = ["--budget.target=30", "--trainer.check_val_every_n_epoch=2", "--trainer.max_epochs=6"]
    SpikeCLI(["fit", *tiny_args, *flags])
    weights = lambdas(capsys.readouterr().out)
    assert weights[:4] == [0, 0, 0.2, 0.2]
    assert weights[4] == weights[5] != 0.2


def weights_of(folder):
    return torch.load(folder / "checkpoints/last.ckpt", weights_only=True)


@quiet
@pytest.mark.parametrize("stop", [pytest.param(1, marks=pytest.mark.slow), 3])
@pytest.mark.parametrize(
    "flags",
    [
        pytest.param(["--budget.target=30"], id="target"),
        pytest.param(["--budget.max_accuracy_drop=0.3", "--budget.baseline=0.5"], id="drop", marks=pytest.mark.slow),
    ],
)
def test_a_stopped_and_resumed_run_is_the_uninterrupted_one(tiny_args, flags, stop, capsys):
    class Stopped(SpikeCLI):
        def instantiate_trainer(self, **kwargs):
            trainer = super().instantiate_trainer(**kwargs)
            trainer.fit_loop.max_epochs = 4
            hook = SimpleNamespace(stop=stop)
            original = trainer.callbacks[0].on_train_epoch_end

            def end(trainer, module):
                original(trainer, module)
                trainer.should_stop = trainer.current_epoch + 1 >= hook.stop

            trainer.callbacks[0].on_train_epoch_end = end
            return trainer

    args = ["fit", *tiny_args, *flags]
    whole = weights_of(SpikeCLI(args).run_folder)
    uninterrupted = lambdas(capsys.readouterr().out)
    folder = Stopped(args).run_folder
    SpikeCLI([*args, f"--ckpt_path={folder}/checkpoints/last.ckpt"])
    assert lambdas(capsys.readouterr().out) == uninterrupted
    resumed = weights_of(folder)
    assert resumed["epoch"] == whole["epoch"] == 3
    assert resumed["callbacks"]["SpikeBudget"] == whole["callbacks"]["SpikeBudget"]
    for name, value in whole["state_dict"].items():
        assert torch.equal(resumed["state_dict"][name], value), name


@quiet
@pytest.mark.slow
def test_a_resumed_run_keeps_its_budget_unless_another_is_named(tiny_args):
    last = SpikeCLI(["fit", *tiny_args, "--budget.target=30"]).run_folder / "checkpoints/last.ckpt"
    args = [*tiny_args, f"--ckpt_path={last}", "--trainer.max_epochs=5"]
    for flags, target in (([], 30), (["--budget.target=20"], 20), (["--budget.target=null"], None)):
        cli = SpikeCLI(["fit", *args, *flags])
        assert cli.config.fit.budget.target == target
        setter = in_force(cli.trainer)
        assert isinstance(setter, SparsityAnnealing if target is None else SpikeBudget)
        if target:
            assert setter.allowed(4) == pytest.approx(target)


@quiet
@pytest.mark.slow
def test_load_run_and_the_report_know_a_run_with_a_budget(tiny_args):
    main(["train", *tiny_args, "--budget.target=30"])
    folder = Path("runs") / CommandLine(["fit", *tiny_args, "--budget.target=30"]).run_name() / "seed0"
    load_run(folder)
    last = weights_of(folder)
    run = read_run(folder)
    assert run.final_lambda == pytest.approx(run.curves["schedule/lambda"][1][-1], rel=0.01)
    assert run.final_lambda != 1  # --sparsity.end_value of the tiny run
    assert last["settings"]["budget"]["target"] == 30


# ---- its hooks, by hand --------------------------------------------------------------------------------------------


def lines_of(budget, values, capsys):
    """What it says at the end of each epoch, which validates to one of the values."""
    for epoch, value in enumerate(values):
        budget.on_validation_end(trainer_of(budget, epoch), SimpleNamespace(measured={budget.watched: value}))
        budget.on_train_epoch_end(trainer_of(budget, epoch, is_global_zero=True), None)
    return capsys.readouterr().out.splitlines()


def test_what_it_says_of_a_target_by_hand(capsys):
    """Twice the ramp's share in logarithms from 1,000 to 100; the first move has no error before it to go by."""
    budget = SpikeBudget(target=100, start_epoch=2, end_epoch=4, by="synops")
    first, *moves = lines_of(budget, [5000.0, 1000.0, 316.2, 95.0, 95.0], capsys)
    assert first == "budget: 5,000 SynOps/image, 100 in the end, from epoch 2"
    said = [(line.partition(" allowed")[0], line.rpartition(": lambda ")[0]) for line in moves]
    assert [head for head, _ in said] == [
        *("budget: 1,000 SynOps/image, 1,000", "budget: 316 SynOps/image, 316"),
        *("budget: 95 SynOps/image, 100", "budget: 95 SynOps/image, 100"),
    ]
    assert ["now (100 in the end)" in line for _, line in said] == [True, True, False, False]
    assert moves[0].endswith(": lambda 0 -> 0.2")
    # At 316.2 of 0.95 * 316.2 as at 1,000 of 0.95 * 1,000: the error stays, so the gain of 2 becomes 4.
    error = math.log(1 / 0.95)
    assert moves[1].endswith(f": lambda 0.2 -> {0.2 * math.exp(4 * error / 2):.3g}")
    assert budget.none_chosen == "no epoch from 4 (the first is 0) on spent at most 102 SynOps/image"


def test_what_it_says_of_a_drop_by_hand(capsys):
    budget = SpikeBudget(max_accuracy_drop=0.02, baseline=0.9)
    assert lines_of(budget, [0.5, 0.6, 0.95], capsys) == [
        "budget: val accuracy 50.00%, at least 88.00% allowed: lambda 0 -> 0.2",
        "budget: val accuracy 60.00%, at least 88.00% allowed: lambda stays 0.2 until accuracy is there once",
        "budget: val accuracy 95.00%, at least 88.00% allowed: lambda 0.2 -> 0.245",  # by half of log 1.5
    ]
    assert budget.allowed(0) == budget.allowed(9) == pytest.approx(0.88)
    assert budget.none_chosen == "no epoch was within `max_accuracy_drop=0.02` of the baseline 90.00%"


@pytest.mark.parametrize(
    ("settings", "tag", "value"),
    [
        ({"target": 100, "end_epoch": 0}, "schedule/budget_spikes_per_image", 100),
        ({"target": 100, "end_epoch": 0, "by": "synops"}, "schedule/budget_synops_per_image", 100),
        ({"max_accuracy_drop": 0.02, "baseline": 0.9}, "schedule/budget_accuracy", 0.88),
        ({"target": 100, "start_epoch": 5, "end_epoch": 9}, None, None),
        ({}, None, None),
    ],
)
def test_what_is_allowed_is_logged_beside_lambda_where_the_budget_is_in_force(settings, tag, value):
    budget, logged = SpikeBudget(**settings), {}
    module = SimpleNamespace(sparsity_weight=7.0, log=lambda name, value, **how: logged.update({name: (value, how)}))
    if budget.active:
        budget.move(0, 500.0 if budget.baseline is None else 0.95)
    budget.on_train_epoch_start(trainer_of(budget, 1), module)
    each = {"on_step": False, "on_epoch": True}
    lambda_ = 0.0 if settings.get("start_epoch") else 0.2
    expected = {"schedule/lambda": (lambda_, each)} | ({tag: (pytest.approx(value), each)} if tag else {})
    assert logged == (expected if budget.active else {})
    assert module.sparsity_weight == (lambda_ if budget.active else 7.0)


def starting(*callbacks, **more):
    trainer = {"callbacks": list(callbacks), "max_epochs": 4, "enable_validation": True, "is_global_zero": True}
    trainer = SimpleNamespace(**trainer | more)
    for callback in callbacks:
        callback.setup(trainer, None, "fit")
        callback.on_fit_start(trainer, None)
    return trainer


def test_a_baseline_is_read_where_training_starts(tmp_path, capsys):
    path = tmp_path / "twin.ckpt"
    values = {"accuracy/val": 0.75, "efficiency/spikes_per_image/val": 400.0, "efficiency/synops_per_image/val": 9e6}
    torch.save({"state_dict": {}, "measured": values}, path)
    for settings, target, baseline in (
        ({"reduction": 0.25}, 300.0, None),
        ({"reduction": 0.25, "by": "synops"}, 6.75e6, None),
        ({"max_accuracy_drop": 0.125}, None, 0.75),
    ):
        budget = SpikeBudget(baseline=str(path), **settings)
        starting(budget)
        assert (budget.target, budget.baseline) == (target, baseline)
        resumed = handed_on(budget, SpikeBudget(baseline=str(path), **settings), tmp_path)
        other = handed_on(budget, SpikeBudget(baseline=str(tmp_path / "b.ckpt"), **settings), tmp_path)
        assert (resumed.target, resumed.baseline) == (target, baseline)
        assert (other.target, other.baseline) == (None, None)
    torch.save({"state_dict": {}, "measured": None}, tmp_path / "old.ckpt")
    with refused_with(r"--budget.baseline=.*old.ckpt: .*does not tell its accuracy/val"):
        starting(SpikeBudget(max_accuracy_drop=0.1, baseline=str(tmp_path / "old.ckpt")))
    assert capsys.readouterr().out == ""


def test_what_is_not_read_and_what_cannot_be_is_said_where_training_starts(capsys):
    quiet_libraries()
    starting(SpikeBudget(target=5), SparsityAnnealing(0.5, start_value=0.25))
    assert capsys.readouterr().out == (
        "budget: it sets lambda; not read: --sparsity.start_value, --sparsity.end_value\n"
    )
    starting(SpikeBudget(target=5), SparsityAnnealing(0.5, start_value=0.25), is_global_zero=False)
    starting(SpikeBudget(target=5), SparsityAnnealing(0.0))
    starting(SpikeBudget(), SparsityAnnealing(0.5), enable_validation=False)
    assert capsys.readouterr().out == ""
    with refused_with("goes by validation"):
        starting(SpikeBudget(target=5), enable_validation=False)


@pytest.mark.parametrize(("end_epoch", "warns"), [(3, False), (4, True), (5, True), (None, False)])
def test_a_training_that_ends_before_its_target_holds_is_warned(end_epoch, warns):
    """Of four epochs the last is number 3."""
    for budget in (SpikeBudget(5, end_epoch=end_epoch), SpikeBudget(max_accuracy_drop=0.1, baseline=0.9, end_epoch=9)):
        if warns and budget.target:
            with pytest.warns(UserWarning, match=rf"from epoch {end_epoch} on, but training ends after 4 epochs"):
                starting(budget)
        else:
            starting(budget)  # pytest turns a warning into an error


def test_what_is_chosen_among_says_what_two_budgets_of_one_run_differ_in():
    settings = ({"target": 5}, {"target": 6}, {"target": 5, "by": "synops"}, {"target": 5, "tolerance": 0.1})
    settings += ({"max_accuracy_drop": 0.1, "baseline": 0.9}, {"max_accuracy_drop": 0.1, "baseline": 0.8})
    settings += ({"reduction": 0.5, "baseline": "a"}, {"reduction": 0.6, "baseline": "a"})
    choices = [SpikeBudget(**each).choice for each in (*settings, {"reduction": 0.5, "baseline": "b"})]
    assert len(set(choices)) == len(choices) == 9
    assert SparsityAnnealing(1.0, end_epoch=3).choice == SparsityAnnealing(2.0, end_epoch=4).choice == ""


# ---- the best checkpoint ------------------------------------------------------------------------------------------


def module_with(accuracy, spikes):
    return SimpleNamespace(measured={"accuracy/val": accuracy, "efficiency/spikes_per_image/val": spikes})


def test_best_epoch_of_a_target_keeps_it_after_the_ramp():
    budget = SpikeBudget(target=100, end_epoch=3)
    assert budget.chooses_by is None
    cases = ((3, 100.0), (3, 101.9), (3, 102.1), (2, 90.0), (7, 10.0))
    assert [budget.may_choose(module_with(0.9, n), epoch) for epoch, n in cases] == [True, True, False, False, True]


def test_best_epoch_of_a_drop_is_the_quietest_within_it():
    budget = SpikeBudget(max_accuracy_drop=0.02, baseline=0.9)
    assert budget.chooses_by == ("efficiency/spikes_per_image/val", "min")
    assert [budget.may_choose(module_with(a, 1.0), 5) for a in (0.95, 0.88, 0.879)] == [True, True, False]
    best = BestCheckpoint()
    trainer = SimpleNamespace(callbacks=[budget, best])
    with pytest.raises(AttributeError):
        best.setup(trainer, None, "fit")  # Lightning's own part wants a whole trainer
    assert (best.monitor, best.mode, float(best.kth_value)) == ("efficiency/spikes_per_image/val", "min", math.inf)


@quiet
@pytest.mark.slow
def test_a_best_epoch_of_another_budget_is_forgotten_on_resume(tiny_args):
    first = SpikeCLI(["fit", *tiny_args, "--budget.target=1000"])
    assert first.trainer.checkpoint_callback.best_model_path
    last = f"--ckpt_path={first.run_folder}/checkpoints/last.ckpt"
    for target, known in (("1000", True), ("0.001", False)):
        again = SpikeCLI(["fit", *tiny_args, last, f"--budget.target={target}"])
        assert bool(again.trainer.checkpoint_callback.best_model_path) is known


@quiet
def test_train_says_so_where_no_epoch_kept_the_budget(tiny_args, capsys):
    assert main(["train", *tiny_args, "--budget.target=0.001"]) == 0
    assert "spent at most 0 spikes/image: the last epoch is tested" in capsys.readouterr().out


@quiet
@pytest.mark.slow
def test_a_checkpoint_is_a_baseline_and_the_quietest_within_the_drop_is_kept(tiny_args, capsys):
    twin = SpikeCLI(["fit", *tiny_args, "--sparsity.end_value=0"])
    last = twin.run_folder / "checkpoints/last.ckpt"
    accuracy = twin.model.measured["accuracy/val"]
    flags = [f"--model.init_from={last}", f"--budget.baseline={last}", "--budget.max_accuracy_drop=0.9"]
    capsys.readouterr()
    cli = SpikeCLI(["fit", *tiny_args, *flags])
    assert in_force(cli.trainer).baseline == accuracy
    spikes = [float(n) for n in re.findall(r"spikes/image ([\d.,]+)", capsys.readouterr().out)]
    best = torch.load(cli.run_folder / "checkpoints/best.ckpt", weights_only=True)
    assert spikes[best["epoch"]] == min(spikes)


@quiet
@pytest.mark.slow
def test_a_reduction_is_a_target_below_what_the_baseline_spends(tiny_args, tmp_path):
    twin = SpikeCLI(["fit", *tiny_args, "--sparsity.end_value=0"])
    spent = twin.model.measured["efficiency/spikes_per_image/val"]
    baseline = tmp_path / "baseline.ckpt"
    shutil.copy(twin.run_folder / "checkpoints/last.ckpt", baseline)
    args = ["fit", *tiny_args, "--budget.reduction=0.25", f"--budget.baseline={baseline}"]
    first = SpikeCLI(args)
    assert in_force(first.trainer).target == pytest.approx(0.75 * spent)
    baseline.unlink()  # a resumed run does not need it
    last = first.run_folder / "checkpoints/last.ckpt"
    again = SpikeCLI([*args, f"--ckpt_path={last}", "--trainer.max_epochs=5"])
    assert in_force(again.trainer).target == in_force(first.trainer).target


# ---- the twin -----------------------------------------------------------------------------------------------------


def test_the_twin_of_a_budget_has_none(tmp_path):
    (tmp_path / "b.yaml").write_text(yaml.safe_dump({"budget": {"target": 5}}))
    (tmp_path / "budget.yaml").write_text(yaml.safe_dump({"target": 5}))
    plain = ["--sparsity.start_value=0", "--sparsity.end_value=0"]
    off = [f"--budget.{name}=null" for name in ("target", "reduction", "max_accuracy_drop", "baseline")]
    for args, added in (
        (["--data.source=digits"], []),
        (["--budget.by=synops"], []),
        (["--budget.target=5"], off),
        (["--config", str(tmp_path / "b.yaml")], off),
        (["--budget={target: 5}"], off),
        ([f"--budget={tmp_path}/budget.yaml"], off),
        (["--config", str(tmp_path / "b.yaml"), "--budget.target=null"], []),
    ):
        assert twin_args(args) == [*args, *plain, *added]


@pytest.mark.parametrize("zero", [["--sparsity.end_value=0.00"], ["--sparsity={end_value: 0}"], ["--config=mine.yaml"]])
def test_two_twins_are_not_compared(zero, capsys):
    Path("mine.yaml").write_text("sparsity: {end_value: 0e0}")
    assert main(["compare", *zero]) == 2
    assert "compare trains that twin itself" in capsys.readouterr().err
    assert not CommandLine(["fit", *[*zero, "--sparsity.end_value=1"]]).asks_for_no_penalty()
    assert not CommandLine(["fit", *[*zero, "--budget.target=5"]]).asks_for_no_penalty()
    assert not CommandLine(["fit", *[*zero, "--sparsity.end_value=much"]]).asks_for_no_penalty()


@quiet
@pytest.mark.slow
def test_compare_trains_the_twin_of_a_budget_at_lambda_0(tiny_args, capsys):
    args = [arg for arg in tiny_args if "end_value" not in arg]
    assert main(["compare", *args, "--budget.target=30", "--sparsity.end_value=0"]) == 0
    printed = capsys.readouterr().out
    assert lambdas(printed)[:4] == [0] * 4
    assert all(weight > 0 for weight in lambdas(printed)[5:])
    assert "twin (lambda 0)" in printed


# ---- slow ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@quiet
def test_two_processes_have_the_same_lambda_in_every_epoch(tiny_args):
    Path("watch.py").write_text(
        "from pytorch_lightning import Callback\n"
        "class Watch(Callback):\n"
        "    def on_train_epoch_end(self, trainer, module):\n"
        "        with open(f'rank{trainer.global_rank}.txt', 'a') as file:\n"
        "            print(module.sparsity_weight.hex(), file=file)\n"
    )
    args = [*tiny_args, "--budget.target=30", "--trainer.devices=2", "--trainer.strategy=ddp"]
    args += ["--trainer.callbacks+=watch.Watch", "--allow-import=watch"]
    ended = subprocess.run([sys.executable, "-m", "spikesparse", "fit", *args], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    first, second = (Path(f"rank{rank}.txt").read_text().splitlines() for rank in (0, 1))
    assert first == second
    assert len(set(first)) == 4
    assert ended.stdout.count("lambda 0 -> 0.2") == 1


@pytest.mark.slow
@quiet
def test_the_digits_keep_their_budget():
    config = CONFIGS / "experiment/digits_budget.yaml"
    cli = SpikeCLI(["fit", "--config", str(config), "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"])
    best = torch.load(cli.run_folder / "checkpoints/best.ckpt", weights_only=True)["measured"]
    for measured in (best, cli.model.measured):
        assert 0.7 * 6000 < measured["efficiency/spikes_per_image/val"] <= 1.02 * 6000
        assert measured["accuracy/val"] > 0.93
