"""The bill: by hand, as files, as a table."""

import csv
import json
import math
import re
from dataclasses import replace

import pytest
import torch
from rich.console import Console

from refusals import refused_with
from spikesparse import SpikingVGG
from spikesparse.commands.main import main
from spikesparse.commands.tables import headline
from spikesparse.metrics import EnergyConstants, SpikeBill, SpikeCounts
from spikesparse.metrics.bill import DEFINITIONS
from spikesparse.nn import LayerSizes
from spikesparse.runs.bill_files import read_rows, write_bill
from spikesparse.runs.bill_table import bill_table
from spikesparse.runs.result import run_result

# A plain average pool in front of the classifier: 40 dense synapses, 10 connections.
SIZES = LayerSizes(
    {"conv1": 20, "fc1": 5},
    {"conv1": 100, "fc1": 60, "classifier": 40},
    {"pool1": 4},
    {"conv1": 100, "fc1": 60, "classifier": 10},
)
BILL = SpikeBill(
    layers=SIZES,
    images=8,
    steps=32,
    spiking_steps=0,
    input_spikes=0,
    macs=800,
    spikes={"conv1": 64, "fc1": 16},
    pooling_spikes={"pool1": 8},
    synops={"conv1": 0, "fc1": 480, "classifier": 96},
    neuron_spikes={"conv1": [0] * 3 + [1] * 7 + [2] * 3 + [7] * 5 + [8] * 2, "fc1": [0, 32, 3, 32, 5]},
    nonzero_synapses={"conv1": 90, "fc1": 30, "classifier": 40},
    nonzero_synops={"conv1": 0, "fc1": 240, "classifier": 96},
    nonzero_macs=720,
)
COSTS = EnergyConstants(accumulate_pj=1.0, multiply_accumulate_pj=10.0)


def test_rows_by_hand():
    rows = BILL.rows(COSTS)
    assert list(rows) == ["input", "conv1", "fc1", "classifier", "pool1", "total"]
    assert rows["input"] == {"spikes": 0, "spikes_per_image": 0}
    assert rows["pool1"] == {
        **{"neurons": 4, "spikes": 8, "spikes_per_image": 1, "spike_rate": 8 / (4 * 32)},
        **{"membrane_updates": 4 * 32, "membrane_updates_per_image": 16},
    }
    assert rows["fc1"] == {
        **{"neurons": 5, "silent_neurons": 1, "saturated_neurons": 2},
        **{"spikes": 16, "spikes_per_image": 2, "spike_rate": 16 / (5 * 32)},
        **{"membrane_updates": 160, "membrane_updates_per_image": 20},
        **{"synapses": 60, "nonzero_synapses": 30},
        **{"synops": 480, "synops_per_image": 60, "nonzero_synops": 240, "nonzero_synops_per_image": 30},
        **{"dense_synops": 60 * 32, "dense_synops_per_image": 240},
        **{"macs": 0, "macs_per_image": 0, "nonzero_macs": 0, "nonzero_macs_per_image": 0},
        **{"ann_macs": 480, "ann_macs_per_image": 60},
        **{"energy_uj_per_image": pytest.approx(60e-6), "ann_energy_uj_per_image": pytest.approx(600e-6)},
        **{"energy_over_ann": pytest.approx(0.1)},
    }
    assert "spikes" not in rows["classifier"]
    assert rows["total"] == {
        **{"neurons": 25, "silent_neurons": 4, "saturated_neurons": 2},
        **{"spikes": 80, "spikes_per_image": 10, "spike_rate": 80 / (25 * 32)},
        **{"membrane_updates": 29 * 32, "membrane_updates_per_image": 29 * 4},
        **{"synapses": 200, "nonzero_synapses": 160},
        **{"synops": 576, "synops_per_image": 72, "nonzero_synops": 336, "nonzero_synops_per_image": 42},
        **{"dense_synops": 100 * 32, "dense_synops_per_image": 400},  # the first layer multiplies: it has none
        **{"macs": 800, "macs_per_image": 100, "nonzero_macs": 720, "nonzero_macs_per_image": 90},
        **{"ann_macs": 170 * 8, "ann_macs_per_image": 170},
        **{"energy_uj_per_image": pytest.approx((72 + 1000) * 1e-6), "ann_energy_uj_per_image": pytest.approx(1700e-6)},
        **{"energy_over_ann": pytest.approx(1072 / 1700)},
    }


@pytest.mark.parametrize(
    ("percent", "spikes"), [(0, 0), (10, 0), (15, 0), (16, 1), (50, 1), (90, 7), (91, 8), (100, 8)]
)
def test_percentiles_of_the_rate_by_hand(percent, spikes):
    """Of 20 neurons: three with no spike, seven with 1, three with 2, five with 7, two with 8."""
    assert BILL.rate_percentile("conv1", percent) == spikes / 32


def test_spiking_input_has_dense_operations_in_the_first_layer():
    rows = replace(BILL, macs=0, spiking_steps=32, input_spikes=40).rows(COSTS)
    assert rows["conv1"]["dense_synops"] == 100 * 32
    assert rows["input"]["spikes_per_image"] == 5


