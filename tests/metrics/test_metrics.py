"""Counting metrics against sums of Python integers."""

import pickle
import random
from dataclasses import replace

import matplotlib as mpl
import matplotlib.pyplot as plt
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchmetrics import MetricCollection

from spikesparse import SpikePenalty, SpikingVGG
from spikesparse.metrics import (
    Energy,
    EnergyConstants,
    MembraneUpdates,
    MultiplyAccumulates,
    SaturatedNeurons,
    SilentNeurons,
    SpikeCounts,
    SpikeRate,
    SpikesPerImage,
    SynapticOperations,
)
from spikesparse.metrics.counts import add_counts
from spikesparse.metrics.split import SplitMetrics
from spikesparse.nn import LayerSizes, SpikeCounter, SpikeRecord, SpikeTally

mpl.use("Agg")
SIZES = LayerSizes({"conv1": 10, "conv2": 20}, {"conv1": 100, "conv2": 200, "classifier": 300})
T = 4


def make_tally(spikes, synops, macs):
    """From nested lists of integers: (layer, image), (layer, image) and (image)."""
    spikes, synops, macs = (torch.tensor(rows, dtype=torch.float64) for rows in (spikes, synops, macs))
    return SpikeTally(SIZES, T, spikes, synops, macs, torch.zeros_like(macs), macs.new_zeros(0, len(macs)))


def random_batches(sizes=(3, 0, 1, 5), most=40, seed=0):
    """Tallies of uneven batches, one of them empty, as integers: (spikes, synops, macs) each."""
    draw = random.Random(seed)
    return [
        (
            [[draw.randint(0, most) for _ in range(size)] for _ in SIZES.neurons],
            [[draw.randint(0, most) for _ in range(size)] for _ in SIZES.synapses],
            [draw.randint(0, most) for _ in range(size)],
        )
        for size in sizes
    ]


def rows(batches, part, layer):
    return sum(sum(batch[part][layer]) for batch in batches)


def images(batches):
    return sum(len(batch[2]) for batch in batches)


def spikes_per_image(batches):
    return sum(rows(batches, 0, layer) for layer in range(2)) / images(batches)


def spike_rate(batches):
    return sum(rows(batches, 0, layer) for layer in range(2)) / ((10 + 20) * T * images(batches))


def synops_per_image(batches):
    return sum(rows(batches, 1, layer) for layer in range(3)) / images(batches)


def energy(batches):
    accumulates = sum(rows(batches, 1, layer) for layer in range(3))
    return (0.9 * accumulates + 4.6 * sum(sum(batch[2]) for batch in batches)) * 1e-6 / images(batches)


SCALARS = [(SpikesPerImage, spikes_per_image), (SpikeRate, spike_rate), (SynapticOperations, synops_per_image)]
SCALARS += [(Energy, energy)]
PER_LAYER = [
    (SpikesPerImage, 0, {"conv1": 1, "conv2": 1}),
    (SpikeRate, 0, {"conv1": 10 * T, "conv2": 20 * T}),
    (SynapticOperations, 1, {"conv1": 1, "conv2": 1, "classifier": 1}),
]


def updated(metric, batches):
    for batch in batches:
        metric.update(make_tally(*batch))
    return metric


@pytest.mark.parametrize(("cls", "expected"), SCALARS)
@pytest.mark.parametrize("sizes", [(3, 0, 1, 5), (0, 2), (1,)])
def test_value_of_the_whole_network(cls, expected, sizes):
    batches = random_batches(sizes)
    value = updated(cls(), batches).compute()
    assert value.dtype == torch.float64
    assert value.item() == pytest.approx(expected(batches), rel=1e-12)


@pytest.mark.parametrize(("cls", "part", "places"), PER_LAYER)
def test_value_of_each_layer(cls, part, places):
    batches = random_batches()
    expected = {
        name: rows(batches, part, layer) / (size * images(batches)) for layer, (name, size) in enumerate(places.items())
    }
    values = updated(cls(per_layer=True), batches).compute()
    assert {name: value.item() for name, value in values.items()} == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("cls", [cls for cls, _ in SCALARS])
