"""Whole runs through the command line: determinism, resuming, precedence of settings, errors, prediction."""

import csv
import hashlib
import json
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from pytorch_lightning import Trainer

from fitting import Losses, fit
from refusals import refused_with
from spikesparse import load_run
from spikesparse.commands.cli import SpikeCLI
from spikesparse.commands.main import main
from spikesparse.commands.train import _compare_command
from spikesparse.files.paths import CONFIGS
from spikesparse.runs.bill_files import read_rows
from spikesparse.runs.folder import refuse_blocked
from spikesparse.runs.result import load_result
from spikesparse.settings.command_line import CommandLine
from spikesparse.settings.parser import COUNTS_OR_SHARES

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's advice on tiny runs is not what is tested here


class StopAfter(Losses):
    """Ends training after an epoch, as a person would with Ctrl-C between two epochs."""

    def __init__(self, epochs):
        super().__init__()
        self.epochs = epochs

    def on_train_epoch_end(self, trainer, pl_module):
        trainer.should_stop = trainer.current_epoch + 1 >= self.epochs


def run_name(args):
    return CommandLine(args).run_name()


def weights(cli):
    return {name: value.clone() for name, value in cli.model.state_dict().items()}


def assert_same(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert torch.equal(ours[name], theirs[name]), name


@pytest.mark.slow
def test_same_seed_gives_bit_identical_losses_and_another_seed_does_not(tiny_args):
    traces = []
    for seed in (3, 3, 4):
        losses = Losses()
        fit([*tiny_args, f"--seed_everything={seed}"], losses)
        traces.append(losses.values)
    assert len(traces[0]) == 4 * 5  # 36 images in batches of 8
    assert traces[0] == traces[1]
    assert traces[0] != traces[2]


@pytest.mark.slow
@pytest.mark.parametrize("stop", [1, 3])
def test_run_stopped_at_an_epochs_end_and_resumed_equals_the_uninterrupted_one(tiny_args, stop):
    whole = Losses()
    cli = fit(tiny_args, whole)
    uninterrupted = weights(cli)
    scheduler = cli.trainer.lr_scheduler_configs[0].scheduler.state_dict()

    first = StopAfter(stop)
    folder = fit(tiny_args, first).run_folder
    second = Losses()
    resumed = fit([*tiny_args, f"--ckpt_path={folder}/checkpoints/last.ckpt"], second)

    assert first.values + second.values == whole.values
    assert_same(weights(resumed), uninterrupted)
    assert resumed.trainer.lr_scheduler_configs[0].scheduler.state_dict() == scheduler
    assert resumed.run_folder == folder


def test_twin_and_sparse_network_start_from_the_same_weights_and_see_the_same_batches(tiny_args):
    first = []
    for end in ("0", "1"):
        losses = Losses()
        fit([*tiny_args, f"--sparsity.end_value={end}"], losses)
        first.append(losses.values[:5])  # lambda is 0 in the first epoch of both
    assert first[0] == first[1]


def test_train_writes_table_result_and_next_commands(tiny_args, capsys):
    assert main(["train", *tiny_args]) == 0
    printed = capsys.readouterr().out
    for word in (
        "per image",
        "spikes",
        "rate",
        "SynOps",
        "conv1",
        "fc1",
        "classifier",
        "total",
        "uJ/image",
        "accuracy",
    ):
        assert word in printed
    for word in ("make tensorboard", f"its twin      spikesparse compare {tiny_args[0]} ", "result.json", "bill.csv"):
        assert word in printed
    assert "/: config.yaml, checkpoints/best.ckpt, checkpoints/last.ckpt, result.json\n" in printed
    folder = Path("runs") / CommandLine(["fit", *tiny_args]).run_name() / "seed0"
    result = json.loads((folder / "result.json").read_text())
    assert result["split"] == "test"
    with (folder / "predictions_test.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 12
    assert sum(row["label"] == row["predicted"] for row in rows) / 12 == pytest.approx(result["accuracy"], abs=1e-6)
    assert sum(int(row["spikes"]) for row in rows) / 12 == pytest.approx(result["spikes"], abs=1e-6)
    bill = json.loads((folder / "bill.json").read_text())
    layers = [row for name, row in bill["rows"].items() if name in ("conv1", "fc1", "classifier")]
    assert bill["images"] == 12
    assert result["spikes"] * 12 == pytest.approx(sum(row.get("spikes", 0) for row in layers), rel=1e-12)
    assert result["synops"] * 12 == pytest.approx(sum(row["synops"] for row in layers), rel=1e-12)
    assert {"config.yaml", "checkpoints", "result.json", "bill.csv"} <= {p.name for p in folder.iterdir()}
    assert list(folder.glob("events.*"))


def test_train_tests_an_epoch_at_lambdas_end_value(tiny_args):
    main(["train", *tiny_args])
    folder = Path("runs") / CommandLine(["fit", *tiny_args]).run_name() / "seed0"
    best = torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)
    assert best["epoch"] >= 2  # --sparsity.end_epoch of the tiny run


@pytest.mark.filterwarnings("ignore")  # Lightning's, of metrics that no logger takes
def test_train_without_a_logger_has_no_run_folder_and_ends_well(tiny_args, capsys):
    assert main(["train", *tiny_args, "--trainer.logger=false"]) == 0
    printed = capsys.readouterr().out
    assert "make tensorboard" in printed
    assert "files  " not in printed


@pytest.mark.slow
def test_second_run_of_the_same_command_keeps_the_first(tiny_args, capsys):
    short = [*tiny_args, "--trainer.limit_train_batches=1"]
    folder = fit(short).run_folder
    (folder / "mine.txt").write_text("kept")
    assert fit(short).run_folder == folder
    assert (folder.parent / "seed0-earlier1" / "mine.txt").read_text() == "kept"
    assert "kept as" in capsys.readouterr().out


@pytest.mark.slow
def test_compare_prints_both_and_the_change(tiny_args, capsys):
    assert main(["compare", *tiny_args, "--trainer.limit_train_batches=2"]) == 0
    printed = capsys.readouterr().out
    table = printed[printed.index("accuracy-only twin") :]
    for word in ("twin (lambda 0)", "sparse", "change", "points", "%", "spikes/image", "SynOps/image"):
        assert word in table
    assert main(["compare", *tiny_args, "--trainer.limit_train_batches=2"]) == 0
    assert capsys.readouterr().out.count("not trained again") == 2


@pytest.mark.slow
def test_compare_trains_again_after_a_config_file_was_edited(tiny_args, tmp_path, capsys):
    mine = tmp_path / "mine.yaml"
    args = ["compare", "--config", str(mine), *tiny_args, "--trainer.limit_train_batches=1"]
    for smoothing, reused in ((0.0, 0), (0.0, 2), (0.1, 0)):
        mine.write_text(yaml.safe_dump({"model": {"label_smoothing": smoothing}}))
        assert main(args) == 0
        assert capsys.readouterr().out.count("not trained again") == reused


@pytest.mark.parametrize("strategy", ["ddp_spawn", "ddp_fork", "ddp_notebook"])
def test_strategies_that_keep_their_results_are_refused_before_training(tiny_args, strategy, capsys):
    assert main(["train", *tiny_args, f"--trainer.strategy={strategy}"]) == 2
    assert "--trainer.strategy=ddp." in capsys.readouterr().err
    assert not Path("runs").exists()


def test_load_run_gives_back_the_module_and_its_data(tiny_args):
    main(["train", *tiny_args])
    folder = Path("runs") / CommandLine(["fit", *tiny_args]).run_name() / "seed0"
    module, data = load_run(folder)
    data.setup("test")
    batches = [data.encode(batch) for batch in data.test_dataloader()]
    with torch.no_grad():
        outputs = [module(batch.images) for batch in batches]
    result = json.loads((folder / "result.json").read_text())
    right = sum(int((o.logits.argmax(1) == b.labels).sum()) for o, b in zip(outputs, batches, strict=True))
    assert right / 12 == pytest.approx(result["accuracy"], abs=1e-7)
    assert sum(float(o.tally.spikes.sum()) for o in outputs) / 12 == pytest.approx(result["spikes"], rel=1e-12)


@pytest.mark.slow
def test_damaged_results_are_named_and_made_anew(tiny_args, capsys):
    args = [*tiny_args, "--trainer.limit_train_batches=1", "--trainer.max_epochs=3"]
    assert main(["train", *args]) == 0
    folder = Path("runs") / CommandLine(["fit", *args]).run_name() / "seed0"
    file, bill = folder / "result.json", folder / "bill.json"
    whole, rows = json.loads(file.read_text()), json.loads(bill.read_text())["rows"]
    capsys.readouterr()
    file.write_text('{"accuracy": 0.')
    assert main(["test", f"--ckpt_path={whole['checkpoint']}", "--trainer.accelerator=cpu"]) == 0
    assert f"warning: {file}: cannot be read" in capsys.readouterr().out
    again = json.loads(file.read_text())
    of_the_training = ("command", "configs", "epochs", "fit_seconds")
    assert again == {**{k: v for k, v in whole.items() if k not in of_the_training}, "command": again["command"]}
    file.write_text(json.dumps(whole))
    bill.write_text("{")
    assert main(["train", *args]) == 0  # the training is over: it is not made again
    told = capsys.readouterr().out
    assert f"warning: {bill}: cannot be read" in told
    assert "finished, and tested again" in told
    again = json.loads(file.read_text())
    assert again["fit_seconds"] == pytest.approx(whole["fit_seconds"], abs=0.5)  # up to last.ckpt
    assert {**again, "command": None, "fit_seconds": None} == {**whole, "command": None, "fit_seconds": None}
    assert json.loads(bill.read_text())["rows"] == rows


@pytest.mark.parametrize(
    "text", ["", "[1]", "\0", "3", '{"command": ["train"]}', '{"rows": {"total": 1}}', '{"rows": {"total": {}}}']
)
def test_damaged_results_are_refused_in_a_line(tmp_path, text):
    for name, read in (("result.json", load_result), ("bill.json", lambda path: read_rows(path.parent))):
        with refused_with(name):
            read(tmp_path / name)  # there is none
        (tmp_path / name).write_text(text)
        with refused_with(name) as error:
            read(tmp_path / name)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("validated", ["validate", "test"])
@pytest.mark.slow
def test_checkpoint_is_measured_again_with_the_same_result(tiny_args, validated, capsys):
    main(["train", *tiny_args])
    folder = Path("runs") / CommandLine(["fit", *tiny_args]).run_name() / "seed0"
    first = json.loads((folder / "result.json").read_text())
    capsys.readouterr()
    assert main([validated, f"--ckpt_path={folder}/checkpoints/best.ckpt", "--trainer.accelerator=cpu"]) == 0
    if validated == "test":
        printed = capsys.readouterr().out
        assert "SynOps" in printed
        assert "Test metric" not in printed  # Lightning's table of the same
        assert json.loads((folder / "result.json").read_text()) == first


@pytest.mark.slow
def test_a_test_under_other_settings_is_not_taken_for_the_trainings(tiny_args, capsys):
    """It stands in the run folder under its own command; `train` reads its own result again."""
    args = [*tiny_args, "--model.step_loss=0.5"]
    assert main(["train", *args]) == 0
    folder = Path("runs") / CommandLine(["fit", *args]).run_name() / "seed0"
    first = json.loads((folder / "result.json").read_text())
    tested = ["test", f"--ckpt_path={folder}/checkpoints/best.ckpt", "--model.early_exit.confidence=0.01"]
    assert main(tested) == 0
    other = json.loads((folder / "result.json").read_text())
    assert (other["command"], other["timesteps"]) == (tested, 1.0)
    assert other["fit_seconds"] == first["fit_seconds"]
    assert main(tested[:2]) == 0  # its own settings again: neither the training's command nor that of the test before
    plain = json.loads((folder / "result.json").read_text())
    assert (plain["command"], plain["timesteps"]) == (tested[:2], first["timesteps"])
    capsys.readouterr()
    assert main(["train", *args]) == 0
    told = capsys.readouterr().out
    assert "finished, and tested again" in told
    assert "epoch 1/4" not in told
    again = json.loads((folder / "result.json").read_text())
    same = ("command", "accuracy", "spikes", "timesteps")
    assert [again[name] for name in same] == [first[name] for name in same]


@pytest.mark.slow
def test_a_network_is_measured_in_the_precision_that_it_was_trained_in(tiny_args):
    assert main(["fit", *tiny_args, "--trainer.precision=bf16-true"]) == 0
    (folder,) = Path("runs").glob("*/seed0")
    checkpoint = f"--ckpt_path={folder}/checkpoints/last.ckpt"
    assert SpikeCLI(["validate", checkpoint]).trainer.precision == "bf16-true"
    assert SpikeCLI(["validate", checkpoint, "--trainer.precision=32-true"]).trainer.precision == "32-true"
    shutil.move(folder / "checkpoints/last.ckpt", "alone.ckpt")
    assert SpikeCLI(["validate", "--ckpt_path=alone.ckpt"]).trainer.precision == "32-true"


def test_the_command_that_compares_is_that_of_the_run():
    digits, own = str(CONFIGS / "experiment/digits.yaml"), "digits.yaml"
    assert _compare_command(["--config", digits]) == "make compare EXPERIMENT=digits"
    assert _compare_command([f"--config={digits}"]) == "make compare EXPERIMENT=digits"
    assert _compare_command([f"--config={own}"]) == f"spikesparse compare --config={own}"
    changed = ["--config", digits, "--data.augment=a b"]
    assert _compare_command(changed) == f"spikesparse compare --config {digits} '--data.augment=a b'"


def test_a_test_without_a_checkpoint_is_refused(tiny_args, capsys):
    """It would be of an untrained network, in the folder of the trained one."""
    assert main(["test", *tiny_args]) == 2
    assert "test: of which network? Name its checkpoint: --ckpt_path=" in capsys.readouterr().err
    assert not Path("runs").exists()


def test_far_more_processes_than_cores_are_refused(tiny_args, capsys):
    assert main(["fit", *tiny_args, "--trainer.devices=999"]) == 2
    assert "--trainer.devices=999: on a CPU that is a process each" in capsys.readouterr().err


def test_checkpoint_tells_what_was_measured_of_it(tiny_args):
    cli = fit(tiny_args)
    kept = torch.load(cli.run_folder / "checkpoints" / "last.ckpt", weights_only=True)["measured"]
    for tag in ("accuracy/val", "efficiency/spikes_per_image/val", "loss/task/val"):
        assert kept[tag] == pytest.approx(float(cli.trainer.callback_metrics[tag]), rel=1e-6)


def test_validation_counts_never_reach_the_training_loss(tiny_args):
    """Losses with validation between the epochs, and looked at twice in each, are those without any."""
    traces = []
    for flags in (["--trainer.limit_val_batches=0"], ["--trainer.val_check_interval=2"]):
        losses = Losses()
        fit([*tiny_args, "--sparsity.start_value=1", *flags], losses)
        traces.append(losses.values)
    assert len(traces[0]) == 4 * 5
    assert traces[0] == traces[1]


def test_metrics_start_anew_with_every_epoch(tiny_args):
    cli = fit([*tiny_args, "--model.optimizer.lr=0", "--model.optimizer.weight_decay=0"])
    assert {split: bill.images for split, bill in cli.model.bills.items()} == {"train": 36, "val": 4}
    assert cli.model.bills["train"].steps == 36 * 3
    assert cli.model.bills["val"].neuron_spikes is not None
    assert cli.model.bills["train"].neuron_spikes is None  # a record is never kept in training


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_low_precision_clipping_and_accumulation_train(tiny_args, precision):
    cli = fit(
        [
            *tiny_args,
            *(f"--trainer.precision={precision}", "--trainer.gradient_clip_val=0.5"),
            *("--trainer.accumulate_grad_batches=2", "--trainer.limit_train_batches=4"),
        ]
    )
    assert cli.trainer.global_step == 4 * 2
    bill = cli.model.bills["val"]
    assert bill.images == 4
    assert sum(bill.spikes.values()) == round(cli.model.measured["efficiency/spikes_per_image/val"] * 4)
    assert bill.synops["classifier"] == 3 * bill.spikes["fc1"]
    assert sum(bill.synops.values()) > 0


@pytest.mark.parametrize("value", ["1", "3", "0.5", "1.0"])
def test_a_number_of_batches_is_no_share_whatever_was_imported_before(tiny_args, value, monkeypatch, capsys):
    """`typing` may have handed Lightning the two types in the other order."""
    for name in COUNTS_OR_SHARES:
        monkeypatch.setitem(Trainer.__init__.__annotations__, name, float | int | None)
    with pytest.raises(SystemExit):
        main(["fit", *tiny_args, f"--trainer.limit_val_batches={value}", "--print_config"])
    assert f"limit_val_batches: {value}\n" in capsys.readouterr().out


# Settings: defaults < base.yaml < checkpoint < --config < flags


@pytest.fixture
def checkpoint(tiny_args):
    """A checkpoint whose settings differ from base.yaml's."""
    return f"{fit([*tiny_args, '--trainer.max_epochs=3']).run_folder}/checkpoints/last.ckpt"


def test_checkpoint_alone_rebuilds_network_and_data(checkpoint):
    cli = SpikeCLI(["test", "--ckpt_path", checkpoint, "--trainer.accelerator=cpu"])
    assert list(cli.model.net.sizes.neurons) == ["conv1", "fc1"]
    assert (cli.datamodule.timesteps, cli.datamodule.batch_size, cli.datamodule.source) == (3, 8, "npz")


def test_flag_and_config_stand_above_the_checkpoint(checkpoint, tmp_path):
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({"data": {"batch_size": 5}, "sparsity": {"end_value": 0.25}}))
    cli = SpikeCLI(
        [
            *("validate", f"--ckpt_path={checkpoint}", "--config", str(tmp_path / "mine.yaml")),
            "--trainer.accelerator=cpu",
            "--sparsity.end_value=0.75",
        ]
    )
    assert cli.datamodule.batch_size == 5
    assert cli.config.validate.sparsity.end_value == 0.75
    assert cli.datamodule.timesteps == 3


