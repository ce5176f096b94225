"""benchmarks/epoch_time.py: a short run of it."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_epochs_of_two_settings_are_timed(tmp_path):
    command = [
        *(sys.executable, str(ROOT / "benchmarks/epoch_time.py"), "plain:", "small: --data.batch_size=4"),
        *("--config", str(ROOT / "configs/experiment/cifar10_vgg7_cpu.yaml"), "--images", "80", "--side", "8"),
        *("--epochs", "3", "--csv", "times.csv"),
    ]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 0, ended.stderr
    rows = list(csv.DictReader((tmp_path / "times.csv").read_text().splitlines()))
    assert [(row["setting"], row["batch"], row["train_images"], row["epochs"]) for row in rows] == [
        ("plain", "128", "72", "2"),
        ("small", "4", "72", "2"),
    ]
    for row in rows:
        assert float(row["images_per_s"]) == pytest.approx(72 / float(row["epoch_s"]), rel=0.05)


@pytest.mark.slow
def test_one_epoch_is_too_few():
    command = [sys.executable, str(ROOT / "benchmarks/epoch_time.py"), "plain:", "--epochs", "1"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 2
    assert "the first one is not counted" in ended.stderr
