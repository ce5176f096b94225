"""How long a run was trained: against a clock, over several sittings, and whatever state is loaded afterwards."""

import json
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from spikesparse.commands.main import main
from spikesparse.commands.report.runs import read_run
from spikesparse.settings.command_line import CommandLine
from spikesparse.training import progress
from spikesparse.training.module import SpikingClassifier
from spikesparse.training.process_state import ProcessState
from spikesparse.training.progress import TrainingTime

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's advice on tiny runs is not what is tested here
HOUR = 3600.0


class Killed(BaseException):
    pass


def folder_of(args):
    return Path("runs") / CommandLine(["fit", *args]).run_name() / "seed0"


@pytest.fixture
def hour_an_epoch(monkeypatch):
    """Every epoch takes an hour; ``kill_in`` an epoch ends the process there. ``real()`` is the time that went by."""
    real, begin = time.monotonic, SpikingClassifier.on_train_epoch_start
    state = SimpleNamespace(hours=0, kill_in=None, real=real)

    def on_train_epoch_start(self):
        state.hours += 1
        if self.trainer.current_epoch == state.kill_in:
            raise Killed
        begin(self)

    monkeypatch.setattr(time, "monotonic", lambda: real() + HOUR * state.hours)
    monkeypatch.setattr(SpikingClassifier, "on_train_epoch_start", on_train_epoch_start)
    return state


@pytest.mark.slow
def test_training_time_is_that_of_all_sittings_and_of_each_once(tiny_args, hour_an_epoch):
    """The wall time of all commands is known, and so is that of the epochs: it lies between the two."""
    args = ["train", *tiny_args, "--trainer.limit_train_batches=1"]
    began, hour_an_epoch.kill_in = hour_an_epoch.real(), 2
    with pytest.raises(Killed):
        main(args)
    hour_an_epoch.kill_in = None
    assert main(args) == 0
    wall = hour_an_epoch.real() - began
    assert hour_an_epoch.hours == 5  # one of them is lost
    result = json.loads((folder_of(args[1:]) / "result.json").read_text())
    assert 4 * HOUR <= result["fit_seconds"] <= 4 * HOUR + wall
    assert result["epochs"] == 4
    assert read_run(folder_of(args[1:])).seconds == result["fit_seconds"]
    best = folder_of(args[1:]) / "checkpoints/best.ckpt"
    assert main(["test", f"--ckpt_path={best}", "--trainer.accelerator=cpu"]) == 0
    assert json.loads((folder_of(args[1:]) / "result.json").read_text())["fit_seconds"] == result["fit_seconds"]


@pytest.mark.slow
def test_max_time_ends_a_training_and_is_counted_once(tiny_args, hour_an_epoch):
    args = ["train", *tiny_args, "--trainer.limit_train_batches=2", "--trainer.max_time=00:01:30:00"]
    began = hour_an_epoch.real()
    assert main([*args, "--sparsity.end_epoch=0"]) == 0
    result = json.loads((folder_of([*args[1:], "--sparsity.end_epoch=0"]) / "result.json").read_text())
    assert result["epochs"] == hour_an_epoch.hours == 2  # of four: the second is over the time
    assert 2 * HOUR <= result["fit_seconds"] <= 2 * HOUR + (hour_an_epoch.real() - began)


def test_a_clock_by_hand(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now[0]))
    timed = TrainingTime()
    timed.setup(None, None, "fit")
    timed.load_state_dict({"time_elapsed": {"train": 7.0, "validate": 3.0}})  # as Lightning's Timer wrote it
    timed.on_train_start(None, None)
    now[0] += 5
    assert timed.seconds == 12
    assert timed.state_dict() == {"time_elapsed": {"train": 12.0}}
    timed.on_train_end(None, None)
    now[0] += 50
    timed.setup(None, None, "test")
    timed.load_state_dict({"time_elapsed": {"train": 9.0}})  # of the best epoch, which is tested
    assert timed.seconds == 12
    timed.setup(None, None, "fit")  # trained on in this process
    timed.on_train_start(None, None)
    now[0] += 3
    timed.on_exception(None, None, RuntimeError())
    now[0] += 50
    assert timed.seconds == 15


@pytest.mark.parametrize(("doing", "kept"), [("test", False), ("validate", False), ("fit", True)])
def test_what_is_tested_is_not_what_a_later_training_goes_on_from(doing, kept):
    state = ProcessState()
    state.on_load_checkpoint(
        SimpleNamespace(state=SimpleNamespace(fn=doing)), None, {"measured": {"accuracy/val": 1.0}}
    )
    assert (state._loaded is not None) is kept