def test_lambda_named_on_resume_is_used(checkpoint, tiny_args):
    args = [a for a in tiny_args if "end_value" not in a]
    cli = SpikeCLI(["fit", *args, f"--ckpt_path={checkpoint}", "--sparsity.end_value=0.5"])
    assert cli.model.sparsity_weight == 0.5


def test_restored_optimizer_that_overrules_a_flag_is_named(checkpoint, tiny_args, capsys):
    SpikeCLI(["fit", *tiny_args, f"--ckpt_path={checkpoint}", "--model.optimizer.lr=0.5"])
    printed = capsys.readouterr().out
    assert "--model.optimizer differs" in printed
    assert "--model.init_from" in printed


def horizons_named(capsys):
    """Of the warning, if there is one: max_epochs in force, and that which is not."""
    lines = [line for line in capsys.readouterr().out.splitlines() if "--model.scheduler differs" in line]
    return [re.findall(r"'max_epochs': (\d+)", line) for line in lines]


@pytest.mark.slow
def test_a_run_that_is_trained_on_for_longer_is_told_of_the_horizons_that_stay(tiny_args, capsys):
    """They follow from --trainer.max_epochs, and nobody has named them: neither flag differs from the checkpoint's."""
    args = [arg for arg in tiny_args if "max_epochs" not in arg and "end_epoch" not in arg]
    args += ["--trainer.limit_train_batches=1"]
    last = f"{fit([*args, '--trainer.max_epochs=2']).run_folder}/checkpoints/last.ckpt"
    capsys.readouterr()
    SpikeCLI(["fit", *args, f"--ckpt_path={last}", "--trainer.max_epochs=2"])
    assert "warning" not in capsys.readouterr().out  # nothing differs
    for epochs in (4, 6):  # the second time from what the first has written
        cli = SpikeCLI(["fit", *args, f"--ckpt_path={last}", f"--trainer.max_epochs={epochs}"])
        assert cli.trainer.optimizers[0].param_groups[0]["lr"] == 0  # so it is as the warning says
        told = capsys.readouterr().out
        ramp = (
            f"--trainer.max_epochs={epochs} differs from the checkpoint's, whose ramp of lambda stays in force: it ends"
        )
        assert f"{ramp} in epoch 1, not {epochs // 2}." in told
        print(told)
        assert horizons_named(capsys) == [["2", f"{epochs}"]]


