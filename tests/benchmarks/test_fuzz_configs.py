"""A sample of the mutated configurations of `make fuzz`, and that the fuzzer sees what it is there to see."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "benchmarks"))

pytestmark = pytest.mark.filterwarnings("ignore")


def fuzzed(count, first=0, seed=0, limit=120):
    from fuzz_configs import fuzz

    outcomes, findings = fuzz(count, seed, first, limit)
    assert not findings, findings[0]
    assert sum(outcomes.values()) == count
    return outcomes


def test_mutated_configs_are_refused_in_one_line_or_built():
    outcomes = fuzzed(10, seed=1)
    assert outcomes["refused"] > outcomes["built"] > 0


@pytest.mark.slow
def test_more_mutated_configs_are_refused_in_one_line_or_built():
    fuzzed(300, seed=2)


def test_cases_are_a_function_of_seed_and_number():
    from fuzz_configs import case

    known = ["trainer.max_epochs", "model.net", "model.optimizer.init_args.lr"]
    cases = [case(3, number, known) for number in range(200)]
    assert cases == [case(3, number, known) for number in reversed(range(200))][::-1]
    assert len({text for text, _ in cases}) > 170


@pytest.mark.parametrize(
    ("ends", "finding"),
    [
        (KeyError("x"), "exception"),
        (SystemExit(1), "exit"),
        (0, "unclear"),
        ("two", "unclear"),
    ],
)
def test_fuzzer_tells_any_other_ending(ends, finding, monkeypatch):
    from fuzz_configs import outcome

    def main(args):
        if isinstance(ends, BaseException):
            raise ends
        print("spikesparse: error: a\nspikesparse: error: b" if ends == "two" else "", file=sys.stderr)
        return 2 if ends == "two" else ends

    monkeypatch.setattr("spikesparse.commands.main.main", main)
    assert outcome(Path("x.yaml"), [], 60)[0] == finding


def test_fuzzer_sees_imports_processes_and_connections(monkeypatch):
    import os

    from fuzz_configs import Watch

    watch = Watch()
    watch.active = True
    watch.find_spec("canary.x")
    watch.find_spec("json")
    watch.audit("os.system", ("true",))
    watch.audit("open", ("x",))
    assert watch.seen == ["import of canary.x", "os.system ('true',)"]
    sys.addaudithook(watch.audit)
    os.system("true")
    watch.active = False
    assert len(watch.seen) == 3
