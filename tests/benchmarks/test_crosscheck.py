"""The table of results/crosscheck.csv still holds for this code, and its verdicts find what is wrong.

The witnesses themselves run by `make crosscheck`, in environments of their own.
"""

import csv
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def crosscheck(monkeypatch):
    """The scripts of benchmarks/crosscheck, which are no package."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks" / "crosscheck"))
    import compare
    import networks
    import witness

    yield compare, networks, witness
    for name in ("compare", "networks", "witness"):
        del sys.modules[name]


def committed():
    lines = (ROOT / "results" / "crosscheck.csv").read_text().splitlines()
    return list(csv.DictReader(line for line in lines if not line.startswith("#")))


def test_our_counts_are_those_that_the_witnesses_confirmed(crosscheck):
    _, networks, _ = crosscheck
    ours = {name: networks.our_counts(net, x) for name, (net, x) in networks.cases().items()}
    rows = committed()
    assert {row["network"] for row in rows} == set(ours)
    for row in rows:
        assert ours[row["network"]][row["count"]] == int(row["ours"]), row
        assert row["agree"] in ("yes", "as explained")


def test_every_network_spikes_and_every_count_is_confirmed_by_somebody(crosscheck):
    compare, networks, _ = crosscheck
    for name, (net, x) in networks.cases().items():
        assert net(x).tally.spikes.sum(1).min() > 0, name
    confirmed = {
        row["count"] for row in committed() if row["agree"] == "yes" and any(row[tool] for tool in compare.TOOLS)
    }
    assert confirmed == set(networks.our_counts(*networks.cases()["max pool, spikes in"]))


def test_the_witnesses_rebuild_the_same_networks_without_this_package(crosscheck, tmp_path):
    """`witness.py` steps through time in a loop of its own, in float64."""
    _, networks, witness = crosscheck
    networks.export(tmp_path)
    paths = sorted(tmp_path.glob("case*.pt"))
    assert len(paths) == len(networks.cases())
    for path in paths:
        case = torch.load(path, weights_only=True)
        x = case["x"].double()
        out = witness.build(case)(x if x.dim() == 4 else x.flatten(0, 1))
        assert torch.equal(out.unflatten(0, (case["timesteps"], -1)).mean(0), case["logits"].double()), case["name"]


@pytest.mark.parametrize(
    ("network", "count", "tool", "value", "agree"),
    [
        ("max pool, spikes in", "synops", "sinabs", 100.0, "yes"),
        ("max pool, spikes in", "synops", "sinabs", 101.0, "NO: sinabs"),
        ("plain average pool", "synops", "spikingjelly", 60.0, "as explained"),
        ("plain average pool", "synops", "spikingjelly", 100.0, "NO: spikingjelly"),  # the explanation is out of date
    ],
)
def test_verdicts(crosscheck, network, count, tool, value, agree):
    compare, *_ = crosscheck
    theirs = {name: {network: {count: value} if name == tool else {}} for name in compare.TOOLS}
    (row,) = compare.verdicts({network: {count: 100}}, theirs)
    assert row["agree"] == agree