def test_checkpoint_of_another_architecture_is_refused(checkpoint, capsys):
    status = main(["test", f"--ckpt_path={checkpoint}", "--model.net.architecture=5-P-F6", "--trainer.accelerator=cpu"])
    assert status == 2
    error = capsys.readouterr().err
    assert "another architecture" in error
    assert "layers.conv1" in error


def test_init_from_loads_weights_alone(checkpoint, tiny_args):
    cli = SpikeCLI(["fit", *tiny_args, f"--model.init_from={checkpoint}", "--trainer.limit_train_batches=0"])
    theirs = torch.load(checkpoint, weights_only=True)["state_dict"]
    assert_same(weights(cli), theirs)
    assert cli.trainer.global_step == 0


# Predict


def rows_of(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(("what", "count"), [("val", 4), ("test", 12)])
def test_predict_writes_a_row_for_every_image_in_order(checkpoint, what, count):
    assert main(["predict", f"--ckpt_path={checkpoint}", f"--data.predict_on={what}", "--trainer.accelerator=cpu"]) == 0
    folder = Path(checkpoint).parents[1]
    rows = rows_of(folder / f"predictions_{what}.csv")
    module, data = load_run(folder, "last")
    data.setup("predict")
    index = list(range(12)) if what == "test" else data.split[1].tolist()
    assert [int(row["index"]) for row in rows] == index
    assert len(rows) == count
    images = data.dataset.test if what == "test" else data.dataset.train
    assert [int(row["label"]) for row in rows] == images.labels[torch.tensor(index)].tolist()
    loader = data.test_dataloader() if what == "test" else data.val_dataloader()
    batches = list(loader)
    with torch.no_grad():
        outputs = [module(data.encode(batch).images) for batch in batches]
    order = torch.cat([batch.indices for batch in batches]).argsort()
    logits = torch.cat([o.logits for o in outputs])[order]
    assert [int(row["predicted"]) for row in rows] == logits.argmax(1).tolist()
    spikes = torch.cat([o.tally.spikes.sum(0) for o in outputs])[order]
    assert [int(row["spikes"]) for row in rows] == spikes.tolist()
    confidence = torch.exp(logits).max(1).values / torch.exp(logits).sum(1)
    np.testing.assert_allclose([float(row["confidence"]) for row in rows], confidence, atol=1e-5)


def test_predict_on_a_folder_names_its_files(checkpoint, tmp_path):
    (tmp_path / "mine").mkdir()
    for name in ("b.png", "a.png"):
        Image.fromarray(np.full((8, 8, 3), 30, np.uint8)).save(tmp_path / "mine" / name)
    args = [f"--ckpt_path={checkpoint}", f"--data.predict_on={tmp_path / 'mine'}", "--predictions.path=out.csv"]
    assert main(["predict", *args, "--trainer.accelerator=cpu"]) == 0
    rows = rows_of("out.csv")
    assert [Path(row["file"]).name for row in rows] == ["a.png", "b.png"]
    assert [row["label"] for row in rows] == ["", ""]


# Bad input: one line, exit status 2, no traceback


@pytest.mark.parametrize("command", ["train", "compare", "fit"])
def test_help_ends_with_the_flags_that_most_runs_need(command, capsys):
    """All that it names are there."""
    with pytest.raises(SystemExit) as left:
        main([command, "--help"])
    assert left.value.code == 0
    every, _, most_used = capsys.readouterr().out.partition("What most runs need")
    ours = {"--fresh", "--allow-import", "--model.net.architecture", "--seeds", "--workers", "--results"}
    named = set(re.findall(r"--[\w.-]+", most_used)) - ours
    assert len(named) > 8
    assert {flag for flag in named if f"{flag} " not in every and f"{flag}[" not in every} == set()


@pytest.mark.slow
def test_help_that_nothing_reads_any_more_leaves_no_traceback():
    """As after `head`, or a pager that is left."""
    command = [sys.executable, "-m", "spikesparse", "train", "--help"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        run.stdout.close()  # long before it has a line to write
        assert run.stderr.read() == ""
    assert run.returncode == 128 + signal.SIGPIPE


BAD = {
    "--data.timesteps=0": ["--data.timesteps=0", "at least 1"],
    "--model.net.decay=1.5": ["--model.net.decay=1.5", "(0, 1]"],
    "--model.net.decay=0": ["--model.net.decay=0", "(0, 1]"],
    "--model.net.threshold=0": ["--model.net.threshold=0", "above 0"],
    "--sparsity.end_value=-1": ["--sparsity.end_value=-1", "0 or more"],
    "--sparsity.start_epoch=3": ["--sparsity.end_epoch=2", "ends before it starts"],
    "--model.net.architecture=vgg8": ["vgg8", "vgg7, vgg9, vgg16"],
    "--model.net.surrogate=step": ["--model.net.surrogate='step'", "atan", "lee2020"],
    "--sparsity.schedule=sudden": ["--sparsity.schedule='sudden'", "linear", "cooling"],
    "--data.encoder=morse": ["--data.encoder='morse'", "direct", "poisson"],
    "--data.source=imagenet": ["--data.source='imagenet'", "cifar10", "digits"],
    "--data.data_dir=nowhere.npz": ["--data.data_dir=nowhere.npz", "no such file"],
    "--ckpt_path=nowhere.ckpt": ["--ckpt_path=nowhere.ckpt", "no such file"],
    "--model.loss=hinge": ["--model.loss='hinge'", "cross_entropy, squared_error"],
    "--trainer.max_epochs=many": ["--trainer.max_epochs=many: it takes int, null. See"],
    "--data.timesteps=four": ["--data.timesteps=four: it takes int. See"],
    "--model.net.width=wide": ["--model.net.width=wide: it takes float. See"],
    "--model.optimizer.lr=fast": ["--model.optimizer.lr=fast: it takes float, Tensor. See"],
    "--model.scheduler.warmup_epochs=x": ["--model.scheduler.warmup_epochs=x: it takes int. See"],
    "--model.penalty.layer_weights=x": ["--model.penalty.layer_weights=x: it takes Sequence[float], null. See"],
    "--trainer.precision=half": ["--trainer.precision=half: it takes 64, 32, 16", "'bf16-mixed'"],
    "--model.net.timesteps=3": ["--model.net.timesteps=3", "from the data", "--data.timesteps"],
    "--model.net.init_args.num_classes=3": ["num_classes=3", "from the data", "--data.source"],
    "--modell.width=2": ["--modell.width=2"],
    "--trainer.max_epoch=2": ["--trainer.max_epoch=2. Did you mean --trainer.max_epochs? See"],
    "--model.net.treshold=1": ["--model.net: SpikingVGG has no setting 'treshold'. Did you mean threshold? See"],
    "--model.optimizer.lrr=1": ["--model.optimizer: AdamW has no setting 'lrr'. Did you mean lr? See"],
    "--model.scheduler.foo=1": ["--model.scheduler: LinearWarmupCosineAnnealingLR has no setting 'foo'. See"],
    "--trainer.logger.init_args.savedir=x": [
        "--trainer.logger: TensorBoardLogger has no setting 'savedir'",
        "save_dir?",
    ],
    "--model.scheduler=torch.optim.lr_scheduler.StepLR": ["--model.scheduler: StepLR needs step_size. See"],
    "--model.penalty.by=spike": ["error: --model.penalty.by='spike': there is no penalty", "are: spikes, synops."],
    "--trainer.logger=pytorch_lightning.loggers.CometLogger": ["comet-ml", "not met"],
    f"--config={CONFIGS}/base.yml": [f"'{CONFIGS}/base.yml'. See"],
    f"--config={CONFIGS}/bass.yaml": [f"Did you mean {CONFIGS}/base.yaml? See"],
    "--model.init_from=nowhere.ckpt": ["--model.init_from=nowhere.ckpt", "no such file"],
}


@pytest.mark.parametrize("flag", BAD)
def test_bad_value_ends_with_one_clear_line(flag, tiny_args, capsys):
    assert main(["fit", *tiny_args, flag]) == 2
    error = capsys.readouterr().err
    line = [line for line in error.splitlines() if line.startswith("spikesparse: error:")]
    assert len(line) == 1
    assert "Traceback" not in error
    for word in BAD[flag]:
        assert word in line[0]


@pytest.mark.parametrize(
    ("flags", "lines"),
    [
        (["--budget.by=synops"], ["--budget.by, without --budget.target or --budget.reduction or"]),
        (["--budget.by=synops", "--budget.target=90"], []),
        (["--budget.by=synops", "--budget.target=null"], []),  # as a twin's command line has it
        (["--model.distillation.weight", "0.9"], ["--model.distillation.weight, without --model.distillation.teacher"]),
        (["--model.early_exit.measure=margin"], ["--model.early_exit.measure, without --model.early_exit.confidence"]),
        (["--config", "exits.yaml", "--model.early_exit.measure=margin"], []),
    ],
)
def test_a_flag_that_nothing_reads_is_named(flags, lines, tiny_args, capsys):
    Path("exits.yaml").write_text("model: {early_exit: {confidence: 0.9}}")
    fit([*tiny_args, "--trainer.fast_dev_run=true", *flags])
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("not read: ")]
    assert len(said) == len(lines)
    assert all(line.removeprefix("not read: ").startswith(start) for line, start in zip(said, lines, strict=True))


@pytest.mark.parametrize("command", ["train", "validate", "pareto"])
def test_a_file_where_the_run_folder_must_be_is_refused(command, tiny_args, capsys):
    args = [arg for arg in tiny_args if command != "validate" or "--sparsity" not in arg]
    if command == "pareto":
        pytest.importorskip("optuna", reason="the search extra is not installed")
        args = [arg for arg in args if "end_value" not in arg and "end_epoch" not in arg]
    Path("runs").write_text("mine")
    assert main([command, *args]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("spikesparse: error:")]
    assert "error: runs: it is no folder" in line
    assert Path("runs").read_text() == "mine"


@pytest.mark.parametrize("blocked", ["a", "a/b", "a/b/seed0"])
def test_whatever_stands_where_a_folder_must_be_is_named(blocked):
    refuse_blocked(Path("a/b/seed0"))
    Path(blocked).parent.mkdir(parents=True, exist_ok=True)
    refuse_blocked(Path("a/b/seed0"))
    Path(blocked).symlink_to("nowhere")
    with refused_with(f"^{blocked}: it is no folder"):
        refuse_blocked(Path("a/b/seed0"))


@pytest.mark.parametrize(
    ("command", "flag"),
    [("train", "--trainer.max_epochs=0"), ("fit", "--trainer.max_steps=0")],
)
def test_a_training_of_nothing_says_so_and_leaves_an_earlier_run_where_it_is(command, flag, tiny_args, capsys):
    folder = Path("runs") / CommandLine(["fit", *tiny_args, flag]).run_name() / "seed0"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "mine.txt").write_text("kept")
    assert main([command, *tiny_args, flag]) == 0
    assert f"{flag}: nothing is trained, and nothing is tested or written.\n" in capsys.readouterr().out
    assert sorted(path.name for path in folder.iterdir()) == ["checkpoints", "mine.txt"]
    assert [path.name for path in folder.parent.glob("[!.]*")] == ["seed0"]