def test_batches_may_be_split_at_will(cls):
    whole = random_batches((9,))
    spikes, synops, macs = whole[0]
    parts = [
        ([row[cut] for row in spikes], [row[cut] for row in synops], macs[cut])
        for cut in (slice(0, 4), slice(4, 4), slice(4, 9))
    ]
    assert updated(cls(), whole).compute() == updated(cls(), parts).compute()


@pytest.mark.parametrize("cls", [cls for cls, _ in SCALARS])
def test_only_empty_batches_are_zero(cls):
    assert updated(cls(), random_batches((0,))).compute() == 0


def test_energy_of_other_hardware():
    metric = Energy(accumulate_pj=2.0, multiply_accumulate_pj=10.0)
    metric.update(make_tally([[1], [1]], [[1], [2], [3]], [7]))
    assert metric.compute().item() == pytest.approx((6 * 2 + 7 * 10) * 1e-6, rel=1e-12)


def restored(metric):
    """Another object that is given the first one's state, by way of a file's bytes."""
    metric.persistent(True)
    state = pickle.loads(pickle.dumps(metric.state_dict()))
    fresh = type(metric)(per_layer=metric.per_layer)
    if isinstance(metric, Energy):
        fresh = Energy(metric.constants.accumulate_pj, metric.constants.multiply_accumulate_pj)
    fresh.persistent(True)
    fresh.load_state_dict(state)
    return fresh


KEEPERS = {
    "as it is": lambda metric: metric,
    "clone": lambda metric: metric.clone(),
    "pickle": lambda metric: pickle.loads(pickle.dumps(metric)),
    "to": lambda metric: metric.to(torch.bfloat16),
    "module.to": lambda metric: nn.ModuleList([metric]).to(torch.bfloat16)[0],
    "module.half": lambda metric: nn.ModuleList([metric]).half()[0],
    "set_dtype": lambda metric: metric.set_dtype(torch.float16),
    "checkpoint": lambda metric: restored(metric),
}


@pytest.mark.parametrize("keep", KEEPERS.values(), ids=KEEPERS)
@pytest.mark.parametrize("first", [2**24, 2**31, 2**40])
@pytest.mark.parametrize("cls", [SpikesPerImage, SynapticOperations])
def test_large_counts_are_exact(cls, first, keep):
    """One image each; the ones would be lost in float32 beyond 2**24 and in int32 beyond 2**31."""
    metric = updated(cls(), [([[first], [0]], [[first], [0], [0]], [0])])
    metric = updated(keep(metric), [([[1], [0]], [[1], [0], [0]], [0])] * 3)
    assert metric.compute().item() * 4 == first + 3


@pytest.mark.parametrize("keep", KEEPERS.values(), ids=KEEPERS)
def test_large_counts_of_energy_are_exact(keep):
    metric = Energy(accumulate_pj=1.0, multiply_accumulate_pj=0.0)
    metric = updated(metric, [([[0], [0]], [[2**40], [0], [0]], [0])])
    metric = updated(keep(metric), [([[0], [0]], [[1], [0], [0]], [5])] * 3)
    assert round(metric.compute().item() * 4e6) == 2**40 + 3


@pytest.mark.filterwarnings("ignore:The ``compute`` method of metric")  # of the metric restored from a checkpoint
@pytest.mark.parametrize(("cls", "places"), [(cls, places) for cls, _, places in PER_LAYER])
@pytest.mark.parametrize("keep", KEEPERS.values(), ids=KEEPERS)
def test_layers_survive_copies_and_moves(cls, places, keep):
    kept = keep(updated(cls(per_layer=True), random_batches())).compute()
    assert list(kept) == list(places)
    assert kept == updated(cls(per_layer=True), random_batches()).compute()


def test_a_clone_counts_on_its_own():
    metric = updated(SpikesPerImage(), random_batches())
    updated(metric.clone(), random_batches(seed=1))
    assert metric.compute().item() == pytest.approx(spikes_per_image(random_batches()), rel=1e-12)


