"""Every count of random small networks equals the walk over their synapses, as integers."""

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import nn

from oracle import Oracle, pair
from spikesparse.metrics import SpikeCounts
from spikesparse.nn import IF, LIF, SpikingAvgPool2d, SpikingLayer, SpikingStack
from spikesparse.nn.pooling import POOLINGS

INPUTS = ("constant", "analog", "spikes", "signed", "mixed")
EXAMPLES = 12  # of each of 4 x 5 combinations: 240 networks


class Ternary(nn.Module):
    """Neurons that spike with either sign, without memory."""

    def forward(self, current, timesteps=None):
        if timesteps is not None:
            current = current.expand(timesteps, *current.shape)
        return (current > 0.5).to(current) - (current < -0.5).to(current)


@st.composite
def convolutions(draw, shape, strided=False):
    """A convolution that fits ``shape``: any kernel, stride, padding, dilation and groups."""
    channels, *size = shape
    kernel = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    dilation = draw(st.tuples(st.integers(1, 2), st.integers(1, 2)))
    span = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    least = [max(0, -(-(s - n) // 2)) for s, n in zip(span, size, strict=True)]
    padding = tuple(draw(st.integers(low, max(low, 2))) for low in least)
    stride = (2, 2) if strided else draw(st.tuples(st.integers(1, 2), st.integers(1, 2)))
    groups = draw(st.sampled_from([g for g in (1, 2, 3) if channels % g == 0]))
    out = groups * draw(st.integers(1, 3 if groups == 1 else 1))
    return nn.Conv2d(channels, out, kernel, stride, padding, dilation, groups, bias=draw(st.booleans()))


@st.composite
def pools(draw, pooling, size):
    """A pool of that kind that fits, possibly with overlapping windows or gaps between them; None if none fits."""
    if pooling == "strided" or min(size) < 2:
        return None
    if pooling == "spiking_average":
        return SpikingAvgPool2d(2)
    kernel = draw(st.integers(2, min(3, *size)))
    stride, padding = draw(st.integers(1, 3)), draw(st.integers(0, kernel // 2))
    return (nn.MaxPool2d if pooling == "max" else nn.AvgPool2d)(kernel, stride, padding)


@st.composite
def networks(draw, pooling):
    """One or two convolutions with pools, perhaps a fully connected layer, and a classifier; some weights are zero."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    shape = (draw(st.integers(1, 3)), draw(st.integers(4, 6)), draw(st.integers(4, 6)))
    dropout = draw(st.sampled_from([0.0, 0.0, 0.4]))
    batch_norm = not dropout and draw(st.booleans())  # in training it wants more than one value
    input_shape, layers = shape, {}

    def neuron():
        return draw(st.sampled_from([LIF(0.6, 0.4), LIF(0.9, 0.5, reset="soft"), IF(0.5), Ternary()]))

    def fill(weights):
        with torch.no_grad():
            weights.weight.normal_(0.4, 1.0, generator=generator)
            if draw(st.booleans()):  # pruned
                weights.weight.mul_(torch.rand(weights.weight.shape, generator=generator) < 0.6)
        return weights

    for number in range(draw(st.integers(1, 2))):
        conv = fill(draw(convolutions(shape, strided=pooling == "strided")))
        shape = tuple(conv(torch.zeros(1, *shape)).shape[1:])
        pool = draw(pools(pooling, shape[1:]))
        norm = nn.BatchNorm2d(shape[0]) if batch_norm else None
        if norm is not None and draw(st.booleans()):
            nn.init.zeros_(norm.weight[:1].detach())  # folds into weights of zero
        layers[f"conv{number + 1}"] = SpikingLayer(conv, norm, neuron(), dropout, pool)
        if pool is not None:
            size = (getattr(pool, "average", pool))(torch.zeros(1, *shape)).shape[1:]
            shape = tuple(size)
    features = shape[0] * shape[1] * shape[2]
    if draw(st.booleans()):
        layers["fc1"] = SpikingLayer(fill(nn.Linear(features, 4)), None, neuron(), dropout)
        features = 4
    layers["classifier"] = SpikingLayer(fill(nn.Linear(features, 3)))
    net = SpikingStack(layers, input_shape, timesteps=draw(st.integers(1, 3)))
    return net.train(dropout > 0)


def make_input(kind, net, timesteps, batch, generator):
    analog = torch.randn((timesteps, batch, *net.input_shape), generator=generator)
    signed = analog.round().clamp(-1, 1)
    if kind == "mixed":  # analog and spiking images in one batch
        signed[:, ::2] = analog[:, ::2]
        return signed
    return {"constant": analog[0], "analog": analog, "spikes": (analog > 0.3).float(), "signed": signed}[kind]


seen = []


@pytest.mark.parametrize("kind", INPUTS)
@pytest.mark.parametrize("pooling", POOLINGS)
def test_counts_equal_walking_every_synapse(pooling, kind):
    # Without shrinking: the networks are small as they are, and each step of it would walk thousands of synapses.
    @settings(max_examples=EXAMPLES, deadline=None, derandomize=True, database=None, phases=[Phase.generate])
    @given(st.data())
    def check(data):
        net = data.draw(networks(pooling))
        batch, seed = data.draw(st.integers(1, 3)), data.draw(st.integers(0, 2**31))
        timesteps = net.timesteps if kind == "constant" else data.draw(st.integers(1, 3))
        x = make_input(kind, net, timesteps, batch, torch.Generator().manual_seed(seed))
        torch.manual_seed(seed)  # of dropout
        oracle = Oracle(net, x, timesteps, record="neurons")
        check_sizes(net, oracle)
        check_tally(oracle.watched.output.tally, oracle)
        check_bill(oracle.watched.output.tally, oracle)
        seen.append((net, oracle))

    check()


@pytest.mark.parametrize("neuron", [LIF, IF, Ternary])
@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_an_average_pool_that_keeps_the_size_is_no_new_input(neuron, dropout):
    """A 3x3 window with stride 1 and padding 1: what leaves it has the shape of the spikes that are counted."""
    torch.manual_seed(0)
    conv = SpikingLayer(nn.Conv2d(2, 3, 3, padding=1), None, neuron(), dropout, nn.AvgPool2d(3, 1, 1))
    layers = {"conv1": conv, "classifier": SpikingLayer(nn.Linear(60, 3))}
    net = SpikingStack(layers, (2, 4, 5), timesteps=2).train(dropout > 0)
    oracle = Oracle(net, torch.randn(2, 3, 2, 4, 5) * 2, 2, record="neurons")
    assert all(0 < count < 2 * 60 for count in oracle.spikes["conv1"])
    check_tally(oracle.watched.output.tally, oracle)
    check_bill(oracle.watched.output.tally, oracle)


def check_sizes(net, oracle):
    assert net.sizes.synapses == oracle.synapses
    assert net.sizes.ann_macs == oracle.connections
    assert net.sizes.neurons == {name: len(trains) for name, trains in oracle.neuron_spikes.items()}


def check_tally(tally, oracle):
    assert dict(zip(tally.layers.neurons, tally.spikes.tolist(), strict=True)) == oracle.spikes
    assert dict(zip(tally.layers.pooling_neurons, tally.pooling_spikes.tolist(), strict=True)) == oracle.pooling_spikes
    assert dict(zip(tally.layers.synapses, tally.synops.tolist(), strict=True)) == oracle.synops
    assert tally.macs.tolist() == oracle.macs
    assert tally.input_spikes.tolist() == oracle.input_spikes
    record = tally.record
    assert {name: spikes.flatten().tolist() for name, spikes in record.neurons.items()} == oracle.neuron_spikes
    assert record.nonzero_synapses.tolist() == list(oracle.nonzero_synapses.values())
    assert record.nonzero_synops.tolist() == [sum(images) for images in oracle.nonzero_synops.values()]
    assert record.nonzero_macs == sum(oracle.nonzero_macs)


def check_bill(tally, oracle):
    """The metric sees the batch twice, and everything doubles but what belongs to the neurons."""
    metric = SpikeCounts()
    metric.update(tally)
    metric.update(tally)
    bill = metric.bill()
    assert (bill.images, bill.steps) == (2 * oracle.batch, 2 * oracle.batch * oracle.timesteps)
    for name in ("spikes", "pooling_spikes", "synops", "nonzero_synops"):
        assert getattr(bill, name) == {layer: 2 * sum(images) for layer, images in getattr(oracle, name).items()}, name
    for name in ("macs", "nonzero_macs", "input_spikes"):
        assert getattr(bill, name) == 2 * sum(getattr(oracle, name)), name
    assert bill.nonzero_synapses == oracle.nonzero_synapses
    assert bill.neuron_spikes == {name: [2 * n for n in counts] for name, counts in oracle.neuron_spikes.items()}
    always = oracle.batch * oracle.timesteps
    for name, counts in oracle.neuron_spikes.items():
        row = bill.rows()[name]
        assert (row["silent_neurons"], row["saturated_neurons"]) == (counts.count(0), counts.count(always))


def test_the_networks_above_cover_what_can_be_built():
    """At least 200 networks, and each of these features among those that spent operations."""
    if len(seen) < EXAMPLES * len(INPUTS) * len(POOLINGS):
        pytest.skip("looks at the networks of all tests above")
    assert len(seen) >= 200
    busy = [(net, oracle) for net, oracle in seen if all(sum(images) for images in list(oracle.synops.values())[1:])]
    assert len(busy) > 150
    layers = [layer for net, _ in busy for layer in net.layers.values()]
    convs = [layer.weights for layer in layers if isinstance(layer.weights, nn.Conv2d)]
    pooled = [layer.pool for layer in layers if layer.pool is not None]
    average = [pool for pool in pooled if isinstance(pool, nn.AvgPool2d)]
    covered = {
        "stride": [conv for conv in convs if conv.stride != (1, 1)],
        "padding": [conv for conv in convs if conv.padding != (0, 0)],
        "dilation": [conv for conv in convs if conv.dilation != (1, 1)],
        "groups": [conv for conv in convs if conv.groups > 1],
        "fully connected": [net for net, _ in busy if "fc1" in net.layers],
        "overlapping average windows": [pool for pool in average if pool.stride < pool.kernel_size],
        "gaps between average windows": [pool for pool in average if pool.stride > pool.kernel_size],
        "padded average": [pool for pool in average if pair(pool.padding) != (0, 0)],
        "pooling neurons": [pool for pool in pooled if isinstance(pool, SpikingAvgPool2d)],
        "dropout": [net for net, _ in busy if net.training],
        "signed hidden spikes": [layer for layer in layers if isinstance(layer.neuron, Ternary)],
        "pruned": [oracle for _, oracle in busy if oracle.nonzero_synops != oracle.synops],
        "silent neurons": [o for _, o in busy if any(0 in counts for counts in o.neuron_spikes.values())],
    }
    assert {name: len(found) for name, found in covered.items() if len(found) < 5} == {}
