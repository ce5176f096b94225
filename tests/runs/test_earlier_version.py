"""Runs that commit e0223ef made, before the modules moved: they load, test, predict, and are trained on to the bit.

``earlier_version`` holds two of its run folders: one that is finished, and one that was stopped after its first of
three epochs. The expected counts are what that commit itself measured.
"""

import csv
import json
import shutil
from pathlib import Path

import pytest
import torch

from spikesparse import load_run
from spikesparse.commands.main import main

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's advice on tiny runs is not what is tested here
FINISHED, STOPPED = (Path("runs") / name / "seed0" for name in ("base-6fe88342", "base-9b655584"))
FEW = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--trainer.limit_test_batches=1"]


@pytest.fixture(autouse=True)
def _runs():
    shutil.copytree(Path(__file__).parent / "earlier_version", "runs")


def command_of(folder):
    return json.loads((folder / "run.json").read_text())["command"][1:]


def result_of(folder):
    result = json.loads((folder / "result.json").read_text())
    return [result[name] for name in ("accuracy", "spikes", "synops")]


def test_it_loads():
    for folder in (FINISHED, STOPPED):
        module, data = load_run(folder)
        saved = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
        assert module.state_dict().keys() == saved.keys()
        assert (module.net.timesteps, data.source, data.batch_size) == (2, "digits", 64)
    assert [name for name, _ in module.net.layers.items()] == ["conv1", "conv2", "fc1", "classifier"]
    assert torch.equal(module.net.layers["conv1"].weights.weight, saved["net.layers.conv1.weights.weight"])


def test_a_test_measures_what_it_measured_then():
    (FINISHED / "result.json").unlink()
    assert main(["test", f"--ckpt_path={FINISHED}/checkpoints/best.ckpt", *FEW]) == 0
    assert result_of(FINISHED) == pytest.approx([0.125, 8.53125, 63.46875])


def test_a_prediction_for_each_image():
    few = [*FEW[:2], "--trainer.limit_predict_batches=1", "--data.predict_on=test"]
    assert main(["predict", f"--ckpt_path={FINISHED}/checkpoints/best.ckpt", *few]) == 0
    with (FINISHED / "predictions_test.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 64
    assert sum(float(row["spikes"]) for row in rows) / 64 == pytest.approx(8.53125)


def test_a_finished_run_is_not_trained_again(capsys):
    assert main(["train", *command_of(FINISHED)]) == 0
    assert "finished: not trained again" in capsys.readouterr().out
    assert result_of(FINISHED) == [0.125, 8.53125, 63.46875]


def test_the_same_command_goes_on_with_a_stopped_run(capsys):
    assert main(["train", *command_of(STOPPED)]) == 0
    assert f"going on from {STOPPED}/checkpoints/last.ckpt (before epoch 2, step 2)" in capsys.readouterr().out
    assert result_of(STOPPED) == pytest.approx([0.125, 9.296875, 66.625])


@pytest.mark.slow
def test_its_config_file_is_read():
    """With the class paths of then."""
    text = (FINISHED / "config.yaml").read_text()
    assert "spikesparse.progress.EpochLines" in text
    args = [f"--config={FINISHED}/config.yaml", "--trainer.max_epochs=1", "--trainer.logger.init_args.save_dir=new"]
    assert main(["fit", *args, "--trainer.logger.init_args.name=null", "--trainer.logger.init_args.version=null"]) == 0
    assert list(Path("new").rglob("last.ckpt"))