@pytest.mark.parametrize("per_layer", [False, True])
@pytest.mark.parametrize("cls", [SpikesPerImage, SpikeRate, SynapticOperations])
def test_reset_forgets_everything(cls, per_layer):
    metric = updated(cls(per_layer=per_layer), random_batches())
    metric.reset()
    again = random_batches((2,), seed=1)
    assert updated(metric, again).compute() == updated(cls(per_layer=per_layer), again).compute()


def test_reset_forgets_energy():
    metric = updated(Energy(), random_batches())
    metric.reset()
    again = random_batches((2,), seed=1)
    assert updated(metric, again).compute().item() == pytest.approx(energy(again), rel=1e-12)


@pytest.mark.parametrize(("cls", "expected"), SCALARS)
def test_calling_a_metric_gives_the_batch_value_and_adds_it_up(cls, expected):
    metric, batches = cls(), random_batches((3, 2))
    values = [metric(make_tally(*batch)).item() for batch in batches]
    assert values == pytest.approx([expected([batch]) for batch in batches], rel=1e-12)
    assert metric.compute().item() == pytest.approx(expected(batches), rel=1e-12)


def test_counts_keep_no_graph():
    tally = make_tally([[1.0], [2.0]], [[1], [2], [3]], [4])
    tally.spikes.requires_grad_()
    metric = SpikesPerImage()
    metric.update(tally)
    assert not metric.compute().requires_grad


def test_by_default_checkpoints_hold_no_counts():
    assert updated(SpikesPerImage(), random_batches()).state_dict() == {}


def test_a_collection_that_shares_states_keeps_every_metric_right():
    """torchmetrics updates one metric of a group and hands its states to the others."""
    alone = [SpikesPerImage(), SpikeRate(per_layer=True), SynapticOperations(), Energy(over_ann=True)]
    together = MetricCollection({str(i): metric.clone() for i, metric in enumerate(alone)})
    for batch in random_batches():
        together.update(make_tally(*batch))
    assert len(together.compute_groups) == 1
    values = together.compute()
    for i, metric in enumerate(alone):
        value = updated(metric, random_batches()).compute()
        assert value == ({name: values[name] for name in value} if isinstance(value, dict) else values[str(i)])


@pytest.mark.parametrize("largest", [2**53 + 1, 2**62 - 8])
def test_counts_beyond_a_float_s_whole_numbers_stay_exact(largest):
    metric = SpikeCounts()
    metric.update(make_tally([[0], [0]], [[0], [0], [0]], [0]))
    metric.counts[5] = largest  # conv1's spikes
    updated(metric, [([[1], [0]], [[0], [0], [0]], [0])] * 5)
    assert metric.bill().spikes["conv1"] == largest + 5


@pytest.mark.parametrize("ask", [SpikeCounts.bill, SpikeCounts.compute])
def test_counts_that_no_longer_fit_are_refused(ask):
    metric = SpikeCounts()
    metric.update(make_tally([[0], [0]], [[0], [0], [0]], [0]))
    metric.counts[5] = 2**62
    updated(metric, [([[2**52], [0]], [[0], [0], [0]], [0])] * 3)
    with pytest.raises(OverflowError, match="2\\*\\*62"):
        ask(metric)


@pytest.mark.parametrize(
    ("parts", "total"),
    [
        ([3, 4], 7),
        ([2**61, 2**61 - 1], 2**62 - 1),
        ([2**62, 2**62], -1),
        ([2**62, 2**62, 2**62, 2**62], -1),
        ([-1, 9], -1),
    ],
)
def test_sums_over_processes_are_exact_or_marked(parts, total):
    assert add_counts(torch.tensor(parts)) == total


def test_a_network_too_large_to_count_is_refused():
    sizes = LayerSizes({"conv1": 1}, {"conv1": 1, "classifier": 2**51})
    SpikeCounter(torch.zeros(3, 1, 1, 1, 1), sizes, 3)
    with pytest.raises(ValueError, match=r"2\*\*53"):
        SpikeCounter(torch.zeros(4, 1, 1, 1, 1), sizes, 4)


