"""Layers on the fast path against the same layers part by part; what they keep; what runs once."""

import copy
import logging

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from spikesparse import LIF, SpikePenalty, SpikingLayer, SpikingStack, SpikingVGG
from spikesparse.nn import SpikingAvgPool2d, fast
from spikesparse.nn.norm import normalize
from spikesparse.ops import backends


def images(batch=3, channels=3, size=8, dtype=torch.float32):
    return torch.randn(batch, channels, size, size, generator=torch.Generator().manual_seed(0)).to(dtype)


def vgg(architecture="8-8-P-12-P-F10", **settings):
    torch.manual_seed(1)
    return SpikingVGG(architecture, input_shape=(3, 8, 8), timesteps=3, num_classes=5, **settings)


def trained_step(net, x, seed=2):
    """Logits, tally, gradients and buffers after one step of training; dropout draws the same masks."""
    net.train()
    torch.manual_seed(seed)
    output = net(x)
    labels = torch.arange(len(output.logits)) % 5
    loss = F.cross_entropy(output.logits, labels) + 0.5 * SpikePenalty("synops")(output.tally).to(output.logits.dtype)
    loss = loss + 0.25 * SpikePenalty("spikes")(output.tally).to(output.logits.dtype)
    loss.backward()
    return output, {name: p.grad for name, p in net.named_parameters()}, dict(net.named_buffers())


def apart(net):
    """The same network, every layer part by part: a hook on a part asks for that."""
    net = copy.deepcopy(net)
    for layer in net.layers.values():
        if layer.neuron is not None:
            layer.neuron.register_forward_hook(lambda module, args, output: None)
    return net


def assert_same(net, other, x, tolerance=1e-9):
    (ours, gradients, buffers), (theirs, their_gradients, their_buffers) = (trained_step(n, x) for n in (net, other))
    torch.testing.assert_close(ours.logits, theirs.logits, rtol=tolerance, atol=tolerance)
    for name in ("spikes", "synops", "macs", "input_spikes", "pooling_spikes"):
        assert torch.equal(getattr(ours.tally, name), getattr(theirs.tally, name)), name
    assert ours.tally.spikes.sum() > 0
    for found, expected in ((gradients, their_gradients), (buffers, their_buffers)):
        assert set(found) == set(expected)
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=tolerance, atol=tolerance, msg=name)


@pytest.mark.parametrize("constant", [True, False], ids=["constant", "per_step"])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"pooling": "average"},
        {"pooling": "spiking_average"},
        {"pooling": "strided"},
        {"dropout": 0.3},
        {"norm": "none", "learn_decay": True, "learn_threshold": True, "threshold": 0.4},
        {"reset": "soft", "detach_reset": False, "surrogate": "triangle"},
        {"surrogate": "lee2020", "decay": 0.99},
        {"recompute": True},
        {"initial_potential": 0.5, "learn_initial_potential": True},
        {"recompute": True, "initial_potential": 0.5, "learn_initial_potential": True},
        {"recompute": True, "dropout": 0.3},
        {"architecture": "F20-F10"},
    ],
    ids=str,
)
def test_fused_layers_do_what_their_parts_do(settings, constant):
    """In float64, where both run in plain PyTorch: the same function, the same counts, the same gradients."""
    net = vgg(**settings).double()
    x = images(dtype=torch.float64) if constant else torch.stack([images(dtype=torch.float64) + k for k in range(3)])
    assert_same(net, apart(net), x)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("settings", [{}, {"recompute": True}, {"dropout": 0.3}], ids=str)
def test_the_kernels_train_as_the_reference_does(settings, batch, monkeypatch, threads):
    """In float32: a membrane within a rounding of its threshold may decide otherwise, so the network is a small one."""
    net = vgg("8-P-F10", **settings)
    other = copy.deepcopy(net)
    results = []
    for backend, one in (("", net), ("reference", other)):
        monkeypatch.setenv("SPIKESPARSE_BACKEND", backend)
        results.append(trained_step(one, images(batch)))
    assert torch.equal(results[0][0].tally.spikes, results[1][0].tally.spikes)
    for name, gradient in results[1][1].items():
        torch.testing.assert_close(results[0][1][name], gradient, rtol=1e-4, atol=1e-5)


def test_grouped_and_dilated_convolutions_and_odd_borders():
    def net():
        torch.manual_seed(0)
        return SpikingStack(
            {
                "a": SpikingLayer(nn.Conv2d(4, 6, 3, padding=1), nn.BatchNorm2d(6), LIF(), pool=nn.MaxPool2d(2)),
                "b": SpikingLayer(nn.Conv2d(6, 9, 3, padding=2, dilation=2, groups=3), None, LIF(threshold=0.3)),
                "c": SpikingLayer(nn.Conv2d(9, 5, 2, stride=2), nn.BatchNorm2d(5), LIF(), pool=nn.MaxPool2d(3, 1)),
                "d": SpikingLayer(nn.Linear(5, 7), nn.BatchNorm1d(7), LIF(threshold=0.2)),
                "classifier": SpikingLayer(nn.Linear(7, 5)),
            },
            (4, 13, 13),
            timesteps=4,
        ).double()

    assert_same(net(), apart(net()), images(6, 4, 13, torch.float64))