def no_download(*args):
    raise AssertionError("something is downloaded")


@pytest.mark.parametrize("command", ["fit", "validate", "test", "predict", "train"])
def test_a_checkpoint_without_settings_is_named_and_nothing_is_downloaded(command, monkeypatch, capsys):
    monkeypatch.setattr("spikesparse.data.cifar.fetch", no_download)
    torch.save({"state_dict": {"net.x": torch.ones(1)}}, "bare.ckpt")
    Path("no_data.yaml").write_text("model: {loss: squared_error}")
    for more in ([], ["--config=no_data.yaml"], ["--data.batch_size=4"]):
        assert main([command, "--ckpt_path=bare.ckpt", *more]) == 2
        assert "--ckpt_path=bare.ckpt: the checkpoint keeps no settings" in capsys.readouterr().err


def test_a_checkpoint_without_settings_is_used_with_data_that_is_named():
    torch.save({"state_dict": {"net.x": torch.ones(1)}}, "bare.ckpt")
    Path("data.yaml").write_text("data: {source: npz}")
    Path("part.yaml").write_text("source: npz")
    for named in ("--data.source=npz", "--data={source: npz}", "--config=data.yaml", "--data=part.yaml"):
        args = ["test", "--ckpt_path=bare.ckpt", named]
        assert list(CommandLine(args).with_checkpoint_settings().words) == args