def test_one_metric_does_not_mix_two_networks():
    metric = updated(SpikesPerImage(), random_batches())
    other = SpikingVGG("3", input_shape=(1, 4, 4))(torch.zeros(2, 1, 4, 4)).tally
    with pytest.raises(ValueError, match="one network"):
        metric.update(other)
    metric.reset()
    metric.update(other)


# what needs a record


def recorded(counts, spikes=((0, 0), (0, 0)), nonzero=(1, 2, 3)):
    """A tally of two images whose ten and twenty neurons spiked so often."""
    neurons = {"conv1": torch.tensor(counts[0]).view(5, 2), "conv2": torch.tensor(counts[1])}
    tally = make_tally(spikes, [[0, 0], [4, 5], [6, 7]], [50, 50])
    zero = [torch.tensor(nonzero), torch.tensor([0, 8, 12]), torch.tensor(90)]
    return SpikeTally(**{**vars(tally), "record": SpikeRecord(neurons, *zero, {})})


CONV1 = [0, 0, 0, 8, 8, 1, 2, 3, 4, 0]  # two images of four steps: 8 is always
CONV2 = [0] * 5 + [8] + [7] * 14


def test_silent_and_saturated_neurons_by_hand():
    tally = recorded((CONV1, CONV2))
    for cls, conv1, conv2 in ((SilentNeurons, 4, 5), (SaturatedNeurons, 2, 1)):
        total, per_layer = cls(), cls(per_layer=True)
        total.update(tally)
        per_layer.update(tally)
        assert total.compute() == conv1 + conv2
        assert per_layer.compute() == {"conv1": conv1, "conv2": conv2}


def test_a_neuron_is_silent_only_if_it_is_so_in_every_batch():
    silent, saturated = SilentNeurons(per_layer=True), SaturatedNeurons(per_layer=True)
    for counts in ((CONV1, CONV2), ([0, 1] + [8] * 8, [1] * 5 + [8] * 15)):
        silent.update(recorded(counts))
        saturated.update(recorded(counts))
    assert silent.compute() == {"conv1": 1, "conv2": 0}
    assert saturated.compute() == {"conv1": 2, "conv2": 1}


def test_operations_over_nonzero_weights_by_hand():
    tally = recorded((CONV1, CONV2))
    synops, macs = SynapticOperations(nonzero_weights=True), MultiplyAccumulates(nonzero_weights=True)
    per_layer = SynapticOperations(per_layer=True, nonzero_weights=True)
    for metric in (synops, macs, per_layer):
        metric.update(tally)
        metric.update(tally)
    assert (synops.compute(), macs.compute()) == (20 / 2, 90 / 2)
    assert per_layer.compute() == {"conv1": 0, "conv2": 4, "classifier": 6}
    assert SynapticOperations()(tally) == 22 / 2


def test_macs_and_membrane_updates_by_hand():
    tally = recorded((CONV1, CONV2))
    assert MultiplyAccumulates()(tally) == 50
    assert MembraneUpdates()(tally) == (10 + 20) * 4
    assert Energy(1.0, 10.0)(tally).item() == pytest.approx((11 + 500) * 1e-6)
    assert Energy(1.0, 10.0, over_ann=True)(tally).item() == pytest.approx(511 / 6000)


@pytest.mark.parametrize("metric", [SilentNeurons(), SaturatedNeurons(), SynapticOperations(nonzero_weights=True)])
def test_a_batch_without_its_record_is_refused_not_guessed(metric):
    metric = metric.clone()
    metric.update(recorded((CONV1, CONV2)))
    metric.update(make_tally([[0], [0]], [[0], [0], [0]], [0]))
    with pytest.raises(ValueError, match="record='neurons'"):
        metric.compute()


