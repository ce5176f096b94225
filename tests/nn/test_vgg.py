"""SpikingVGG: sizes against published arithmetic, counts against loops that walk every synapse."""

import copy

import pytest
import torch
from torch import nn

from oracle import Oracle, Watcher
from refusals import refused_with
from spikesparse.commands.flags import with_flags
from spikesparse.errors import UserError
from spikesparse.nn import LayerSizes, SpikeCounter, SpikingLayer, SpikingStack, SpikingVGG
from spikesparse.nn.architecture import ARCHITECTURES
from spikesparse.nn.counter import count_events
from spikesparse.nn.layer import TimeSharedDropout
from spikesparse.nn.pooling import POOLINGS
from spikesparse.ops.surrogate import SURROGATES

# ---- sizes --------------------------------------------------------------------------------------------------------


def test_vgg9_sizes():
    """Exact connection arithmetic for Lee et al. 2020's VGG9 on 32x32 images, borders included."""
    sizes = SpikingVGG("vgg9", pooling="spiking_average").sizes
    assert list(sizes.synapses.values()) == [
        1_696_512,
        36_192_256,
        17_334_272,
        34_668_544,
        15_859_712,
        31_719_424,
        31_719_424,
        4_194_304,
        10_240,
    ]
    assert sum(sizes.synapses.values()) == 173_394_688
    assert list(sizes.neurons.values()) == [65_536, 65_536, 32_768, 32_768, 16_384, 16_384, 16_384, 1_024]
    assert sum(sizes.neurons.values()) == 246_784
    assert list(sizes.pooling_neurons.values()) == [16_384, 8_192, 4_096]
    assert sum(sizes.pooling_neurons.values()) == 28_672


@pytest.mark.parametrize("pooling", POOLINGS)
def test_only_spiking_pooling_has_pooling_neurons(pooling):
    sizes = SpikingVGG("vgg7", width=0.25, pooling=pooling).sizes
    assert bool(sizes.pooling_neurons) == (pooling == "spiking_average")


# Lee et al. 2020's VGG9, borders included: mean synapses that one event of each layer's input drives.
MEAN_FANOUT = {
    **{"conv1": 552.25, "conv2": 552.25, "conv3": 1058, "conv4": 1058, "conv5": 1936, "conv6": 1936, "conv7": 1936},
    **{"fc1": 1024, "classifier": 10},
}


def test_vgg9_mean_fanout_and_what_the_nominal_formula_makes_of_it():
    net = SpikingVGG("vgg9", pooling="spiking_average")
    assert {name: layer.fanout.double().mean().item() for name, layer in net.layers.items()} == MEAN_FANOUT
    nominal = 0
    for layer in net.layers.values():
        outputs = layer.weights.weight[:, 0].numel()  # channels times kernel
        nominal += outputs * layer.incoming.features
    assert nominal == 194_717_696
    assert nominal / sum(net.sizes.synapses.values()) == pytest.approx(1.123, abs=5e-4)
    assert net.sizes.ann_macs == net.sizes.synapses


def test_vgg16_sizes():
    sizes = SpikingVGG("vgg16").sizes
    assert len(sizes.synapses) == 14
    assert sum(sizes.synapses.values()) == 247_314_176
    assert sum(sizes.neurons.values()) == 276_480


def test_vgg7_sizes_by_hand():
    # A 3x3 convolution with padding 1 has 3n - 2 synapses along n pixels: 94 of 32, 46 of 16, 22 of 8.
    assert SpikingVGG("vgg7").sizes == LayerSizes(
        neurons={
            "conv1": 16 * 32 * 32,
            "conv2": 16 * 32 * 32,
            "conv3": 32 * 16 * 16,
            "conv4": 32 * 16 * 16,
            "conv5": 64 * 8 * 8,
            "conv6": 64 * 8 * 8,
        },
        synapses={
            "conv1": 3 * 16 * 94**2,
            "conv2": 16 * 16 * 94**2,
            "conv3": 16 * 32 * 46**2,
            "conv4": 32 * 32 * 46**2,
            "conv5": 32 * 64 * 22**2,
            "conv6": 64 * 64 * 22**2,
            "classifier": 64 * 4 * 4 * 10,
        },
    )


