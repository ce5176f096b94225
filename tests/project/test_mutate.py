"""What tools/mutate.py changes, and that it knows what is tested from what is not."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
spec = importlib.util.spec_from_file_location("mutate", ROOT / "tools/mutate.py")
mutate = importlib.util.module_from_spec(spec)
spec.loader.exec_module(mutate)

SOURCE = '''"""A docstring, which stays: 1 < 2."""
LIMIT = 3


class Shop:
    @property
    def open(self) -> int | None:
        if LIMIT < 4:
            self.close(1, later=2)
        raise ValueError("closed" + "now")
'''
CHANGES = {
    (2, None): ["LIMIT = None", "LIMIT = 4"],
    (8, "Shop.open"): ["if True:", "if False:", "if LIMIT <= 4:", "if LIMIT < 5:"],
    (9, "Shop.open"): [
        *("pass", "self.close(None, later=2)", "self.close(1, later=None)", "self.close(1, )"),
        *("self.close(2, later=2)", "self.close(1, later=3)"),
    ],
}


def test_one_place_is_changed_at_a_time():
    """By hand; neither types nor what is raised."""
    found, before = {}, SOURCE.splitlines()
    for mutant in mutate.mutants("shop.py", SOURCE):
        after = mutant.source.splitlines()
        (line,) = [number for number, (a, b) in enumerate(zip(before, after, strict=True), 1) if a != b]
        assert line == mutant.line
        assert line in mutant.reached_by
        found.setdefault((line, mutant.function), []).append(after[line - 1].strip())
    assert {key: sorted(lines) for key, lines in found.items()} == {key: sorted(c) for key, c in CHANGES.items()}


def test_every_file_below_a_folder_that_is_named_has_tests():
    for name in ("src/p/sparsity/budget.py", "src/p/wing/exits/search.py", "src/p/resume.py"):
        assert all(list((ROOT / "tests").rglob(f"{stem}.py")) for stem in mutate.tests_of(name))
    with pytest.raises(SystemExit, match="names no tests for it"):
        mutate.tests_of("src/p/unknown.py")


@pytest.mark.slow
def test_a_changed_line_is_killed_where_it_is_tested_and_the_checkout_stays(tmp_path):
    """The schedule in steps is known by hand at 0.24 and 0.25, to the call of floor; no test asks for a type's name."""
    (file,) = (ROOT / "src").rglob("sparsity/schedules.py")
    before = file.read_text()
    line = next(n for n, text in enumerate(before.splitlines(), 1) if "math.floor" in text)
    command = [sys.executable, str(ROOT / "tools/mutate.py"), f"{file}:{line}", "--csv", str(tmp_path / "a.csv")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.endswith(
        "schedules.py: 3 killed, 0 survived, 0 not reached, 0 did not end, 0 no time left\n"
    ), ended.stdout
    assert (tmp_path / "a.csv").read_text().endswith("\nfile,line,verdict,change,why\n")
    assert file.read_text() == before