def test_evaluation_folds_the_statistics_and_counts_the_same():
    net = vgg().double()
    trained_step(net, images(dtype=torch.float64))
    net.eval()
    x = images(dtype=torch.float64).requires_grad_()
    outputs = [n(x) for n in (net, apart(net))]
    torch.testing.assert_close(outputs[0].logits, outputs[1].logits)
    assert torch.equal(outputs[0].tally.synops, outputs[1].tally.synops)
    gradients = [torch.autograd.grad(output.logits.square().sum(), x)[0] for output in outputs]
    torch.testing.assert_close(*gradients)
    recorded = net(x, record="neurons")
    assert torch.equal(recorded.tally.spikes, outputs[0].tally.spikes)
    assert {n: r.sum() for n, r in recorded.tally.record.neurons.items()} == {
        name: row.sum() for name, row in zip(net.sizes.neurons, outputs[0].tally.spikes, strict=True)
    }


# ---- memory ---------------------------------------------------------------------------------------------------------


def kept_bytes(net, x):
    """Bytes kept for the backward pass, each storage once, parameters apart; and the network's neuron-steps."""
    storages = {}
    own = {p.untyped_storage().data_ptr() for p in (*net.parameters(), *net.buffers())} | {
        x.untyped_storage().data_ptr()
    }

    def keep(tensor):
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = net(x)
        loss = output.logits.float().sum() + SpikePenalty("synops")(output.tally).float()
    held = sum(storage.nbytes() for pointer, storage in storages.items() if pointer not in own)
    loss.backward()
    return held / (sum(net.sizes.neurons.values()) * net.timesteps * len(x))


# Of a neuron-step: its convolution's output and the bit of its spike, of the first layer one Tth of that. The rest is
# for what does not grow with neurons.
@pytest.mark.parametrize(
    ("recompute", "precision", "most"),
    [
        (False, torch.bfloat16, 2.2),
        (False, torch.float32, 4.4),
        (True, torch.bfloat16, 0.3),
        (True, torch.float32, 0.5),
    ],
)
def test_bytes_kept_for_a_neuron_step(recompute, precision, most):
    net = SpikingVGG("32-32-P-64-64-P-F128", input_shape=(3, 32, 32), timesteps=8, recompute=recompute)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
        kept = kept_bytes(net, images(4, size=32))
    # bfloat16 copies of the weights are kept under autocast: of a size of their own, which no neuron adds to
    weights = 2 * sum(p.numel() for p in net.parameters()) if precision == torch.bfloat16 else 0
    assert kept - weights / (sum(net.sizes.neurons.values()) * 8 * 4) <= most
    assert kept > 0.1


# ---- what runs once -------------------------------------------------------------------------------------------------


def batches_of_three_channels(profile, operator, argument):
    """The batch of every run of the operator whose argument has the images' three channels."""
    shapes = [event.input_shapes[argument] for event in profile.function_events if event.name == operator]
    return [shape[0] for shape in shapes if shape[1] == 3]


@pytest.mark.parametrize("precision", ["float32", "bf16-mixed", "bf16-true"])
@pytest.mark.parametrize("recompute", [False, True])
def test_a_constant_current_goes_through_the_first_layer_once(precision, recompute):
    net = vgg("8-8-P", recompute=recompute)
    x = images()
    if precision == "bf16-true":
        net, x = net.bfloat16(), x.bfloat16()
    with torch.autograd.profiler.profile(record_shapes=True) as profile:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed"):
            logits = net(x).logits
        logits.sum().backward()
    assert batches_of_three_channels(profile, "aten::convolution", 0) == [3] * (2 if recompute else 1)  # not 3 * T
    assert batches_of_three_channels(profile, "aten::convolution_backward", 1) == [3]


# ---- precision, compilation -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_half_precision_trains_close_to_float32(precision):
    """One step from the same weights: gradients point the same way, though a few spikes fall otherwise."""
    net = vgg("16-P-16-F20")
    half = copy.deepcopy(net)
    _, exact, _ = trained_step(net, images(16))
    if precision == "bf16-true":
        output, found, _ = trained_step(half.bfloat16(), images(16).bfloat16())
    else:
        with torch.autocast("cpu", torch.bfloat16):
            output, found, _ = trained_step(half, images(16))
    assert output.logits.dtype == torch.float32
    for name, gradient in exact.items():
        if gradient.numel() > 100:
            assert F.cosine_similarity(gradient.flatten(), found[name].float().flatten(), 0) > 0.8, name


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is:DeprecationWarning")  # inductor's own, torch 2.11
@pytest.mark.parametrize("recompute", [False, True])
def test_torch_compile_takes_the_whole_step_without_a_break(recompute):
    net = vgg("8-8-P-12-F10", recompute=recompute)
    compiled = copy.deepcopy(net)
    compiled.compile(fullgraph=True)
    assert list(compiled.state_dict()) == list(net.state_dict())
    (ours, gradients, buffers), (theirs, expected, their_buffers) = (trained_step(n, images()) for n in (compiled, net))
    assert torch.equal(ours.tally.spikes, theirs.tally.spikes)
    torch.testing.assert_close(ours.logits, theirs.logits)
    for name in expected:
        torch.testing.assert_close(gradients[name], expected[name], rtol=1e-4, atol=1e-6)
    for name in their_buffers:
        torch.testing.assert_close(buffers[name], their_buffers[name])
    with torch.autograd.profiler.profile(record_shapes=True) as profile:
        trained_step(compiled, images())
    assert batches_of_three_channels(profile, "aten::convolution", 0) == [3] * (2 if recompute else 1)
    assert batches_of_three_channels(profile, "aten::convolution_backward", 1) == [3]


