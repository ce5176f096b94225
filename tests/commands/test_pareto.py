"""`spikesparse pareto`: the space, the front, the files, and that a study outlives its workers."""

import csv
import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest
import yaml
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState
from PIL import Image

from refusals import refused_with
from spikesparse.commands.main import main
from spikesparse.commands.pareto import close as closing
from spikesparse.commands.pareto import figure, testing, worker
from spikesparse.commands.pareto.close import close
from spikesparse.commands.pareto.front import FIGURE, FRONT, TRIALS, rows, write_tables
from spikesparse.commands.pareto.plan import Plan, is_cifar10, make_plan
from spikesparse.commands.pareto.published import Absolute, Relative
from spikesparse.commands.pareto.space import DEFAULT, Space, read_space
from spikesparse.commands.pareto.study import hand_back, open_study, origin, take_up_lost_trials
from spikesparse.commands.pareto.trial import TrialFailed
from spikesparse.files.locks import FileLock

SPACE = {
    "search": {
        "sparsity.end_value": {"low": 0.1, "high": 10.0, "log": True},
        "model.penalty.by": {"choices": ["spikes", "synops"]},
    },
    "first": [{"sparsity.end_value": 0.5}],
}
CHECKPOINT = "trial/x/seed0/checkpoints/best.ckpt"  # of each trial that `numbers` makes


def write_space(**changes):
    path = Path("space.yaml")
    path.write_text(yaml.safe_dump({**SPACE, **changes}))
    return path


def a_plan(trials=12, objective="synops", space=None):
    space = space or read_space(write_space())
    return Plan("s", Path("runs/pareto/s"), ["--x=1"], space, objective, trials, epochs=10, seed=0, cifar10=False)


def url(plan):
    return f"sqlite:///{plan.folder}/study.db"


def numbers(plan, values):
    """A finished study with these (accuracy, SynOps), the first of them the twin's."""
    study = open_study(plan, url(plan), 30, 120)
    for accuracy, synops in values:
        trial = study.ask()
        if not trial.user_attrs.get("twin"):
            plan.space.draw(trial)
        counts = {"accuracy_val": accuracy, "synops": synops, "spikes": synops / 50, "energy_uj": synops * 1e-6}
        more = {"first_layer_synops": 0.0, "first_layer_macs": 7000.0, "flags": ["--a=1"], "first_epoch": 0}
        trial.set_user_attr("folder", "trial")
        trial.set_user_attr("result", {**counts, **more, "checkpoint": CHECKPOINT, "minutes": 1.0})
        study.tell(trial, [accuracy, synops])
    return study


@pytest.mark.parametrize("path", sorted(DEFAULT.parent.glob("*.yaml")), ids=lambda path: path.stem)
def test_space_of_ours_is_read_and_its_twin_has_lambda_zero(path):
    space = read_space(path)
    weight = space.drawn["sparsity.end_value"]
    assert isinstance(weight, FloatDistribution)
    assert weight.log
    assert isinstance(space.drawn["model.penalty.by"], CategoricalDistribution)
    assert len(space.first) == 3
    assert {"--sparsity.start_value=0", "--sparsity.end_value=0", "--sparsity.end_epoch=6"} <= set(space.twin_flags(20))


def test_shares_of_the_ramp_become_epochs_that_leave_one_to_choose_from():
    space = Space({}, [])
    values = {"sparsity.end_value": 2.0, "ramp.start": 0.19, "ramp.end": 0.55, "x.y": None, "x.z": True}
    assert space.flags(values, 20) == [
        *("--sparsity.end_value=2.0", "--x.y=null", "--x.z=true", "--sparsity.start_epoch=3", "--sparsity.end_epoch=11")
    ]
    for epochs in range(1, 40):
        for end in (0.3, 0.6, 1.0):
            flags = dict(flag.split("=") for flag in space.flags({"ramp.start": 0.2, "ramp.end": end}, epochs))
            start, last = (int(flags[f"--sparsity.{name}_epoch"]) for name in ("start", "end"))
            assert 0 <= start <= last <= epochs - 1


