"""Experiments by name, from any folder; a file of that name wins."""

from pathlib import Path

import pytest

from refusals import refused_with
from spikesparse.commands.cli import SpikeCLI
from spikesparse.commands.main import main
from spikesparse.files.paths import CONFIGS
from spikesparse.settings.command_line import CommandLine
from spikesparse.settings.experiments import names

FILE = CONFIGS / "experiment" / "digits.yaml"


@pytest.mark.parametrize("flag", [["--config", "digits"], ["--config=digits"], ["-c", "digits"], ["-c=digits"]])
def test_a_name_is_the_file_that_comes_with_the_package(flag):
    by_name, by_file = CommandLine(["fit", *flag]), CommandLine(["fit", f"--config={FILE}"])
    assert by_name.value("--config") == str(FILE)
    assert by_name.run_name() == by_file.run_name() == "digits"
    assert by_name.config_digest() == by_file.config_digest()
    assert "=".join(by_name.for_parser()[1:]) == f"{flag[0][:8].split('=')[0]}={FILE}"
    assert by_name.words == ("fit", *flag)  # as it was given: to be shown, and run again


def test_a_file_of_that_name_wins():
    Path("digits").write_text("data: {source: digits}\n")
    line = CommandLine(["fit", "--config=digits", "--model.net.width=2"])
    assert line.value("--config") == "digits"
    assert line.for_parser() == ["fit", "--config=digits", "--model.net.width=2"]
    assert line.settings()[0] == ("--config=digits", {"data": {"source": "digits"}})


def test_an_experiment_of_ones_own_in_configs_is_found_too():
    own = Path("configs/experiment")
    own.mkdir(parents=True)
    for name in ("mine", "digits"):
        (own / f"{name}.yaml").write_text("data: {source: digits}\n")
        assert CommandLine(["fit", f"--config={name}"]).value("--config") == f"configs/experiment/{name}.yaml"


def test_a_name_that_is_none_is_refused_with_those_that_there_are(capsys):
    with refused_with(r"--config=digit: .* Did you mean digits\? There are: .*cifar10_vgg9, digits, "):
        CommandLine(["fit", "--config=digit"]).settings()
    assert main(["train", "--config", "digit"]) == 2
    assert "Did you mean digits?" in capsys.readouterr().err
    assert names() == sorted(path.stem for path in FILE.parent.iterdir())


@pytest.mark.filterwarnings("ignore")
def test_the_command_line_builds_from_it():
    few = [f"--trainer.limit_{split}_batches=0" for split in ("train", "val")]
    cli = SpikeCLI(["validate", "--config=digits", "--data.timesteps=1", "--trainer.accelerator=cpu", *few])
    assert cli.datamodule.source == "digits"
    assert cli.model.net.timesteps == 1