def test_nonzero_counts_of_part_of_the_images_are_not_those_of_all():
    """Two images whose network said which weights are zero, two whose network did not: what is known of all stays."""
    known = recorded((CONV1, CONV2))
    unknown = replace(
        known, record=replace(known.record, nonzero_synapses=None, nonzero_synops=None, nonzero_macs=None)
    )
    for tallies in ([known, unknown], [unknown, known], [unknown]):
        metrics = [SpikeCounts(), SynapticOperations(nonzero_weights=True), MultiplyAccumulates(nonzero_weights=True)]
        for metric in metrics:
            for tally in tallies:
                metric.update(tally)
        counts, *by_weights = metrics
        bill = counts.bill()
        assert (bill.nonzero_synapses, bill.nonzero_synops, bill.nonzero_macs) == (None, None, None)
        assert bill.neuron_spikes == {
            "conv1": [n * len(tallies) for n in CONV1],
            "conv2": [n * len(tallies) for n in CONV2],
        }
        assert bill.synops == {"conv1": 0, "conv2": 9 * len(tallies), "classifier": 13 * len(tallies)}
        for metric in by_weights:
            with pytest.raises(ValueError, match="record='neurons'"):
                metric.compute()
    whole = SpikeCounts()
    for _ in range(2):
        whole.update(known)
    bill = whole.bill()
    assert bill.nonzero_synapses == {"conv1": 1, "conv2": 2, "classifier": 3}  # of the network, not times its images
    assert (bill.nonzero_synops, bill.nonzero_macs) == ({"conv1": 0, "conv2": 16, "classifier": 24}, 180)


def test_an_unknown_record_is_refused():
    with pytest.raises(ValueError, match="'neurons' or 'spikes'"):
        SpikingVGG("3", input_shape=(1, 4, 4))(torch.zeros(2, 1, 4, 4), record="everything")


def test_recorded_spikes_are_those_that_were_counted():
    net = SpikingVGG("4-P-F6", input_shape=(2, 6, 6), norm="none").eval()
    tally = net(torch.randn(3, 2, 6, 6), record="spikes").tally
    trains = tally.record.spikes
    assert {name: tuple(train.shape) for name, train in trains.items()} == {"conv1": (4, 3, 4, 6, 6), "fc1": (4, 3, 6)}
    for row, (name, train) in zip(tally.spikes, trains.items(), strict=True):
        assert torch.equal(train.double().flatten(2).sum((0, 2)), row)
        assert torch.equal(train.sum((0, 1)).long(), tally.record.neurons[name])
    assert net(torch.randn(3, 2, 6, 6)).tally.record is None


# plots


def test_a_metric_per_layer_plots_a_bar_for_each():
    metric = updated(SpikeRate(per_layer=True), random_batches())
    figure, axes = metric.plot()
    bars = {label.get_text(): bar.get_width() for label, bar in zip(axes.get_yticklabels(), axes.patches, strict=True)}
    assert bars == pytest.approx({name: value.item() for name, value in metric.compute().items()})
    assert axes.get_xlabel() == "spike rate"
    assert axes.figure is figure
    plt.close(figure)


def test_a_single_value_and_a_history_plot():
    metric = SynapticOperations()
    history = [metric(make_tally(*batch)) for batch in random_batches((3, 2, 4))]
    figure, axes = metric.plot(history)
    assert axes.lines[0].get_ydata().tolist() == [value.item() for value in history]
    plt.close(figure)
    figure, axes = metric.plot()
    assert axes.lines[0].get_ydata().tolist() == [metric.compute().item()]
    plt.close(figure)


def test_what_is_logged_is_a_mean_over_images_whatever_the_batches():
    torch.manual_seed(0)
    net = SpikingVGG("4-P-8", input_shape=(3, 8, 8), timesteps=2).eval()
    images, labels = torch.randn(11, 3, 8, 8), torch.arange(11) % 10
    logged = []
    for size in (11, 4):  # three batches, the last of them smaller
        metrics = SplitMetrics(EnergyConstants())
        for x, y in zip(images.split(size), labels.split(size), strict=True):
            output = net(x)
            metrics.update(output, y, F.cross_entropy(output.logits, y), SpikePenalty()(output.tally))
        logged.append(metrics.compute("val")[0])
    expected = F.cross_entropy(net(images).logits.double(), labels).item()
    assert logged[0] == pytest.approx(logged[1], rel=1e-6)
    assert logged[1]["loss/task/val"] == pytest.approx(expected, rel=1e-6)
