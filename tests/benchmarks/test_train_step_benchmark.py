"""benchmarks/train_step.py: its statistics, its check that all compute the same, and what it does when one fails."""

import csv
import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
FAKE = """
import os
from torch import nn
from train_step.contender import Contender

class Dies(nn.Linear):
    steps = 0

    def forward(self, images):
        Dies.steps += 1
        if Dies.steps > 6:
            os._exit(7)
        return super().forward(images.flatten(1)[:, :4])

def build(setting):
    return Contender(Dies(4, setting.classes))
"""


@pytest.fixture
def bench(monkeypatch):
    """benchmarks/ on the search path, as for its own scripts."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    yield
    for name in set(sys.modules) - before:
        if name.split(".")[0] in ("train_step", "ratios", "tables"):
            del sys.modules[name]


def test_ratios_are_taken_within_a_round(bench):
    from ratios import interquartile, interval, paired_ratios

    # The machine is twice as slow in the second round: that hits both, and so no ratio.
    assert paired_ratios([3.0, 6.0, 3.3], [2.0, 4.0, 3.0]) == pytest.approx([1.5, 1.5, 1.1])
    assert interquartile([1.0, 2.0, 3.0, 4.0, 5.0]) == 2.0  # quartiles 2 and 4
    assert interquartile([7.0]) == 0.0
    assert interval([1.5] * 9) == (1.5, 1.5)
    low, high = interval([1.0, 1.0, 1.0, 2.0, 2.0])
    assert (low, high) == (1.0, 2.0)  # two of five are enough for a median of 2 in more than 2.5 % of the draws
    with pytest.raises(ValueError, match="zip"):
        paired_ratios([1.0, 2.0], [1.0])


def test_rows_by_hand(bench):
    from train_step.contestants import chosen
    from train_step.driver import Outcome
    from train_step.setting import Setting
    from train_step.table import rows

    setting = Setting(batch=10)
    ours, slow, fast, lost = chosen("spikesparse,limit contiguous,limit channels-last,norse", "cpu")
    agreed = {"agreement": {"agrees": True, "training": 1e-7}}
    made = rows(
        [
            Outcome(lost, setting, failed="status -9"),
            Outcome(slow, setting, {}, [30.0, 30.0, 30.0]),
            Outcome(ours, setting, agreed, [24.0, 60.0, 20.0]),
            Outcome(fast, setting, {}, [20.0, 40.0, 20.0]),
        ],
        {"commit": "abc"},
    )
    assert [row["contestant"] for row in made] == ["limit channels-last", "spikesparse", "limit contiguous", "norse"]
    _, row, _, failed = made
    assert (row["median_ms"], row["images_per_s"], row["ratio_to_limit"]) == (24.0, 416.7, 1.2)  # of 1.2, 1.5, 1.0
    assert row["agrees"] == "yes: training 1e-07"
    assert row["commit"] == "abc"
    assert (failed["failed"], failed["median_ms"], failed["rounds"]) == ("status -9", "", 0)


@pytest.mark.parametrize("architecture", ["4-P-F8", "4-4-P-6-P", "3-F5-F4"])
def test_the_reference_computes_what_the_network_computes(bench, architecture):
    from train_step.agreement import agreement
    from train_step.contestants import chosen
    from train_step.setting import Setting

    found = agreement(chosen("spikesparse", "cpu")[0], Setting(architecture, image=(3, 8, 8)))
    assert found.pop("agrees")
    assert set(found) == {"evaluation", "training", "gradients", "spikes"}
    assert max(found.values()) < 1e-5


@pytest.mark.parametrize(
    ("changed", "what"),
    [({"decay": 0.6}, "spikes"), ({"slope": 4.0}, "gradients"), ({"threshold": 1.1}, "training")],
)
def test_another_neuron_is_found_out(bench, monkeypatch, changed, what):
    from train_step import agreement as module
    from train_step.adapters import reference
    from train_step.contestants import chosen
    from train_step.setting import Setting

    plain = reference.build
    monkeypatch.setattr(reference, "build", lambda setting: plain(dataclasses.replace(setting, **changed)))
    found = module.agreement(chosen("spikesparse", "cpu")[0], Setting("4-P-F8", image=(3, 8, 8)))
    assert not found["agrees"]
    assert found[what] > 1e-2
    assert module.in_words(found).startswith("NO")


def test_the_limit_is_the_same_network_but_for_the_neurons(bench):
    """Same weights in the same places; and with ReLU for neurons, running the first layer once changes nothing."""
    from torch import nn
    from train_step.agreement import build
    from train_step.contestants import chosen
    from train_step.folded import FoldedNet, hidden_neurons
    from train_step.same_weights import draw_weights, layers, shapes
    from train_step.setting import Setting

    setting = Setting("4-4-P-6-P-F8", timesteps=3, batch=2, image=(3, 8, 8))
    ours, limit = (build(contestant, setting).module for contestant in chosen("spikesparse,limit contiguous", "cpu"))
    assert shapes(ours) == shapes(limit)
    assert all(torch.equal(a.weight, b.weight) for a, b in zip(layers(ours), layers(limit), strict=True))
    assert hidden_neurons(setting) == sum(ours.sizes.neurons.values())
    every_step = FoldedNet(setting, nn.ReLU)
    draw_weights(every_step)
    images, _ = setting.batch_of()
    torch.testing.assert_close(every_step(images), limit(images), rtol=1e-4, atol=1e-5)


def test_bytes_saved_by_hand(bench):
    from torch import nn
    from train_step.contender import Contender
    from train_step.memory import held_bytes, saved_bytes
    from train_step.setting import Setting
    from train_step.step import Step

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))

        def forward(self, images):
            x = (images * self.scale).exp()  # keeps its result; the product keeps the batch, which is not counted
            y = x * x  # keeps x twice: one storage
            return y.flatten(1)[:, :10]

    setting = Setting(batch=2, image=(3, 4, 4))
    step = Step(Contender(Net()), setting, "contiguous")
    small = 2 * 10 * 4 + 2 * 8 + 4  # log-probabilities, labels, the loss's weight
    assert saved_bytes(step) - 2 * 48 * 4 == pytest.approx(small, abs=64)
    assert held_bytes(step) - 2 * 48 * 4 == pytest.approx(small, abs=400)


def test_a_compiled_one_is_found_out_by_its_loss(bench):
    from train_step.contestants import chosen
    from train_step.driver import Outcome
    from train_step.setting import Setting
    from train_step.table import disagreeing

    contestants = chosen("spikesparse,norse,norse compiled,sinabs,limit contiguous", "cpu")
    losses = (2.000, 2.050, 2.300, 1.950, 7.0)  # the limit is another network
    for precision, expected in (("float32", ["norse compiled, T=4"]), ("bf16-mixed", [])):
        setting = Setting(precision=precision)
        outcomes = [Outcome(c, setting, {"loss": loss}) for c, loss in zip(contestants, losses, strict=True)]
        assert [line.split(":")[0] for line in disagreeing(outcomes)] == expected
    no = {"agreement": {"agrees": False, "spikes": 0.5}}
    assert disagreeing([Outcome(contestants[1], setting, no)]) == ["norse, T=4: NO: spikes 5e-01"]


@pytest.mark.slow
def test_one_that_dies_is_a_row_and_not_the_end(bench, tmp_path, monkeypatch):
    from train_step.contestants import Contestant
    from train_step.driver import Driver
    from train_step.setting import Setting
    from train_step.table import rows

    (tmp_path / "fake_adapter.py").write_text(FAKE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    dies = Contestant("dies", "fake_adapter", spikes=False)
    gone = Contestant("gone", "fake_adapter", peer="no such peer")
    said = []
    driver = Driver(rounds=2, measure=("time",), patience=60.0, parallel=2, say=said.append)
    outcomes = driver.run([(dies, Setting("4-P", batch=2)), (gone, Setting("4-P", batch=2))])
    made = {row["contestant"]: row for row in rows(outcomes, {})}
    assert "make peers" in made["gone"]["failed"]
    assert "layers have other shapes" in made["dies"]["agrees"]  # of itself it is no VGG
    assert "status 7" in made["dies"]["failed"]
    assert made["dies"]["median_ms"] == ""
    assert any("dies" in line and "FAILED" in line for line in said)


def test_every_contestant_is_listed_and_unknown_ones_are_refused(bench, capsys):
    from train_step.command import main
    from train_step.contestants import CONTESTANTS, chosen

    main(None, ["--list"])
    listed = capsys.readouterr().out
    assert all(contestant.name in listed for contestant in CONTESTANTS)
    assert len({contestant.name for contestant in CONTESTANTS}) == len(CONTESTANTS)
    with pytest.raises(SystemExit, match="no such"):
        chosen("spikesparse,no such", "cpu")
    assert not any(contestant.cuda_only for contestant in chosen(None, "cpu"))


def test_rows_are_not_appended_to_another_table(bench, tmp_path):
    from tables import append_rows, check_columns

    path = tmp_path / "new" / "table.csv"
    check_columns(path, ["contestant", "median_ms"])
    append_rows([{"contestant": "a", "median_ms": 1}], path)
    append_rows([{"contestant": "b", "median_ms": 2}], path)
    check_columns(path, ["contestant", "median_ms"])
    assert [row["median_ms"] for row in csv.DictReader(path.read_text().splitlines())] == ["1", "2"]
    (tmp_path / "begun.csv").touch()  # as another process has it, between opening it and writing the header
    append_rows([{"contestant": "a", "median_ms": 1}], tmp_path / "begun.csv")
    assert (tmp_path / "begun.csv").read_text() == "contestant,median_ms\na,1\n"
    before = path.read_text()
    for other in ({"contestant": "c"}, {"median_ms": 3, "contestant": "c"}):
        with pytest.raises(SystemExit, match="columns"):
            append_rows([other], path)
    assert path.read_text() == before


PEERS = ("spikingjelly", "snntorch", "norse", "sinabs")


@pytest.mark.slow
def test_a_whole_run(tmp_path):
    """Ours and the limit, and whatever peers are there."""
    peers = [peer for peer in PEERS if (ROOT / ".peers" / peer / ".ready").exists()]
    names = ["limit contiguous", "spikesparse", *peers]
    path = tmp_path / "table.csv"
    command = [sys.executable, str(ROOT / "benchmarks" / "train_step.py"), "--fast", "--device", "cpu"]
    ran = subprocess.run(
        [*command, "--contestants", ",".join(names), "--csv", str(path), "--parallel", "2"],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert sorted(row["contestant"] for row in rows) == sorted(names)
    for row in rows:
        assert row["failed"] == "", row
        assert float(row["median_ms"]) > 0
        assert float(row["held_bytes_per_neuron_step"]) > 0
        assert row["agrees"].startswith("same shapes" if "limit" in row["contestant"] else "yes"), row
        if row["contestant"] == "limit contiguous":
            assert float(row["ratio_to_limit"]) == 1.0