# ---- who says what --------------------------------------------------------------------------------------------------


def test_what_has_no_fast_path_says_so_once_by_name(caplog):
    backends.say_once.cache_clear()
    caplog.set_level(logging.WARNING, "spikesparse")
    net = vgg()
    for layer in net.layers.values():
        if layer.norm is not None:
            layer.norm = nn.GroupNorm(1, len(layer.weights.weight))
    net(images())
    net(images())
    assert [record.getMessage() for record in caplog.records] == [
        "norm is a GroupNorm: such a layer runs part by part, slower and with more memory kept."
    ]


def test_the_usual_network_says_nothing(caplog):
    backends.say_once.cache_clear()
    caplog.set_level(logging.WARNING, "spikesparse")
    trained_step(vgg(), images())
    trained_step(vgg(dropout=0.2, pooling="spiking_average"), images())
    assert not caplog.records


def test_a_tensor_that_was_changed_between_layers_is_not_mistaken_for_the_spikes():
    """A hook that doubles what a layer puts out: the weight's gradient is that of the doubled values."""
    net = vgg("6-6", norm="none", threshold=0.3).double()
    doubled = copy.deepcopy(net)
    doubled.layers["conv1"].register_forward_hook(lambda module, args, output: 2 * output)
    with torch.no_grad():
        net.layers["conv2"].weights.weight.mul_(2)
    gradients = [trained_step_of_logits(n) for n in (net, doubled)]
    torch.testing.assert_close(
        gradients[1]["layers.conv2.weights.weight"], 2 * gradients[0]["layers.conv2.weights.weight"]
    )


def trained_step_of_logits(net):
    net(images(dtype=torch.float64)).logits.square().sum().backward()
    return {name: p.grad for name, p in net.named_parameters()}


@pytest.mark.parametrize("graph", [True, False], ids=["grad", "no_grad"])
@pytest.mark.parametrize("constant", [True, False], ids=["constant", "per_step"])
def test_no_images_give_no_answers(constant, graph):
    net = vgg().eval()
    x = images(batch=0) if constant else images(batch=0).expand(3, -1, -1, -1, -1)
    with torch.set_grad_enabled(graph):
        output = net(x)
    assert output.logits.shape == (0, 5)
    assert output.step_logits.shape == (3, 0, 5)
    assert output.tally.spikes.shape == (4, 0)  # layers, images
    if graph:
        output.logits.sum().backward()
        assert not any(p.grad.any() for p in net.parameters())


def test_frozen_weights_keep_no_bits():
    net = vgg("6-6", norm="none", threshold=0.3)
    net.layers["conv2"].weights.weight.requires_grad_(False)
    net(images()).logits.sum().backward()
    assert net.layers["conv1"].weights.weight.grad.abs().sum() > 0
    assert net.layers["conv2"].weights.weight.grad is None


def test_parametrized_and_pruned_weights_train():
    for wrap in (nn.utils.parametrizations.weight_norm, lambda m: nn.utils.prune.l1_unstructured(m, "weight", 0.5)):
        net = vgg("6-6", norm="none", threshold=0.3)
        wrap(net.layers["conv2"].weights)
        net(images()).logits.sum().backward()
        trained = [name for name, p in net.named_parameters() if "conv2" in name and p.grad is not None]
        assert trained


@pytest.mark.parametrize("norm", [nn.BatchNorm2d(6), nn.SyncBatchNorm(6)])
def test_a_norm_apart_counts_every_step_of_a_constant_current(norm):
    """As if the same 3 images had been shown 4 times over: only the running variance knows."""
    x = images(3, 6, dtype=torch.float64)
    expected = nn.BatchNorm2d(6).double()
    wanted = expected(x.repeat(4, 1, 1, 1))[:3]
    norm = norm.double().train()
    torch.testing.assert_close(normalize(norm, x, 4), wanted)
    torch.testing.assert_close(norm.running_var, expected.running_var)
    torch.testing.assert_close(norm.running_mean, expected.running_mean)


def test_only_a_plain_pool_is_fused():
    class Counter:
        recording = False

    layer = vgg("6-P").layers["conv1"]
    assert fast._pools_fused(layer, Counter)
    for pool in (nn.MaxPool2d(3, 2), nn.MaxPool2d(2, padding=1), nn.MaxPool2d(2, ceil_mode=True), SpikingAvgPool2d(2)):
        layer.pool = pool
        assert not fast._pools_fused(layer, Counter)