def test_plain_average_pooling_counts_the_synapses_behind_it_once_for_each_neuron_before_it():
    pooled, plain = (SpikingVGG("vgg7", pooling=pooling).sizes.synapses for pooling in ("max", "average"))
    behind_a_pool = ("conv3", "conv5", "classifier")
    assert plain == {name: count * (4 if name in behind_a_pool else 1) for name, count in pooled.items()}
    assert SpikingVGG("vgg7", pooling="average").sizes.ann_macs == pooled  # but it has no more connections


def test_strided_sizes_by_hand():
    # conv2 reads 6 pixels with stride 2 and padding 1: windows at -1, 1, 3 have 2 + 3 + 3 pixels in the image.
    sizes = SpikingVGG("2-3-P-4", input_shape=(1, 6, 6), num_classes=5, pooling="strided").sizes
    assert sizes.neurons == {"conv1": 2 * 36, "conv2": 3 * 9, "conv3": 4 * 9}
    assert sizes.synapses == {
        "conv1": 2 * 16**2,
        "conv2": 2 * 3 * 8**2,
        "conv3": 3 * 4 * 7**2,
        "classifier": 4 * 9 * 5,
    }


@pytest.mark.parametrize(
    ("width", "channels"), [(2.0, [20, 12, 14]), (0.5, [5, 3, 4]), (0.25, [2, 2, 2]), (0.01, [1, 1, 1])]
)
def test_width_multiplies_channels_and_features(width, channels):
    net = SpikingVGG("10-6-P-F7", width=width, input_shape=(3, 4, 4))
    assert [len(layer.weights.weight) for layer in net.layers.values()] == [*channels, 10]


@pytest.mark.parametrize("listed", [[2, 3, "P", 4, "F5"], ["2", "3", "P", "4", "F5"]])
def test_a_list_is_the_same_architecture_as_its_string(listed):
    spelled, listed = (SpikingVGG(a, input_shape=(2, 6, 6)) for a in ("2-3-P-4-F5", listed))
    assert spelled.sizes == listed.sizes
    shapes = [[(name, p.shape) for name, p in net.named_parameters()] for net in (spelled, listed)]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_name_is_the_same_architecture_as_its_layers(name):
    settings = {"width": 0.05, "pooling": "strided"}
    assert SpikingVGG(name, **settings).sizes == SpikingVGG(ARCHITECTURES[name], **settings).sizes


# ---- counting -----------------------------------------------------------------------------------------------------


def tiny(pooling="max", input_shape=(2, 7, 6), **settings):
    """A network small enough to walk its synapses; somewhat excitatory, so that its last layers fire, too."""
    torch.manual_seed(0)
    settings = {"norm": "none", "timesteps": 3, "num_classes": 3, "pooling": pooling, "decay": 0.9} | settings
    net = SpikingVGG(settings.pop("architecture", "3-4-P-5-F16"), input_shape=input_shape, **settings)
    with torch.no_grad():
        for layer in net.layers.values():
            layer.weights.weight.add_(0.3 * layer.weights.weight.std())
    return net


def random_input(kind, net, batch=2, timesteps=3):
    generator = torch.Generator().manual_seed(1)
    analog = torch.randn((timesteps, batch, *net.input_shape), generator=generator)
    return {"constant": analog[0], "analog": analog, "spikes": (analog > 0.4).float(), "signed": analog.round().sign()}[
        kind
    ]


COUNTED = [(p, k, False) for p in POOLINGS for k in ("constant", "analog", "spikes", "signed")]
DROPPED = [(p, "spikes", True) for p in POOLINGS]  # a dropped spike is a spike, but drives no synapse


@pytest.mark.parametrize(("pooling", "kind", "dropout"), COUNTED + DROPPED)
def test_synops_equal_walking_every_synapse(pooling, kind, dropout):
    net = tiny(pooling, dropout=0.5 if dropout else 0.0).train(dropout)
    x = random_input(kind, net)
    oracle = Oracle(net, x, 3)
    tally, expected = oracle.watched.output.tally, oracle.synops
    assert all(sum(expected[name]) > 0 for name in expected if name != "conv1"), "nothing was counted"
    counted = dict(zip(tally.layers.synapses, tally.synops.tolist(), strict=True))
    assert counted == expected