def test_shares_of_the_ramp_are_of_the_epochs_that_are_drawn():
    flags = Space({}, []).flags({"trainer.max_epochs": 5, "ramp.start": 0.4, "ramp.end": 0.5}, 16)
    assert flags == ["--trainer.max_epochs=5", "--sparsity.start_epoch=2", "--sparsity.end_epoch=2"]


def test_what_is_drawn_leaves_the_twin_as_the_experiment_has_it(tiny_args, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["spikesparse"])
    search = {**SPACE["search"], "trainer.max_epochs": {"low": 2, "high": 9}, "seed_everything": {"low": 3, "high": 5}}
    unset = ("--sparsity.end_value", "--trainer.max_epochs")
    config = Path("mine.yaml")
    config.write_text("trainer: {max_epochs: 16}")
    args = ["--config=mine.yaml", *(arg for arg in tiny_args if not arg.startswith(unset))]
    plan = make_plan("study", Path("study"), args, read_space(write_space(search=search)), "spikes", 3)
    assert (plan.epochs, plan.seed) == (16, 0)


def test_a_budget_may_be_drawn_in_place_of_lambda_and_the_twin_has_none(tiny_args, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["spikesparse"])
    path = write_space(search={"budget.target": {"low": 50.0, "high": 900.0, "log": True}}, first=[])
    space = read_space(path)
    tiny_args = [arg for arg in tiny_args if "sparsity" not in arg]
    off = {"--budget.target=null", "--budget.reduction=null", "--budget.max_accuracy_drop=null"}
    assert off | {"--sparsity.end_value=0"} <= set(space.twin_flags(10))
    args = [*tiny_args, "--budget.target=100"]
    assert make_plan("study", Path("study"), tiny_args, space, "spikes", 3).trials == 3
    with refused_with(r"--budget\.target: the search sets this"):
        make_plan("study", Path("study"), args, space, "spikes", 3)
    with refused_with(r"sparsity\.end_value, which the search draws, is not read"):
        make_plan("study", Path("study"), args, read_space(DEFAULT), "spikes", 3)


def test_whole_numbers_are_drawn_whole():
    search = {**SPACE["search"], "data.timesteps": {"low": 2, "high": 8}}
    assert read_space(write_space(search=search)).drawn["data.timesteps"] == IntDistribution(2, 8)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"search": None}, "it needs `search:`"),
        ({"more": 1}, "it needs `search:`"),
        ({"search": {"model.penalty.by": {"choices": ["spikes"]}}}, "either sparsity.end_value, the weight"),
        (
            {"search": {**SPACE["search"], "budget.target": {"low": 1, "high": 9}}},
            "or budget.target, what may be spent",
        ),
        ({"search": {"sparsity.end_value": 3}}, "sparsity.end_value: 3 must be"),
        ({"search": {"sparsity.end_value": {"low": "1e-3", "high": 1}}}, "write 0.001, not 1e-3"),
        ({"search": {"sparsity.end_value": {"low": 2, "high": 1}}}, "low <= high"),
        ({"search": {"sparsity.end_value": {"low": 0, "high": 1, "log": True}}}, "low > 0"),
        ({"search": {"sparsity.end_value": {"low": 1, "high": 2, "steps": 3}}}, "something else"),
        ({"search": {"sparsity.end_value": {"choices": []}}}, "at least one plain value"),
        ({"search": {**SPACE["search"], "ramp.end": {"low": 1, "high": 4}}}, "a share of the epochs"),
        ({"search": {**SPACE["search"], "trainer.max_epochs": {"low": 0, "high": 4}}}, "whole numbers of at least 1"),
        ({"search": {**SPACE["search"], "trainer.max_epochs": {"low": 2.0, "high": 4}}}, "whole numbers of at least 1"),
        ({"search": {**SPACE["search"], "trainer.max_epochs": {"choices": [4, None]}}}, "whole numbers of at least 1"),
        ({"first": [{"sparsity.end_value": 0.0}]}, "first: sparsity.end_value=0.0 is not in"),
        ({"first": [{"model.penalty": "spikes"}]}, "first: model.penalty='spikes' is not in"),
    ],
)
def test_a_space_that_cannot_be_is_refused_in_one_line(changes, words, tiny_args, capsys):
    assert main(["pareto", *tiny_args[:2], f"--space={write_space(**changes)}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--space=space.yaml" in line
    assert words in line


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--trials=0", "--trials=0: it must be 1 or more"),
        ("--grace=10", "longer than --heartbeat=30"),
        ("--sparsity.end_value=1", "the search sets this"),
        ("--ckpt_path=x", "a study sets this itself"),
        ("--trainer.max_epochs=-1", "training runs that end"),
        ("--model.no_such_flag=1", "no_such_flag"),
        ("--storage=nosuch://x:secret@y", "--storage: cannot be used"),
    ],
)
def test_flags_that_cannot_be_are_refused_before_anything_is_trained(flag, words, capsys):
    assert main(["pareto", f"--space={write_space()}", flag]) == 2
    printed = capsys.readouterr().err
    assert words in printed.splitlines()[-1]
    assert "secret" not in printed
    assert not list(Path().glob("runs/pareto/*/trial*"))


