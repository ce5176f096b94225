"""Counting metrics against sums of Python integers."""

import pickle
import random

import pytest
import torch
from torch import nn

from spikesparse.metrics import Energy, SpikeRate, SpikesPerImage, SynapticOperations
from spikesparse.nn import LayerSizes, SpikeTally

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


KEEPERS = {
    "as it is": lambda metric: metric,
    "clone": lambda metric: metric.clone(),
    "pickle": lambda metric: pickle.loads(pickle.dumps(metric)),
    "to": lambda metric: metric.to(torch.bfloat16),
    "module.to": lambda metric: nn.ModuleList([metric]).to(torch.bfloat16)[0],
    "module.half": lambda metric: nn.ModuleList([metric]).half()[0],
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