@pytest.mark.parametrize(("pooling", "kind", "dropout"), COUNTED + DROPPED)
def test_spikes_equal_the_nonzeros_that_the_neurons_put_out(pooling, kind, dropout):
    net = tiny(pooling, dropout=0.5 if dropout else 0.0).train(dropout)
    oracle = Oracle(net, random_input(kind, net), 3)
    tally = oracle.watched.output.tally
    counted = dict(zip(tally.layers.neurons, tally.spikes.tolist(), strict=True))
    assert counted == oracle.spikes
    assert tally.spikes.sum(1).min() > 0


def test_pooling_spikes_equal_the_nonzeros_that_the_pools_put_out():
    net = tiny("spiking_average").eval()
    oracle = Oracle(net, random_input("spikes", net), 3)
    tally = oracle.watched.output.tally
    assert tally.pooling_spikes.tolist() == [oracle.pooling_spikes["pool1"]]
    assert tally.pooling_spikes.sum() > 0


@pytest.mark.parametrize("kind", ["spikes", "signed"])
def test_a_spiking_input_is_counted_and_costs_no_macs(kind):
    net = tiny().eval()
    oracle = Oracle(net, random_input(kind, net), 3)
    tally = oracle.watched.output.tally
    assert tally.input_spikes.tolist() == oracle.input_spikes
    assert tally.macs.tolist() == [0, 0]


# conv1: 2 -> 3 channels of 3x3 on 7x6 pixels; 3n - 2 synapses along n pixels.
MACS = 2 * 3 * 19 * 16


@pytest.mark.parametrize(("kind", "times"), [("constant", 1), ("analog", 3)])
def test_analog_input_costs_macs_once_or_in_every_step(kind, times):
    net = tiny().eval()
    tally = net(random_input(kind, net)).tally
    assert tally.macs.tolist() == [MACS * times] * 2
    assert tally.input_spikes.tolist() == [0, 0]
    assert tally.synops[0].tolist() == [0, 0]


def test_each_sample_is_analog_or_spiking_by_itself():
    net = tiny().eval()
    x = torch.stack([random_input(kind, net)[:, 0] for kind in ("analog", "signed")], dim=1)
    oracle = Oracle(net, x, 3)
    tally = oracle.watched.output.tally
    assert tally.macs.tolist() == [3 * MACS, 0]
    assert oracle.synops["conv1"][0] == 0
    assert tally.synops[0].tolist() == oracle.synops["conv1"]
    assert tally.input_spikes.tolist() == [0, x[:, 1].count_nonzero()]


@pytest.mark.parametrize("pooling", POOLINGS)
def test_dense_synapses_equal_the_synops_of_all_ones(pooling):
    net = tiny(pooling).eval()
    for layer in net.layers.values():
        if layer.neuron is not None:
            layer.neuron.register_forward_hook(lambda module, args, output: torch.ones_like(output))
    tally = net(torch.ones(3, 2, *net.input_shape)).tally
    assert tally.synops.tolist() == [[3 * dense] * 2 for dense in tally.layers.synapses.values()]


def test_a_fully_connected_first_layer_is_counted():
    net = tiny(architecture="F4").eval()
    oracle = Oracle(net, random_input("spikes", net), 3)
    tally = oracle.watched.output.tally
    assert tally.synops[0].tolist() == [4 * count for count in oracle.input_spikes]
    assert tally.synops[1].tolist() == [3 * count for count in tally.spikes[0].tolist()]


@pytest.mark.slow
def test_counts_stay_exact_under_autocast():
    net = tiny("average", input_shape=(2, 12, 12), architecture="8-8-P-16").eval()
    with torch.autocast("cpu", torch.bfloat16):
        oracle = Oracle(net, random_input("spikes", net), 3)
    tally = oracle.watched.output.tally
    assert oracle.watched["conv1", "spikes"].dtype == torch.bfloat16, "the test must run under autocast"
    assert tally.spikes.tolist() == list(oracle.spikes.values())
    assert tally.synops.tolist() == list(oracle.synops.values())
    assert tally.spikes.max() > 256, "bfloat16 counts to 256"


