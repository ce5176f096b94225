"""A trial of `spikesparse pareto`: which run is its own, and what is gone on with."""

import json
from pathlib import Path

import pytest
import torch

from spikesparse.commands.main import main
from spikesparse.commands.pareto import trial
from spikesparse.commands.pareto.trial import measured, train

quiet = pytest.mark.filterwarnings("ignore")  # Lightning's advice on tiny runs is not what is tested here
FOLDER = Path("runs/pareto/s/trial0001")


@pytest.fixture
def fits(monkeypatch):
    """The runs that are started, here and not in a process of their own: their commands."""
    commands = []

    def run(command, log, lock):
        commands.append(command)
        return main(command)

    monkeypatch.setattr(trial, "run_to_log", run)
    return commands


@pytest.fixture
def one_step(tiny_args):
    return [*tiny_args, "--trainer.limit_train_batches=1", "--dashboard.every_n_epochs=0"]


def unfinished(run):
    """As if its worker had been killed before the run came to its end."""
    kept = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**kept, "finished": False}))


@quiet
def test_a_run_under_other_flags_in_a_trials_folder_is_not_the_trials(one_step, fits):
    older, _ = train(FOLDER, [*one_step, "--sparsity.end_value=3"], 0)
    run, first_epoch = train(FOLDER, one_step, 0)  # the study was deleted, and another takes its folder
    assert (run != older, first_epoch) == (True, 0)
    checkpoint, _ = measured(run)
    assert torch.load(checkpoint, weights_only=True)["settings"]["sparsity"]["end_value"] == 1
    assert "--ckpt_path" not in " ".join(fits[-1])


@quiet
@pytest.mark.slow
def test_a_run_by_another_configuration_in_a_trials_folder_is_set_aside(one_step, fits):
    config = Path("mine.yaml")
    for steps, epochs_before in ((2, 0), (2, 4), (3, 0)):
        config.write_text(f"data: {{val_split: 0.{steps}}}")
        run, first_epoch = train(FOLDER, ["--config=mine.yaml", *one_step], 0)
        assert first_epoch == epochs_before
    assert run.with_name("seed0-earlier1").is_dir()


@quiet
def test_a_trial_killed_before_it_was_measured_is_not_trained_again(one_step, fits, capsys):
    run, _ = train(FOLDER, one_step, 0)
    at = {path: path.stat().st_mtime_ns for path in run.glob("checkpoints/*")}
    capsys.readouterr()
    assert train(FOLDER, one_step, 0) == (run, 4)
    assert "finished: not trained again" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in run.glob("checkpoints/*")} == at


@quiet
@pytest.mark.slow
def test_a_killed_trial_goes_on_from_the_checkpoint_before_a_damaged_one(one_step, fits):
    run, _ = train(FOLDER, one_step, 0)
    unfinished(run)
    last = run / "checkpoints/last.ckpt"
    whole = last.read_bytes()
    last.write_bytes(whole[: len(whole) // 2])
    assert train(FOLDER, one_step, 0) == (run, 3)
    assert torch.load(last, weights_only=True)["epoch"] == 3
    for path in run.glob("checkpoints/*"):
        path.write_bytes(b"no checkpoint")
    unfinished(run)
    assert train(FOLDER, one_step, 0) == (run, 0)  # begun anew


@quiet
def test_a_trial_that_draws_its_seed_has_a_run_for_each(one_step, fits):
    runs = [train(FOLDER, [*one_step, f"--seed_everything={seed}"], seed)[0] for seed in (5, 6)]
    assert [run.name for run in runs] == ["seed5", "seed6"]