def test_without_optuna_the_way_to_install_it_is_named(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert main(["pareto"]) == 2
    assert 'pip install "spikesparse[search]"' in capsys.readouterr().err


def test_twin_and_first_points_are_queued_once_however_many_workers_join():
    plan = a_plan()
    for _ in range(3):
        study = open_study(plan, url(plan), 30, 120)
    assert [trial.state for trial in study.trials] == [TrialState.WAITING] * 2
    assert study.trials[0].user_attrs["twin"]
    assert study.trials[1].system_attrs["fixed_params"] == SPACE["first"][0]


def test_a_study_about_something_else_is_not_joined():
    plan = a_plan()
    open_study(plan, url(plan), 30, 120)
    with pytest.raises(ValueError, match=r"--study=s: .* \(objective differ\)"):
        open_study(a_plan(objective="spikes"), url(plan), 30, 120)


def test_a_study_from_other_weights_is_not_joined():
    """The same flags, which name a checkpoint that was trained again."""
    weights = Path("twin.ckpt")
    weights.write_bytes(b"one")
    plan = dataclasses.replace(a_plan(), args=[f"--model.init_from={weights}"])
    study = open_study(plan, url(plan), 30, 120)
    assert len(open_study(plan, url(plan), 30, 120).trials) == 2
    weights.write_bytes(b"another")
    with pytest.raises(ValueError, match=r"--study=s: .* \(files differ\)"):
        open_study(plan, url(plan), 30, 120)
    told = study.user_attrs["identity"]
    study.set_user_attr("identity", {what: told[what] for what in told if what != "files"})
    assert len(open_study(plan, url(plan), 30, 120).trials) == 2  # of an earlier version, which did not tell


@pytest.mark.filterwarnings("ignore:Heartbeat of storage")  # asked by hand here
def test_draws_are_a_function_of_seed_and_trial_number():
    drawn = []
    for name in "ab":
        plan = a_plan()
        plan = Plan(**{**vars(plan), "folder": Path(f"runs/pareto/{name}")})
        drawn.append([trial.params for trial in numbers(plan, [(0.9 - i / 50, 100.0 * i) for i in range(14)]).trials])
    assert drawn[0] == drawn[1]
    assert len({json.dumps(each) for each in drawn[0]}) == 14


@pytest.mark.filterwarnings("ignore:Heartbeat of storage")
def test_front_is_the_one_found_by_comparing_all_pairs():
    values = [(0.9, 100.0), (0.9, 90.0), (0.8, 50.0), (0.7, 60.0), (0.95, 400.0), (0.8, 50.0), (0.2, 1.0), (0.1, 1.0)]
    plan = a_plan()
    table = rows(numbers(plan, values), plan)

    def beaten(a, s):
        return any(a2 >= a and s2 <= s and (a2, s2) != (a, s) for a2, s2 in values)

    assert [row["on_front"] for row in table] == ["no" if beaten(*value) else "yes" for value in values]
    write_tables(table, plan.folder)
    with (plan.folder / FRONT).open() as file:
        front = list(csv.DictReader(file))
    assert [float(row["accuracy_val"]) for row in front] == [0.2, 0.8, 0.8, 0.9, 0.95]
    assert front[-1]["checkpoint"] == f"runs/pareto/s/{CHECKPOINT}"
    with (plan.folder / TRIALS).open() as file:
        assert [int(row["trial"]) for row in csv.DictReader(file)] == list(range(8))


@pytest.fixture
def tests_run(monkeypatch):
    """The commands of tests, which are not run: the first writes a result, the second fails."""
    run = Path("runs/pareto/s/trial/x/seed0")
    run.mkdir(parents=True)
    commands = []

    def run_to_log(command, log, lock):
        commands.append(command)
        names = ("accuracy", "spikes", "synops", "energy_uj")
        (run / "result.json").write_text(json.dumps(dict.fromkeys(names, 0.5)))
        return len(commands) - 1

    monkeypatch.setattr(testing, "run_to_log", run_to_log)
    return commands


@pytest.mark.filterwarnings("ignore:Heartbeat of storage")
def test_the_front_is_tested_as_it_was_trained_wherever_that_was_set(tests_run):
    plan = dataclasses.replace(a_plan(), args=["--trainer.accelerator", "cpu", "--config", "mine.yaml"])
    trained = {"trainer": {"accelerator": "cpu", "precision": "bf16-mixed", "devices": 1}}
    Path("runs/pareto/s/trial/x/seed0/config.yaml").write_text(yaml.safe_dump(trained))
    testing.test_front(numbers(plan, [(0.9, 100.0)]), plan)
    flags = [f"--ckpt_path=runs/pareto/s/{CHECKPOINT}", "--trainer.accelerator=cpu", "--trainer.precision=bf16-mixed"]
    assert tests_run == [["test", *flags]]


@pytest.mark.filterwarnings("ignore:Heartbeat of storage")
def test_a_front_whose_test_fails_has_its_tables_and_what_was_tested_before(tests_run):
    plan = a_plan()
    with refused_with("--test: testing"):
        close(numbers(plan, [(0.9, 100.0), (0.8, 50.0)]), plan, test=True)
    assert (plan.folder / FIGURE).is_file()
    with (plan.folder / FRONT).open() as file:
        assert sorted(row["accuracy_test"] for row in csv.DictReader(file)) == ["", "0.5"]
    assert (plan.folder / TRIALS).is_file()


@pytest.mark.filterwarnings("ignore:Heartbeat of storage")
def test_a_trial_whose_worker_died_while_it_drew_is_queued_again():
    plan = a_plan()
    study = open_study(plan, url(plan), 30, 120)
    study.ask()  # the twin; and nobody goes on with it
    take_up_lost_trials(study)
    again = study.trials[-1]
    assert [trial.state.name for trial in study.trials] == ["FAIL", "WAITING", "WAITING"]
    assert again.user_attrs["twin"]
    assert origin(again) == 0


@pytest.fixture
def untrained(monkeypatch):
    """Trials that only say what they would have trained; `during` may do something in the meantime."""
    trained, during = [], []

    def train(folder, args, seed):
        trained.append((folder.name, args))
        for do in during:
            do(len(trained))
        return folder, 0

    counts = {name: 1.0 for name in ("accuracy_val", "spikes", "synops", "energy_uj", "first_layer_macs")}
    monkeypatch.setattr(worker, "train", train)
    monkeypatch.setattr(worker, "measured", lambda run: (run / "best.ckpt", {**counts, "first_layer_synops": 0.0}))
    return trained, during


def test_a_slow_worker_whose_trial_was_taken_up_goes_on_with_the_next(untrained, capsys):
    trained, during = untrained
    plan = a_plan(trials=4)
    study = open_study(plan, url(plan), 30, 120)

    def take_for_lost(count):
        if count == 2:
            (trial,) = study.get_trials(states=(TrialState.RUNNING,))
            study.tell(trial.number, state=TrialState.FAIL)
            hand_back(study, trial)

    during.append(take_for_lost)
    worker.work(study, plan, poll=0.1)
    printed = capsys.readouterr().out
    assert "trial 1: taken for lost" in printed
    assert re.search(r"^trial 0  begins  lambda 0 \(twin\)  \S*trial0000/train.log$", printed, re.M)
    assert re.search(r"^trial 2  begins  lambda [\d.e-]+  \S*trial0001/train.log$", printed, re.M)  # taken up
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "FAIL", "COMPLETE", "COMPLETE", "COMPLETE"]
    assert trained[2] == trained[1]  # the same folder, the same flags
    assert trained[0][1] == ["--x=1", *plan.space.twin_flags(10)]