def test_truncated_checkpoint_is_refused(checkpoint, capsys):
    whole = Path(checkpoint).read_bytes()
    Path("half.ckpt").write_bytes(whole[: len(whole) // 2])
    assert main(["test", "--ckpt_path=half.ckpt"]) == 2
    assert "half.ckpt: not a whole checkpoint" in capsys.readouterr().err


def test_nan_stops_the_run_and_keeps_the_last_good_checkpoint(tiny_args, capsys):
    args = [*tiny_args, "--model.optimizer.lr=1e30", "--model.scheduler.warmup_epochs=2"]
    args.append("--model.scheduler.warmup_start_lr=0.001")  # a good first epoch, then far too much
    assert main(["fit", *args]) == 2
    error = capsys.readouterr().err
    for word in ("not finite", "step ", "learning rate", "lambda", "--model.optimizer.lr"):
        assert word in error
    last = Path("runs") / CommandLine(["fit", *args]).run_name() / "seed0" / "checkpoints" / "last.ckpt"
    kept = torch.load(last, weights_only=True)
    assert kept["epoch"] == 0
    assert all(bool(v.isfinite().all()) for v in kept["state_dict"].values())


def test_unknown_subcommand_lists_those_there_are(capsys):
    assert main(["fly"]) == 2
    assert "train, compare, fit" in capsys.readouterr().err


def test_version_and_help_need_no_torch():
    code = (
        "import sys; from spikesparse.commands.main import main; main(['--version']); main(['--help']); "
        "print('torch' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.startswith("spikesparse 0.")
    assert out.rstrip().endswith("False")


@pytest.mark.parametrize("pattern", ["{epoch}-{step}", "[old] data"])
def test_print_config_shows_the_resolved_settings(pattern, capsys):
    flags = ["--sparsity.end_value=7", "--trainer.callbacks+=pytorch_lightning.callbacks.ModelCheckpoint"]
    flags.append(f"--trainer.callbacks.filename={pattern}")  # no YAML, but a name that Lightning documents
    with pytest.raises(SystemExit) as stopped:
        main(["fit", "--config", str(CONFIGS / "experiment" / "digits.yaml"), *flags, "--print_config"])
    assert stopped.value.code == 0
    config = yaml.safe_load(capsys.readouterr().out)
    assert config["trainer"]["callbacks"][-1]["init_args"]["filename"] == pattern
    assert config["sparsity"]["end_value"] == 7
    assert config["data"]["source"] == "digits"


def test_run_name_is_a_function_of_what_makes_the_experiment():
    base = ["fit", "--config", "configs/experiment/digits.yaml"]
    assert run_name(base) == "digits"
    assert run_name([*base, "--seed_everything=4", "--ckpt_path=x.ckpt", "--data.data_dir=elsewhere"]) == "digits"
    one, two = "--model.net.width=2", "--sparsity.end_value=1"
    assert run_name([*base, one, two]) == run_name([*base, "--sparsity.end_value", "1", one])
    assert run_name([*base, one]) != run_name([*base, two])
    assert run_name([*base, one]).startswith("digits-")
    assert run_name([*base, one, two]) == "digits-6114953b"  # as it was before repeated flags were looked at
    assert run_name([*base, "--trainer.callbacks+=a.B", "--trainer.callbacks.c=1"]) == "digits-e875dc2a"


SHOWN = [
    *("--dashboard.images=2", "--dashboard={images: 2}", "--predictions.path=out.csv", "--trainer.log_every_n_steps=7"),
    *("--trainer.profiler=simple", "--trainer.num_sanity_val_steps=0", "--data.num_workers=1", "--data.resident=true"),
    *("--data.pin_memory=false", "--trainer.default_root_dir=x"),
]


@pytest.mark.parametrize("flag", SHOWN)
def test_what_changes_no_training_makes_no_other_experiment(flag):
    base = ["fit", "--model.net.width=2"]
    assert run_name([*base, flag]) == run_name(base)
    assert run_name([*base, *flag.split("=", 1)]) == run_name(base)
    assert not CommandLine(["test", flag]).changes_settings()
    assert (
        CommandLine([*base, flag]).without_shown() == CommandLine([*base, *flag.split("=", 1)]).without_shown() == base
    )
    for other in ("--data.batch_size=7", "--trainer.callbacks=dashboard", "--data.encoder=poisson"):
        assert run_name([other]) != run_name([])
        assert CommandLine([other]).without_shown() == [other]


@pytest.mark.slow
def test_no_bit_of_the_weights_hangs_on_them(tiny_args):
    Path("x").mkdir()
    short = [*tiny_args, "--trainer.max_epochs=2", "--sparsity.end_epoch=1"]
    plain = weights(fit(short))
    assert_same(weights(fit([*short, *(flag for flag in SHOWN if "workers" not in flag)])), plain)


@pytest.mark.slow
def test_a_run_named_before_such_flags_were_left_out_is_still_found(tiny_args, capsys):
    """By the name that it has from then: with a hash of the flag."""
    short = [arg for arg in tiny_args if "log_every" not in arg] + ["--dashboard.images=2"]
    assert fit(short, StopAfter(2)).run_folder
    (now,) = Path("runs").glob("*/seed0")
    shaped = sorted(arg for arg in short if not re.match(r"--data\.data_dir|--trainer\.enable", arg))
    then = Path("runs") / f"base-{hashlib.sha256(chr(0).join(shaped).encode()).hexdigest()[:8]}" / "seed0"
    then.parent.mkdir()
    kept = json.loads((now / "run.json").read_text()) | {"finished": False, "trained_as": f"{then.parent.name}/seed0"}
    (now / "run.json").write_text(json.dumps(kept))
    now.rename(then)
    capsys.readouterr()
    assert main(["fit", *short]) == 0
    assert f"going on from {then}/checkpoints/last.ckpt (before epoch 3" in capsys.readouterr().out
    assert not now.exists()
    assert main(["fit", *short]) == 0
    assert f"{then} is this very run, finished" in capsys.readouterr().out
    assert main(["fit", *[arg for arg in short if "dashboard" not in arg]]) == 0  # the same run by its name of now
    assert now.exists()
    assert then.exists()


def test_of_a_flag_that_comes_twice_the_last_value_names_the_run():
    one, two, other = "--sparsity.end_value=1", "--sparsity.end_value=2", "--model.net.width=2"
    assert run_name([one, other, two]) == run_name([other, two])
    assert run_name([two, one]) == run_name([one])
    # These add to what came before, so that all of them count, and their order
    for flag, first, second in (
        ("--trainer.callbacks+", "a.B", "a.C"),
        ("--sparsity", "a.yaml", "b.yaml"),
        ("--data", "{flip: true}", "{cutout: 4}"),
    ):
        names = [[first], [second], [first, second], [second, first]]
        assert len({run_name([f"{flag}={value}" for value in values]) for values in names}) == 4
    add, one, two = "--trainer.callbacks+=a.B", "--trainer.callbacks.c=1", "--trainer.callbacks.c=2"
    assert run_name([add, one, add, two]) != run_name([add, two, add, two])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch.compile's own
def test_a_compiled_run_trains_what_a_plain_one_does(tiny_args):
    """The last batch of an epoch has another size, too; the checkpoint knows nothing of the compiler."""
    kept = []
    # torch.compile draws random numbers of its own, so there is no dropout here
    flags = ["--trainer.max_epochs=2", "--data.batch_size=10", "--model.net.dropout=0", "--model.step_loss=0.5"]
    for mode in ("off", "default"):
        assert main(["fit", *tiny_args, *flags, f"--model.compile={mode}"]) == 0
        (path,) = Path("runs").glob("*/seed0/checkpoints/last.ckpt")
        kept.append(torch.load(path, weights_only=True)["state_dict"])
        shutil.rmtree("runs")
    assert list(kept[0]) == list(kept[1])
    for name, value in kept[0].items():
        torch.testing.assert_close(kept[1][name], value, rtol=1e-3, atol=1e-4, msg=name)


def test_an_unknown_mode_of_compilation_is_refused(tiny_args, capsys):
    assert main(["fit", *tiny_args, "--model.compile=fast"]) == 2
    assert "--model.compile='fast'" in capsys.readouterr().err