def test_what_was_not_recorded_is_none_not_zero():
    names = ("neuron_spikes", "nonzero_synapses", "nonzero_synops", "nonzero_macs")
    rows = replace(BILL, **dict.fromkeys(names)).rows(COSTS)
    for column in ("silent_neurons", "saturated_neurons", "nonzero_synapses", "nonzero_synops", "nonzero_macs"):
        assert rows["total"][column] is None
        assert rows["fc1"][column] is None
    assert rows["total"]["synops"] == 576


def test_no_images_is_zero():
    rows = SpikeBill.from_sums(LayerSizes({}, {}), [0], [0]).rows()
    assert rows["input"]["spikes_per_image"] == 0
    assert rows["total"]["membrane_updates"] == 0


def test_counts_beyond_what_a_float_holds_stay_exact():
    big = 2**53 + 1
    rows = replace(BILL, synops={"conv1": 0, "fc1": big, "classifier": 1}).rows(COSTS)
    assert rows["total"]["synops"] == big + 1


def test_lee_2020_vgg9_without_spikes_costs_797_6_uj():
    """797.6 uJ at 4.6 pJ a MAC; a spiking network breaks even at 886.2 M accumulates of 0.9 pJ."""
    sizes = SpikingVGG("vgg9", pooling="spiking_average").sizes
    connections = sum(sizes.synapses.values())
    counts = [1, 100, 100, 0, 0, *[0] * 8, *[0] * 3, 886_200_000, *[0] * 8]
    total = SpikeBill.from_sums(sizes, counts, [0]).rows()["total"]
    assert total["ann_macs"] == connections == 173_394_688
    assert total["ann_energy_uj_per_image"] == pytest.approx(797.6, abs=0.05)
    assert total["energy_over_ann"] == pytest.approx(1.0, abs=1e-4)
    assert total["membrane_updates"] == (246_784 + 28_672) * 100


def test_files_say_what_every_column_means(tmp_path):
    write_bill(tmp_path, BILL, COSTS, {"split": "test", "command": ["test", "--x=1"]})
    lines = (tmp_path / "bill.csv").read_text().splitlines()
    comments = [line for line in lines if line.startswith("# ")]
    for line in ("# split: test", "# command: test --x=1", "# images: 8", "# timesteps: 4", "# accumulate_pj: 1.0"):
        assert line in comments
    parsed = {row["layer"]: row for row in csv.DictReader(line for line in lines if not line.startswith("#"))}
    rows = BILL.rows(COSTS)
    for name, row in rows.items():
        for column in DEFINITIONS:
            assert parsed[name][column] == str(row.get(column, "")), (name, column)
            assert any(re.fullmatch(rf"# {column}: .*\[.+\]", line) for line in comments), column
    kept = json.loads((tmp_path / "bill.json").read_text())
    assert kept["definitions"] == DEFINITIONS
    assert kept["multiply_accumulate_pj"] == 10.0
    assert kept["rows"] == rows == read_rows(tmp_path)
    assert [path.name for path in tmp_path.glob("*partial*")] == []


def printed(bill):
    console = Console(width=160, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(bill_table(bill.rows(COSTS), "title"))
    console.file.close()
    return console.export_text()


def test_table_leaves_out_what_says_nothing():
    text = printed(BILL)
    assert "nonzero SynOps" in text
    assert "input" not in text
    spiking = replace(BILL, macs=0, spiking_steps=32, input_spikes=40, neuron_spikes=None)
    text = printed(replace(spiking, nonzero_synapses=SIZES.synapses, nonzero_synops=BILL.synops, nonzero_macs=0))
    for absent in ("nonzero SynOps", "silent"):
        assert absent not in text
    assert "input" in text
    assert "9.00%" in text  # 576 of 6,400


def test_a_network_s_bill_beside_its_tally():
    torch.manual_seed(0)
    net = SpikingVGG("4-P-F6", input_shape=(2, 6, 6), norm="none", pooling="spiking_average").eval()
    metric, x = SpikeCounts(), torch.randn(3, 2, 6, 6)
    with torch.no_grad():
        tally = net(x, record="neurons").tally
    metric.update(tally)
    bill = metric.bill()
    assert bill.layers == net.sizes
    assert sum(bill.spikes.values()) == tally.spikes.sum()
    assert sum(bill.synops.values()) == tally.synops.sum()
    assert sum(bill.pooling_spikes.values()) == tally.pooling_spikes.sum()
    assert bill.macs == tally.macs.sum() == 3 * net.sizes.synapses["conv1"]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("flag", ["accumulate_pj=-1", "multiply_accumulate_pj=.nan", "accumulate_pj=.inf"])
def test_an_energy_that_cannot_be_names_the_flag(tiny_args, flag, capsys):
    assert main(["fit", *tiny_args, f"--model.energy.{flag}"]) == 2
    assert f"--model.energy.{flag.split('=')[0]}" in capsys.readouterr().err


@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["accumulate_pj", "multiply_accumulate_pj"])
def test_an_energy_is_a_number_of_0_or_more(name, value):
    with refused_with(rf"--model\.energy\.{name}={value}: an energy"):
        EnergyConstants(**{name: value})
    assert getattr(EnergyConstants(**{name: 0.0}), name) == 0.0


def test_operations_that_cost_nothing_still_make_a_headline():
    assert "0.0% of the 0 uJ" in headline(run_result("test", 0.5, BILL.timesteps, BILL.rows(EnergyConstants(1.0, 0.0))))