@pytest.mark.parametrize("at", ["draw", "train", "measured", "machine"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_a_trial_that_its_worker_leaves_anywhere_is_queued_again(at, error, untrained, monkeypatch):
    plan = a_plan(trials=2, space=Space(read_space(write_space()).drawn, []))
    owner = Space if at == "draw" else worker
    left = 1 if at == "draw" else 0  # the twin draws nothing

    def leave(*_):
        monkeypatch.setattr(owner, at, whole)
        raise error

    whole = getattr(owner, at)
    monkeypatch.setattr(owner, at, leave)
    study = open_study(plan, url(plan), 30, 120)
    with pytest.raises(error):
        worker.work(study, plan, poll=0.1)
    again = study.trials[left + 1]
    assert (study.trials[left].state, again.state, origin(again)) == (TrialState.FAIL, TrialState.WAITING, left)
    assert rows(study, plan)[left]["note"] == "stopped; given up"  # so far: nobody has begun to go on with it
    worker.work(study, plan, poll=0.1)
    table = rows(study, plan)
    assert [row["state"] for row in table if row["took_up_trial"] == left] == ["complete"]
    assert [row["twin"] for row in table if row["state"] == "complete"].count("yes") == 1
    assert table[left]["note"] == f"stopped; goes on as trial {left + 1}"
    folders = {folder for folder, _ in untrained[0]}
    assert folders == {"trial0000", f"trial{1 if left else 2:04d}"}


@pytest.mark.parametrize("kept", [False, True])
def test_a_signal_while_a_result_is_stored_loses_neither_the_trial_nor_the_signal(kept, untrained, monkeypatch):
    plan = a_plan(trials=1)
    study = open_study(plan, url(plan), 30, 120)
    store = study._storage.set_trial_state_values

    def interrupted(number, state, values=None):
        if state != TrialState.COMPLETE:
            return store(number, state, values)
        if kept:
            store(number, state, values)
        raise KeyboardInterrupt

    monkeypatch.setattr(study._storage, "set_trial_state_values", interrupted)
    with pytest.raises(KeyboardInterrupt):
        worker.work(study, plan, poll=0.1)
    assert [trial.state.name for trial in study.trials] == (
        ["COMPLETE", "WAITING"] if kept else ["FAIL", "WAITING", "WAITING"]
    )


def test_a_worker_that_is_stopped_stops_also_if_its_trial_was_taken_up(untrained):
    plan = a_plan(trials=4)
    study = open_study(plan, url(plan), 30, 120)

    def take_for_lost(count):
        (trial,) = study.get_trials(states=(TrialState.RUNNING,))
        study.tell(trial.number, state=TrialState.FAIL)
        hand_back(study, trial)
        raise KeyboardInterrupt

    untrained[1].append(take_for_lost)
    with pytest.raises(KeyboardInterrupt):
        worker.work(study, plan, poll=0.1)
    assert [trial.state.name for trial in study.trials] == ["FAIL", "WAITING", "WAITING"]  # queued once, by the other


def test_failed_trials_are_replaced_and_a_search_that_only_fails_gives_up(untrained, capsys):
    during, plan = untrained[1], a_plan(trials=3)

    def fail(count):
        if count != 2:
            raise TrialFailed("the loss is not finite.")

    during.append(fail)
    words = r"3 trials failed and 1 finished since this worker began, the last with the loss is not finite\."
    with refused_with(words):
        worker.work(open_study(plan, url(plan), 30, 120), plan, poll=0.1)
    during.clear()
    assert "trial 0: failed, the loss is not finite. See trial0000/train.log" in capsys.readouterr().out


def test_trials_that_failed_before_a_worker_began_do_not_make_it_give_up(untrained):
    during, plan = untrained[1], a_plan(trials=2)
    study = open_study(plan, url(plan), 30, 120)

    def fail(count):
        raise TrialFailed("no space left on the disk.")

    during.append(fail)
    for failures in (3, 6):  # still broken: three more are enough to see it
        with refused_with(r"3 trials failed and 0 finished"):
            worker.work(study, plan, poll=0.1)
        assert [trial.state for trial in study.trials] == [TrialState.FAIL] * failures
    during.clear()
    worker.work(study, plan, poll=0.1)
    assert [trial.state for trial in study.trials[6:]] == [TrialState.COMPLETE] * 2


def test_a_twin_that_failed_goes_on_when_the_search_is_started_again(untrained):
    trained, during = untrained

    def fail(count):
        if count == 1:
            raise TrialFailed("no space left on the disk.")

    during.append(fail)
    for trials in (2, 3):
        plan = a_plan(trials=trials)
        worker.work(open_study(plan, url(plan), 30, 120), plan, poll=0.1)
    study = open_study(plan, url(plan), 30, 120)
    assert [trial.state.name for trial in study.trials] == ["FAIL", "COMPLETE", "COMPLETE", "COMPLETE"]
    assert [bool(trial.user_attrs.get("twin")) for trial in study.trials] == [True, False, False, True]
    assert trained[3] == trained[0]  # the same folder, the same flags


@pytest.mark.parametrize("cifar10", [True, False])
@pytest.mark.filterwarnings("ignore:Heartbeat of storage")
def test_figure_has_our_points_and_those_of_others_where_they_belong(cifar10, monkeypatch):
    theirs = Relative("theirs", "red", ((0.701, 0.0), (0.733, 1.0)), "saved against a twin")
    curve = Absolute("curve", "green", ((2179, 91.75), (44, 77.15)), 2_544_768, "on the test set", "of CIFAR-10 only")
    monkeypatch.setattr(figure, "RELATIVE", (theirs,))
    monkeypatch.setattr(figure, "ABSOLUTE", (curve,))
    plan = a_plan()
    table = rows(numbers(plan, [(0.9, 1e6), (0.89, 4e5), (0.7, 6e5)]), plan)
    drawn = []
    monkeypatch.setattr(figure.Figure, "savefig", lambda self, *_, **__: drawn.append(self))
    figure.write_figure(table, plan.folder / FIGURE, "title", cifar10)
    panels = [{line.get_label(): line.get_xydata().tolist() for line in axes.lines} for axes in drawn[0].axes]
    relative, without, whole = panels
    assert relative["our accuracy-only twin"] == [[100, 90]]
    assert relative["theirs"] == [pytest.approx([29.9, 90]), pytest.approx([26.7, 89])]
    assert without["theirs"] == [pytest.approx([299e3, 90]), pytest.approx([267e3, 89])]
    assert whole["theirs"] == [pytest.approx([306e3, 90]), pytest.approx([274e3, 89])]
    assert without["ours: the front"] == [pytest.approx([4e5, 89]), pytest.approx([1e6, 90])]
    assert whole["other trials"] == [pytest.approx([607e3, 70])]
    if cifar10:
        assert without["curve"][0] == [2179e6, 91.75]
        assert whole["curve"][-1] == [44e6 + 2_544_768, 77.15]
    assert ["curve" in panel for panel in panels] == [False, cifar10, cifar10]
    note = "saved against a twin\n" + ("on the test set" if cifar10 else "of CIFAR-10 only")
    assert drawn[0].legends[0].get_title().get_text() == note


@pytest.mark.filterwarnings("ignore:Heartbeat of storage")
def test_figure_is_drawn_where_nobody_else_s_points_are_known(monkeypatch):
    monkeypatch.setattr(figure, "RELATIVE", ())
    monkeypatch.setattr(figure, "ABSOLUTE", ())
    plan = a_plan()
    figure.write_figure(rows(numbers(plan, [(0.9, 1e6), (0.89, 4e5)]), plan), plan.folder / FIGURE, "title", True)
    with Image.open(plan.folder / FIGURE) as image:
        assert image.width > 1000


@pytest.mark.parametrize(
    ("source", "data_dir", "is_one"),
    [
        *[("cifar10", "data", True), ("npz", "data/cifar10.npz", True), ("folder", "CIFAR-10", True)],
        *[("cifar100", "data", False), ("cifar100", "data/cifar10", False), ("npz", "cifar100.npz", False)],
        *[("digits", "cifar10", False), ("npz", "cifar10/flowers.npz", False)],
    ],
)
def test_which_images_are_cifar10s(source, data_dir, is_one):
    assert is_cifar10(source, data_dir) == is_one


@pytest.mark.filterwarnings("ignore:Heartbeat of storage")
@pytest.mark.slow
def test_curves_of_cifar10_are_drawn_beside_cifar10_alone(tiny_args, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["spikesparse"])
    said = []
    monkeypatch.setattr(closing, "write_figure", lambda *_, cifar10: said.append(cifar10))
    args = [arg for arg in tiny_args if not arg.startswith(("--data.source", "--sparsity.end_value"))]
    for source in ("cifar10", "cifar100"):
        name = f"of_{source}"
        space = read_space(write_space())
        plan = make_plan(name, Path(name), [*args, f"--data.source={source}"], space, "synops", 1)
        close(numbers(plan, [(0.9, 100.0)]), plan, test=False)
    assert said == [True, False]


# What follows trains.


@pytest.fixture
def start():
    """Starts a search; what is still there at the end is ended."""
    started = []

    def begin(*args):
        flags = [f"--space={write_space()}", "--heartbeat=1", "--grace=5"]
        process = subprocess.Popen(
            [sys.executable, "-m", "spikesparse", "pareto", *flags, *args],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        process.terminate()
        process.wait()
        process.stdout.close()


def the_study(name="s"):
    return optuna.load_study(study_name=name, storage=f"sqlite:///runs/pareto/{name}/study.db")


def wait_for(what, workers, seconds=120):
    until = time.monotonic() + seconds
    while not (found := what()):
        ended = [worker.stdout.read() for worker in workers if worker.poll() is not None]
        assert not ended, ended
        assert time.monotonic() < until
        time.sleep(0.05)
    return found


def starts_and_epochs(log):
    """Of each run in a log, the epochs that it ended."""
    runs = log.read_text().split("$ spikesparse fit")[1:]
    return [[int(epoch) for epoch in re.findall(r"^epoch (\d+)/", run, re.MULTILINE)] for run in runs]


def lengthened(args, epochs):
    set_here = ("--trainer.max_epochs", "--sparsity.end_value")
    args = [arg for arg in args if not arg.startswith(set_here)]
    return [*args, f"--trainer.max_epochs={epochs}", "--dashboard.every_n_epochs=0"]


@pytest.mark.timeout(1800)  # a dozen trainings: minutes on a slow machine
@pytest.mark.slow
def test_two_workers_one_killed_finish_as_many_trials_as_asked_and_none_twice(tiny_args, start):
    epochs, trials = 14, 13
    flags = ["--study=s", f"--trials={trials}", *lengthened(tiny_args, epochs)]
    workers = [start(*flags), start(*flags)]

    def in_mid_trial():
        logs = list(Path("runs/pareto/s").glob("trial*/train.log"))
        if len(logs) < 4:
            return None
        for trial in the_study().get_trials(states=(TrialState.RUNNING,)):
            log = Path("runs/pareto/s") / trial.user_attrs.get("folder", "-") / "train.log"
            if log.is_file() and any(3 <= len(each) < epochs - 4 for each in starts_and_epochs(log)):
                return trial
        return None

    lost = wait_for(in_mid_trial, workers)
    pid = int(lost.user_attrs["worker"].split()[-1])
    os.kill(pid, signal.SIGKILL)
    killed, alive = sorted(workers, key=lambda worker: worker.pid != pid)
    killed.wait()
    folder = Path("runs/pareto/s") / lost.user_attrs["folder"]
    killed_at = time.monotonic()
    with FileLock(folder / "lock"):  # the run died with its worker: nobody writes here any more
        assert time.monotonic() - killed_at < 2
        (before,) = starts_and_epochs(folder / "train.log")
    printed = alive.communicate(timeout=900)[0]
    assert alive.returncode == 0, printed

    study = the_study()
    finished = study.get_trials(states=(TrialState.COMPLETE,))
    assert len(finished) == trials
    assert [trial.number for trial in study.trials if trial.state == TrialState.FAIL] == [lost.number]
    (again,) = [trial for trial in finished if origin(trial) != trial.number]
    assert origin(again) == lost.number
    assert again.params == lost.params
    runs = {log.parent.name: starts_and_epochs(log) for log in Path("runs/pareto/s").glob("trial*/train.log")}
    assert len(runs) == trials
    first, second = runs.pop(folder.name)
    assert first == before
    assert len(first) >= 3
    assert second[-1] == epochs
    assert second == list(range(second[0], epochs + 1))
    assert 1 < second[0] <= len(first) + 1  # the last epoch's line may be there before its checkpoint, or after
    assert again.user_attrs["result"]["first_epoch"] == second[0] - 1
    for name, each in runs.items():
        assert each == [list(range(1, epochs + 1))], name
    assert len(list(Path("runs/pareto/s").glob("trial*/*/seed0"))) == trials

    with Path("runs/pareto/s", TRIALS).open() as file:
        table = list(csv.DictReader(file))
    assert [row["note"] for row in table if row["state"] == "fail"] == [
        f"its worker was lost; goes on as trial {again.number}"
    ]
    for row in table:
        assert row["state"] == "fail" or Path(row["checkpoint"]).is_file()
    with Image.open(Path("runs/pareto/s", FIGURE)) as image:
        assert image.size[0] > 1000

    once_more = start(*flags)  # complete: nothing is trained
    printed = once_more.communicate(timeout=100)[0]
    assert "complete, 13 finished trials" in printed
    assert len(the_study().trials) == trials + 1


@pytest.mark.slow
def test_a_stopped_study_goes_on_and_its_front_is_tested_once(tiny_args, start):
    flags = ["--study=s", "--trials=3", *lengthened(tiny_args, 14), "--trainer.accelerator", "cpu"]
    first = start("--workers=2", *flags)
    logs = Path("runs/pareto/s")
    wait_for(lambda: [log for log in logs.glob("*/train.log") if "epoch 3/" in log.read_text()], [first])
    first.terminate()
    printed = first.communicate(timeout=60)[0]
    assert first.returncode == 130, printed
    assert "stopped; the same command goes on with it" in printed
    states = [trial.state.name for trial in the_study().trials]
    assert "RUNNING" not in states
    assert "FAIL" in states
    printed = start("--test", "--objective=synops", *flags).communicate(timeout=200)[0]
    assert "complete, 3 finished trials" in printed, printed
    study = the_study()
    finished = study.get_trials(states=(TrialState.COMPLETE,))
    assert max(trial.user_attrs["result"]["first_epoch"] for trial in finished) >= 2  # epoch 3 may not be kept yet
    with Path("runs/pareto/s", FRONT).open() as file:
        front = list(csv.DictReader(file))
    assert len(front) == len(study.best_trials) == printed.count("test accuracy")
    for row in front:
        tested = json.loads((Path(row["checkpoint"]).parents[1] / "result.json").read_text())
        assert float(row["accuracy_test"]) == tested["accuracy"]
        assert tested["split"] == "test"
    assert "test accuracy" not in start("--test", *flags).communicate(timeout=100)[0]
