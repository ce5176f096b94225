"""Neuron modules and the spiking average pool."""

import copy
import math

import pytest
import torch
from torch import nn

from spikesparse.commands.flags import with_flags
from spikesparse.errors import UserError
from spikesparse.nn import IF, LIF, SpikingAvgPool2d
from spikesparse.ops.surrogate import SURROGATES, surrogate

HALVES = [torch.bfloat16, torch.float16]


@pytest.mark.parametrize("convert", [lambda m: m.to(torch.bfloat16), lambda m: m.half(), lambda m: m.bfloat16()])
def test_learned_values_stay_exact_in_a_half_precision_network(convert):
    net = nn.Sequential(nn.Linear(2, 2), LIF(0.99, 0.7, learn_decay=True, learn_threshold=True))
    before = [p.detach().clone() for p in net[1].parameters()]
    convert(net)
    assert net[0].weight.dtype in HALVES
    assert all(p.dtype == torch.float32 and torch.equal(p, q) for p, q in zip(net[1].parameters(), before, strict=True))
    assert net[1].decay.item() == pytest.approx(0.99, abs=1e-7)
    assert net[1].threshold.item() == pytest.approx(0.7, abs=1e-7)


def test_learned_values_go_to_float64():
    neuron = LIF(0.99, learn_decay=True).double()
    assert neuron.raw_decay.dtype == torch.float64


@pytest.mark.parametrize("dtype", HALVES)
def test_fixed_values_stay_python_numbers(dtype):
    neuron = LIF(0.99, 0.7, initial_potential=0.3).to(dtype)
    assert (neuron.decay, neuron.threshold, neuron.initial_potential) == (0.99, 0.7, 0.3)
    assert not neuron.state_dict()


def test_gradients_of_learned_values_survive_a_move():
    # A gradient of another dtype than its parameter breaks optimizers.
    neuron = LIF(0.9, learn_decay=True)
    neuron(torch.rand(4, 3, 1)).sum().backward()
    neuron.to(torch.bfloat16)
    assert neuron.raw_decay.grad.dtype == neuron.raw_decay.dtype


def test_rounded_learned_decay_would_give_other_spikes():
    # 0.99 * 0.99609375 + 0.0146484375 = 1.0008, but 0.9991 with the 0.98828125 that bfloat16 makes of 0.99.
    current = torch.tensor([[[0.99609375]], [[0.0146484375]]], dtype=torch.bfloat16)
    neuron = LIF(0.99, learn_decay=True).to(torch.bfloat16)
    assert neuron(current).flatten().tolist() == [0, 1]


def test_learned_values_are_sigmoid_and_exp_of_their_parameters():
    neuron = LIF(0.9, 0.7, learn_decay=True, learn_threshold=True)
    assert neuron.raw_decay.item() == pytest.approx(math.log(0.9 / 0.1), rel=1e-6)
    assert neuron.log_threshold.item() == pytest.approx(math.log(0.7), rel=1e-6)


def test_learned_values_get_gradients():
    # One neuron, soft reset: h1 = 0.9 no spike, h2 = 0.5 * 0.9 + 0.2 = 0.65. With the triangle (1 - |h - 1|) both
    # steps have a derivative: s' = 0.9 and 0.65. d/d decay = 0.65 * 0.9; d/d threshold = -0.9 - 0.65. Then the chain
    # rule of decay = sigmoid(raw), 0.5 * 0.5, and of threshold = exp(log), 1.
    neuron = LIF(0.5, 1.0, "soft", surrogate="triangle", learn_decay=True, learn_threshold=True)
    neuron(torch.tensor([[[0.9]], [[0.2]]])).sum().backward()
    assert neuron.raw_decay.grad.item() == pytest.approx(0.65 * 0.9 * 0.25)
    assert neuron.log_threshold.grad.item() == pytest.approx(-0.9 - 0.65)


@pytest.mark.parametrize(("initial", "spikes"), [(0.0, [0, 0, 0, 1]), (1.0, [1, 0, 0, 0]), (-0.5, [0, 0, 0, 0])])
def test_a_membrane_may_start_elsewhere_than_at_rest(initial, spikes):
    # From 0: h = 0.5, 0.75, 0.875, 1. From 1: h = 1 at once, then 0.5, 0.75, 0.9375. From -0.5: 0.25, ..., 0.96875.
    neuron = LIF(0.5, 1.0, initial_potential=initial)
    assert neuron(torch.tensor([0.5, 0.5, 0.5, 0.5625]).view(4, 1, 1)).flatten().tolist() == spikes


def test_a_learned_initial_potential_gets_its_gradient():
    # Soft reset, from 0.4: h1 = 0.2 + 0.7 = 0.9 no spike, h2 = 0.45 + 0.2 = 0.65; triangle derivatives 0.9 and 0.65,
    # and dh1/dv0 = 0.5, dh2/dv0 = 0.25. The decay's: dh1/ddecay = 0.4, dh2/ddecay = 0.9 + 0.5 * 0.4.
    settings = {"surrogate": "triangle", "learn_decay": True, "learn_initial_potential": True, "initial_potential": 0.4}
    neuron = LIF(0.5, 1.0, "soft", **settings)
    neuron(torch.tensor([[[0.7]], [[0.2]]])).sum().backward()
    assert neuron.learned_initial.grad.item() == pytest.approx(0.9 * 0.5 + 0.65 * 0.25)
    assert neuron.raw_decay.grad.item() == pytest.approx((0.9 * 0.4 + 0.65 * (0.9 + 0.5 * 0.4)) * 0.25)


