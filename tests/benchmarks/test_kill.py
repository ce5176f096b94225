"""benchmarks/kill.py: a short run of it."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_killed_at_random_moments_it_ends_as_the_run_that_was_not(tmp_path):
    """The campaign of benchmarks/kill.py, shorter; of its own process, since it forks."""
    command = [sys.executable, str(ROOT / "benchmarks/kill.py"), "--kills", "4", "--epochs", "12", "--seed", "1"]
    ended = subprocess.run(
        [*command, "--place", str(tmp_path / "kill"), "--out", str(tmp_path / "kill.csv")],
        **{"capture_output": True, "text": True, "timeout": 900, "check": False},
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "differences: none" in ended.stdout
    rows = [line for line in (tmp_path / "kill.csv").read_text().splitlines() if not line.startswith("#")]
    assert len(rows) == 5
