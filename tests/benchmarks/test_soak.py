"""benchmarks/soak.py: that it finds what grows, and a short run of it."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from spikesparse.files.paths import PACKAGE

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def soak(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield importlib.import_module("soak")
    del sys.modules["soak"]


def samples(soak, **changed):
    """Of 100 epochs after which nothing grows, but for what is given as a function of the epoch."""
    steady = {"seconds": 0.0, "memory_kb": 500_000, "rss_kb": 800_000, "open_files": 8, "own_threads": 2}
    steady |= {"run_folder_kb": 200, "tensorboard_kb": 100}
    return [soak.Sample(epoch=n, **steady | {name: value(n) for name, value in changed.items()}) for n in range(1, 101)]


@pytest.mark.parametrize(
    ("name", "value", "word"),
    [
        ("memory_kb", lambda epoch: 500_000 + 80 * epoch, "memory: +1.26% by the fitted line"),
        ("memory_kb", lambda epoch: 500_000 + 7_000 * (epoch > 90), "memory"),
        ("open_files", lambda epoch: 8 + epoch // 50, "open_files: 8 at first, 10 at last"),
        ("own_threads", lambda epoch: 2 + (epoch == 100), "own_threads: 2 at first, 3 at last"),
        ("tensorboard_kb", lambda epoch: 100 + 9 * epoch, "TensorBoard: 9.00 kB an epoch"),
    ],
)
def test_what_grows_is_told(soak, name, value, word):
    wrong = soak.verdict(samples(soak, **{name: value}))[1]
    assert len(wrong) == 1
    assert word in wrong[0]


@pytest.mark.parametrize("value", [lambda epoch: 500_000, lambda epoch: 400_000 + 10_000 * min(epoch, 10)])
def test_what_grows_in_warm_up_alone_is_not(soak, value):
    assert soak.verdict(samples(soak, memory_kb=value, tensorboard_kb=lambda epoch: 7 * epoch))[1] == []


@pytest.mark.slow
def test_a_short_soak_keeps_no_file_and_no_thread(tmp_path):
    """Thirty epochs: too few for the memory to settle; TensorBoard gets a drawing in each."""
    command = [sys.executable, str(BENCHMARKS / "soak.py"), "--epochs", "30", "--csv", str(tmp_path / "soak.csv")]
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stderr[-3000:]
    assert "epochs 7 to 30, after a warm-up" in done.stdout
    wrong = done.stdout.partition("something grows: ")[2]
    assert "open_files" not in wrong
    assert "own_threads" not in wrong
    rows = (tmp_path / "soak.csv").read_text().splitlines()
    assert len(rows) == 31
    assert rows[0].startswith("epoch,seconds,memory_kb,rss_kb,open_files,own_threads,run_folder_kb,tensorboard_kb,")
    names = rows[0].split(",")
    assert len(set(names)) == len(names)