def test_learned_values_can_be_printed(request):
    torch.set_warn_always(True)  # torch warns once a process of float() on a learned value, so order would matter
    request.addfinalizer(lambda: torch.set_warn_always(False))
    assert "decay=0.9, threshold=0.7, soft reset" in repr(LIF(0.9, 0.7, "soft", learn_decay=True, learn_threshold=True))
    assert "threshold=1, starts at 0.5, hard" in repr(LIF(initial_potential=0.5, learn_initial_potential=True))


def test_nothing_is_learned_unless_asked():
    assert not list(LIF(0.9, 0.7).parameters())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"decay": 0}, ["--model.net.decay=0", "(0, 1]"]),
        ({"decay": 1.5}, ["--model.net.decay=1.5"]),
        ({"decay": -0.5}, ["--model.net.decay=-0.5"]),
        ({"decay": math.nan}, ["--model.net.decay=nan"]),
        ({"threshold": 0}, ["--model.net.threshold=0", "above 0"]),
        ({"threshold": -1}, ["--model.net.threshold=-1"]),
        ({"threshold": math.inf}, ["--model.net.threshold=inf"]),
        ({"initial_potential": math.nan}, ["--model.net.initial_potential=nan"]),
        ({"decay": 1.0, "learn_decay": True}, ["--model.net.learn_decay=true", "--model.net.decay=0.9"]),
        ({"reset": "zero"}, ["--model.net.reset='zero'", "hard", "soft"]),
        ({"surrogate": "tanh"}, ["--model.net.surrogate='tanh'", *SURROGATES]),
        ({"surrogate_slope": 0}, ["--model.net.surrogate_slope=0", "2"]),
        ({"surrogate": "sigmoid", "surrogate_slope": -3}, ["--model.net.surrogate_slope=-3", "4"]),
    ],
)
def test_errors_name_the_flag_the_value_and_what_there_is(settings, words):
    with pytest.raises(UserError) as error:
        LIF(**settings)
    assert [word for word in words if word not in with_flags(error.value)] == []


def test_no_state_between_calls():
    neuron = LIF(1.0)
    current = torch.full((3, 2, 1), 0.4)  # 0.4, 0.8, 1.2: a left-over membrane would fire earlier the second time
    first, second = neuron(current), neuron(current)
    assert first.flatten(1).tolist() == [[0, 0], [0, 0], [1, 1]]
    assert torch.equal(first, second)


def test_copies_and_state_dicts_carry_learned_values():
    neuron = LIF(0.9, learn_decay=True)
    with torch.no_grad():
        neuron.raw_decay.fill_(0.0)
    other = LIF(0.9, learn_decay=True)
    other.load_state_dict(neuron.state_dict())
    assert other.decay.item() == copy.deepcopy(neuron).decay.item() == 0.5


def test_if_never_leaks():
    spikes = IF(threshold=1.0)(torch.full((8, 1, 1), 0.25))
    assert spikes.flatten().tolist() == [0, 0, 0, 1, 0, 0, 0, 1]


def test_constant_current_equals_the_same_current_in_every_step():
    current = torch.rand(5, 3, generator=torch.Generator().manual_seed(0))
    neuron = LIF(0.9, reset="soft")
    assert torch.equal(neuron(current, 6), neuron(torch.stack([current] * 6)))


def test_a_surrogate_object_is_taken_as_it_is():
    own = surrogate("sigmoid", 7.0)
    assert LIF(surrogate=own).spec.surrogate is own


def pool_spikes(quarters):
    """Output of one 2x2 window that gets ``quarters[t]`` of its four spikes in step t."""
    spikes = torch.zeros(len(quarters), 1, 1, 2, 2)
    for t, count in enumerate(quarters):
        spikes[t].view(-1)[:count] = 1
    return SpikingAvgPool2d()(spikes).flatten().tolist()


@pytest.mark.parametrize(
    ("quarters", "fires"),
    [
        ([4], [1]),
        ([3], [0]),  # 0.75 is the threshold, and it fires above it
        ([1, 1, 1], [0, 0, 0]),
        ([1, 1, 1, 1], [0, 0, 0, 1]),
        ([3, 0, 1], [0, 0, 1]),  # no leak
        ([1, 1, 1, 1, 1, 1, 1, 1], [0, 0, 0, 1, 0, 0, 0, 1]),
        ([3, 4, 3], [0, 1, 0]),  # back to zero from 1.75: subtracting 0.75 would leave 1 and fire again
        ([4, 4], [1, 1]),
    ],
)
def test_spiking_average_pool_fires_once_four_quarters_have_arrived(quarters, fires):
    assert pool_spikes(quarters) == fires


def test_spiking_average_pool_keeps_windows_channels_and_samples_apart():
    spikes = torch.zeros(1, 2, 2, 4, 4)
    spikes[0, 1, 0, 2:, :2] = 1
    pooled = SpikingAvgPool2d()(spikes)
    assert pooled.nonzero().tolist() == [[0, 1, 0, 1, 0]]
    assert pooled.shape == (1, 2, 2, 2, 2)


@pytest.mark.parametrize("dtype", HALVES)
def test_spiking_average_pool_in_half_precision(dtype):
    spikes = torch.ones(1, 1, 1, 2, 2, dtype=dtype)
    assert SpikingAvgPool2d().to(dtype)(spikes).tolist() == [[[[[1]]]]]


@pytest.mark.parametrize("shape", [(6,), (6, 3)])
@pytest.mark.parametrize("neuron", [LIF, IF])
def test_a_batch_of_features_is_not_taken_for_time(neuron, shape):
    current = torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 3
    with pytest.raises(ValueError, match=r"current must have the shape \(T, B, ...\)"):
        neuron()(current)
    constant = neuron()(current, timesteps=4)
    assert torch.equal(constant, neuron()(torch.stack([current] * 4)[..., None])[..., 0])