@pytest.mark.parametrize("autocast", [False, True])
def test_a_layer_that_always_fires_counts_exactly_in_bfloat16(autocast):
    net = tiny(input_shape=(1, 33, 31), architecture="3-F3001", threshold=1e-3)
    with torch.no_grad():
        for layer in net.layers.values():
            layer.weights.weight.fill_(1.0)
    x = torch.ones(2, 1, 33, 31)
    if not autocast:
        net, x = net.to(torch.bfloat16), x.to(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        tally = net(x).tally
    assert tally.spikes.tolist() == [[3 * 3 * 33 * 31] * 2, [3 * 3001] * 2]
    assert tally.synops.tolist() == [[0] * 2, [3 * 3 * 33 * 31 * 3001] * 2, [3 * 3001 * 3] * 2]


# ---- gradients of the counts --------------------------------------------------------------------------------------


def random_spikes(*shape):
    return (torch.rand(shape, generator=torch.Generator().manual_seed(2)) < 0.5).double().requires_grad_()


@pytest.mark.parametrize("unit", [1.0, 1.25, None])
@pytest.mark.parametrize("shape", [(3, 2, 4), (3, 2, 4, 5, 6)])
def test_gradient_of_a_count(shape, unit):
    """One for every place where a spike could be, whatever a spike's value; without a promise, that of |x|."""
    x = random_spikes(*shape)
    if unit is None:
        x = (x.detach() - random_spikes(*shape).detach().roll(1)).requires_grad_()  # of either sign
        assert x.min() == -1
    values = x if unit is None else x * unit
    events = count_events(values, unit)
    assert torch.equal(events.detach(), x.detach().abs().sum((0, 2)))
    cost = torch.rand(events.shape).double()
    (events * cost).sum().backward()
    sign = x.detach().sign() if unit is None else torch.ones_like(x)
    torch.testing.assert_close(x.grad, cost[None, :, None] * sign, rtol=1e-14, atol=0)


@pytest.mark.parametrize("unit", [1.0, 1.25, None])
@pytest.mark.parametrize("shape", [(3, 2, 4), (3, 2, 4, 5, 6)])
def test_counts_after_each_step_are_those_of_the_steps_so_far(shape, unit):
    """Values and gradient, each step's count taken by itself."""
    x = random_spikes(*shape)
    values = x if unit is None else x * unit
    cost = torch.rand(shape[:2] + shape[3:]).double()
    events = count_events(values, unit, after_each=True)
    assert events.shape == cost.shape
    (got,) = torch.autograd.grad((events * cost).sum(), x, retain_graph=True)
    apart = torch.stack([count_events(values[:t], unit) for t in range(1, len(x) + 1)])
    assert torch.equal(events, apart)
    (expected,) = torch.autograd.grad((apart * cost).sum(), x)
    torch.testing.assert_close(got, expected, rtol=1e-14, atol=0)


def counted_chain(pool, x):
    """Tally of the spikes ``x`` of a hidden layer whose pooled output enters the classifier (7 and 9 synapses up)."""
    fanouts = torch.arange(7, 23).view(4, 4), torch.arange(9, 13).view(2, 2)
    counter = SpikeCounter(random_input_like(x), LayerSizes({"a": 48}, {"a": 1, "b": 1, "c": 1}), len(x))
    counter.weights(torch.ones(4, 4, dtype=torch.int64))
    counter.neurons(x, 1.0)
    counter.weights(fanouts[0])
    pooled = pool(x.flatten(0, 1)).unflatten(0, x.shape[:2])
    counter.changed(pooled, 1.0)
    counter.weights(fanouts[1])
    return counter.tally(), pooled, fanouts


def random_input_like(x):
    return (torch.rand(x.shape, generator=torch.Generator().manual_seed(3)) < 0.5).double()


def test_gradient_of_spikes_is_one_for_each_spike():
    x = random_spikes(3, 2, 3, 4, 4)
    tally, *_ = counted_chain(nn.MaxPool2d(2), x)
    tally.spikes.sum().backward()
    assert torch.equal(x.grad, torch.ones_like(x))


def test_gradient_of_synops_is_the_fanout_along_the_pools_own_routing():
    x = random_spikes(3, 2, 3, 4, 4)
    tally, pooled, fanouts = counted_chain(nn.MaxPool2d(2), x)
    expected = (x * fanouts[0]).sum((0, 2, 3, 4)), (pooled * fanouts[1]).sum((0, 2, 3, 4))
    assert torch.equal(tally.synops[1:], torch.stack(expected))
    (wanted,) = torch.autograd.grad(sum(expected).sum(), x, retain_graph=True)
    (got,) = torch.autograd.grad(tally.synops.sum(), x)
    assert torch.equal(got, wanted)
    assert len(got.unique()) > 10


def test_gradient_of_a_network_s_synops_reaches_the_spikes_before_a_plain_average_pool():
    """Of 5x5 pixels, the last row and column are in no 2x2 window, and cost nothing."""
    net = tiny("average", input_shape=(1, 5, 5), architecture="2-P", num_classes=7).double().eval()
    spikes = random_spikes(3, 1, 2, 5, 5)
    net.layers["conv1"].neuron.register_forward_hook(lambda *_: spikes)
    net(torch.rand(3, 1, 1, 5, 5).double()).tally.synops.sum().backward()
    expected = torch.zeros(5, 5)
    expected[:4, :4] = 7
    assert torch.equal(spikes.grad, expected.double().expand_as(spikes))


def test_gradient_of_synops_under_dropout_is_the_fanout_of_the_kept_neurons():
    """Kept spikes travel on as 1 / (1 - p), but one of them is still one event."""
    net = tiny("max", dropout=0.25, architecture="6-F5", input_shape=(1, 4, 4)).double().train()
    spikes = random_spikes(3, 2, 6, 4, 4)
    net.layers["conv1"].neuron.register_forward_hook(lambda *_: spikes)
    kept = {}
    net.layers["conv1"].dropout.register_forward_hook(lambda module, args, out: kept.update(ratio=out / args[0]))
    net.layers["fc1"].neuron.register_forward_hook(lambda module, args, out: out.detach())
    tally = net(random_input("spikes", net).double()).tally
    (gradient,) = torch.autograd.grad(tally.synops[1].sum(), spikes)
    on = kept["ratio"].nan_to_num().amax(0) > 0  # known where a neuron spiked at all
    seen = (spikes.detach().amax(0) > 0).expand_as(gradient)
    assert 0 < on[seen[0]].double().mean() < 1
    expected = 5.0 * on.double().expand_as(gradient)
    torch.testing.assert_close(gradient[seen], expected[seen], rtol=1e-12, atol=0)
    assert set(gradient.unique().round(decimals=9).tolist()) == {0.0, 5.0}


def test_detached_tally_has_no_graph_and_the_same_counts():
    net = tiny("spiking_average")
    tally = net(random_input("constant", net)).tally
    detached = tally.detach()
    assert tally.spikes.requires_grad
    for name in ("spikes", "synops", "macs", "input_spikes", "pooling_spikes"):
        assert not getattr(detached, name).requires_grad
        assert torch.equal(getattr(detached, name), getattr(tally, name))


# ---- constant current ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["batch", "none"])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_a_constant_image_equals_the_image_in_every_step(pooling, norm):
    once = tiny(pooling, norm=norm, input_shape=(2, 6, 6)).double().train()
    every_step = copy.deepcopy(once)
    image = torch.randn(4, 2, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    outputs = []
    for net, x in ((once, image), (every_step, torch.stack([image] * 3))):
        for _ in range(2):  # a second step tells the running statistics' decay from their first update
            net.zero_grad()
            outputs.append(net(x))
            (outputs[-1].logits.square().sum() + 1e-3 * outputs[-1].tally.spikes.sum()).backward()
    assert outputs[0].tally.spikes.sum(1).min() > 0
    for a, b in (outputs[0::2], outputs[1::2]):
        torch.testing.assert_close(a.logits, b.logits, rtol=1e-10, atol=1e-10)
        assert torch.equal(a.tally.spikes, b.tally.spikes)
        assert torch.equal(a.tally.synops[1:], b.tally.synops[1:])
    for (name, p), q in zip(once.named_parameters(), every_step.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-9, atol=1e-10, msg=name)
    for (name, p), q in zip(once.named_buffers(), every_step.buffers(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-10, atol=1e-12, msg=name)


def test_running_variance_of_a_constant_image_uses_all_steps_by_hand():
    net = SpikingVGG("1", input_shape=(1, 2, 2), timesteps=3).double().train()
    image = torch.randn(2, 1, 2, 2, dtype=torch.float64)
    current = Watcher(net, image)["conv1", "into weights"]
    current = net.layers["conv1"].weights(current)
    biased = ((current - current.mean()) ** 2).mean()
    n = 3 * 2 * 4
    torch.testing.assert_close(net.layers["conv1"].norm.running_var, (0.9 + 0.1 * biased * n / (n - 1)).view(1))
    assert net.layers["conv1"].norm.num_batches_tracked == 1


@pytest.mark.parametrize(("kind", "images"), [("constant", 2), ("analog", 6)])
def test_the_first_convolution_sees_a_constant_image_once(kind, images):
    net = tiny(norm="batch")
    seen = Watcher(net, random_input(kind, net))
    assert len(seen["conv1", "into weights"]) == images
    assert len(seen["conv2", "into weights"]) == 6


def test_a_5d_input_brings_its_own_number_of_steps():
    net = tiny(timesteps=4).eval()
    assert net(random_input("spikes", net, timesteps=7)).tally.timesteps == 7
    assert net(random_input("constant", net)).tally.timesteps == 4


def test_no_state_between_calls():
    net = tiny("spiking_average").eval()
    x = random_input("signed", net)
    first, second = net(x), net(x)
    assert torch.equal(first.logits, second.logits)
    assert torch.equal(first.tally.spikes, second.tally.spikes)


def test_samples_of_a_batch_do_not_mix():
    net = tiny("spiking_average", norm="batch").eval()
    x = random_input("spikes", net, batch=3)
    together, alone = net(x), net(x[:, 1:2])
    torch.testing.assert_close(together.logits[1:2], alone.logits)
    assert torch.equal(together.tally.synops[:, 1:2], alone.tally.synops)


# ---- dropout ------------------------------------------------------------------------------------------------------


def test_dropout_draws_one_mask_for_all_steps():
    torch.manual_seed(0)
    dropped = TimeSharedDropout(0.25).train()(torch.ones(5, 4, 30, 20))
    assert torch.equal(dropped, dropped[:1].expand(5, -1, -1, -1))
    assert dropped.unique().tolist() == [0, pytest.approx(4 / 3)]
    assert (dropped[0] == 0).double().mean().item() == pytest.approx(0.25, abs=0.04)  # 4.5 standard deviations
    assert not torch.equal(dropped[:, 0], dropped[:, 1])


def test_no_dropout_in_evaluation():
    x = torch.rand(2, 3, 4)
    assert torch.equal(TimeSharedDropout(0.9).eval()(x), x)


def test_dropped_neurons_of_a_network_are_silent_in_every_step():
    net = tiny(dropout=0.5, architecture="8-F40", input_shape=(1, 4, 4)).train()
    with torch.no_grad():
        for layer in net.layers.values():
            layer.weights.weight.fill_(1.0)  # every neuron fires in every step
    seen = Watcher(net, torch.ones(2, 1, 4, 4))
    for name in ("fc1", "classifier"):
        steps = seen[name, "into weights"].unflatten(0, (3, 2))
        assert torch.equal(steps, steps[:1].expand_as(steps))
        assert 0.2 < (steps == 0).double().mean() < 0.8


# ---- initialisation and readout -----------------------------------------------------------------------------------


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize(("architecture", "width"), [("vgg7", 1.0), ("vgg9", 0.25)])
def test_without_batchnorm_every_layer_fires_at_initialisation(architecture, width, pooling):
    torch.manual_seed(0)
    net = SpikingVGG(architecture, width, norm="none", pooling=pooling).eval()
    with torch.no_grad():
        tally = net(torch.randn(4, 3, 32, 32)).tally
    rates = tally.spikes.mean(1) / torch.tensor(list(tally.layers.neurons.values())) / 4
    assert 0.02 < rates.min() < rates.max() < 0.6, rates


@pytest.mark.parametrize("readout", ["mean", "leaky"])
@pytest.mark.parametrize("kind", ["constant", "signed"])
def test_readout(readout, kind):
    net = tiny(readout=readout, decay=0.7, threshold=0.6).eval()
    currents = []
    net.layers["classifier"].register_forward_hook(lambda module, args, output: currents.extend(output.double()))
    logits = net(random_input(kind, net)).logits
    if readout == "mean":
        expected = (currents[0] + currents[1] + currents[2]) / 3
    else:
        expected = ((currents[0] * 0.7 + currents[1]) * 0.7 + currents[2]) / (0.6 * 3)
    torch.testing.assert_close(logits.double(), expected, rtol=1e-6, atol=1e-6)


def test_logits_are_float32_under_autocast():
    net = tiny().eval()
    with torch.autocast("cpu", torch.bfloat16):
        assert net(random_input("constant", net)).logits.dtype == torch.float32


@pytest.mark.parametrize("bias", [True, False])
def test_only_the_classifier_may_have_a_bias(bias):
    net = tiny(classifier_bias=bias)
    with_bias = [name for name, layer in net.layers.items() if layer.weights.bias is not None]
    assert with_bias == (["classifier"] if bias else [])


# ---- errors -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"architecture": "vgg8"}, ["--model.net.architecture='vgg8'", *ARCHITECTURES]),
        ({"architecture": "16-0"}, ["'0'"]),
        ({"architecture": [16, "Q"]}, ["'Q'", *ARCHITECTURES]),
        ({"architecture": ""}, ["--model.net.architecture=''"]),
        ({"architecture": []}, ["--model.net.architecture=[]", "hidden layer"]),
        ({"architecture": "P-16"}, ["--model.net.architecture='P-16'", "behind a convolution"]),
        ({"architecture": "16-P-P"}, ["behind a convolution"]),
        ({"architecture": "16-F8-P"}, ["behind a convolution"]),
        ({"architecture": "16-F8-32"}, ["--model.net.architecture='16-F8-32'", "32", "fully connected"]),
        ({"architecture": "1-P-1-P-1-P-1-P-1-P-1-P"}, ["--model.net.architecture=", "32x32", "too small"]),
        ({"width": 0}, ["--model.net.width=0", "above 0"]),
        ({"pooling": "mean"}, ["--model.net.pooling='mean'", *POOLINGS]),
        ({"norm": "layer"}, ["--model.net.norm='layer'", "batch", "none"]),
        ({"readout": "last"}, ["--model.net.readout='last'", "mean", "leaky"]),
        ({"surrogate": "step"}, ["--model.net.surrogate='step'", *SURROGATES]),
        ({"timesteps": 0}, ["--data.timesteps=0", "at least 1"]),
        ({"dropout": 1.0}, ["--model.net.dropout=1.0"]),
        ({"dropout": -0.1}, ["--model.net.dropout=-0.1"]),
        ({"decay": 1.5}, ["--model.net.decay=1.5"]),
        ({"threshold": 0.0}, ["--model.net.threshold=0.0", "above 0"]),
        ({"threshold": -1.0, "norm": "none"}, ["--model.net.threshold=-1.0", "above 0"]),
    ],
)
def test_errors_name_the_flag_the_value_and_what_there_is(settings, words):
    with pytest.raises(UserError) as error:
        SpikingVGG(**{"width": 0.1} | settings)
    assert [word for word in words if word not in with_flags(error.value)] == []


@pytest.mark.parametrize("pooling", POOLINGS)
def test_as_many_pools_as_the_image_allows(pooling):
    net = SpikingVGG("1-P-1-P", input_shape=(1, 4, 4), pooling=pooling)
    assert net.sizes.synapses["classifier"] == 10 * (4 if pooling == "average" else 1)


@pytest.mark.parametrize("shape", [(2, 6, 7), (3, 7, 6), (1, 1, 2, 2, 7, 6), (2, 3, 2, 6, 6)])
def test_an_input_of_another_shape_is_refused(shape):
    with pytest.raises(ValueError, match=r"reads \(T, B, 2, 7, 6\)"):
        tiny()(torch.zeros(shape))


def test_he_initialisation_is_lees():
    """Variance 2 / (3 * 3 * channels) of a convolution, 2 / features of a linear layer."""
    net = SpikingVGG("64-64-P-F256", norm="none", initialization="he", input_shape=(3, 16, 16))
    for name, fan_in in (("conv2", 9 * 64), ("fc1", 64 * 8 * 8)):
        weights = net.layers[name].weights.weight.detach()
        assert float(weights.std()) == pytest.approx((2 / fan_in) ** 0.5, rel=0.02)
        assert abs(float(weights.mean())) < 0.05 * float(weights.std())


def test_an_initialisation_that_would_not_be_read_is_refused():
    with refused_with(r"--model\.net\.initialization=he: only --model\.net\.norm=none"):
        SpikingVGG("4-P", initialization="he")


def test_a_stack_without_neurons_is_refused():
    with pytest.raises(ValueError, match="a layer with neurons in front of its classifier"):
        SpikingStack({"classifier": SpikingLayer(nn.Linear(4, 2))}, input_shape=(1, 2, 2))
