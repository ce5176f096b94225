"""BatchNorm in training: too few values, running statistics without momentum, over T * B images."""

import math

import pytest
import torch
from torch import nn

from spikesparse import LIF, SpikingLayer, SpikingStack, SpikingVGG
from spikesparse.nn.norm import update_statistics

REFUSED = "Expected more than 1 value per channel when training"  # torch's own words


class Own(nn.Module):
    """Neurons that the fast path does not know."""

    unit = 1.0

    def forward(self, current, timesteps=None):
        return LIF()(current, timesteps)


def one_by_one(weights, norm, neuron=None, **settings):
    """A network whose second layer has one value per image and step: a 1x1 map, or a fully connected layer."""
    first = SpikingLayer(nn.Conv2d(3, 4, 3), None, LIF(threshold=0.1), pool=nn.MaxPool2d(2))
    layers = {
        "first": first,
        "second": SpikingLayer(weights, norm, neuron or LIF()),
        "out": SpikingLayer(nn.Linear(8, 3)),
    }
    return SpikingStack(layers, (3, 4, 4), **settings).train()


def convolution(**settings):
    return one_by_one(nn.Conv2d(4, 8, 1, bias=False), nn.BatchNorm2d(8), **settings)


def linear(**settings):
    return one_by_one(nn.Linear(4, 8, bias=False), nn.BatchNorm1d(8), **settings)


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str
)  # kernels, reference, kernels
@pytest.mark.parametrize(
    "net",
    [
        lambda: SpikingVGG("4-P-F8", input_shape=(3, 8, 8), timesteps=1),
        lambda: SpikingVGG("F8", input_shape=(3, 8, 8), timesteps=1),  # the norm of a constant current
        lambda: SpikingVGG("4", input_shape=(3, 1, 1), timesteps=1),
        lambda: convolution(timesteps=1),
        lambda: convolution(timesteps=1, recompute=True),
        lambda: linear(timesteps=1),
        lambda: linear(timesteps=1, neuron=Own()),
    ],
    ids=["vgg", "first_linear", "first_1x1", "conv", "recomputed", "linear", "own_neuron"],
)
@pytest.mark.parametrize("per_step", [False, True], ids=["constant", "per_step"])
def test_one_value_per_channel_is_refused_as_torch_does(net, dtype, per_step):
    net = net().to(dtype).train()
    x = torch.rand(1, *net.input_shape).to(dtype)
    with pytest.raises(ValueError, match=REFUSED):
        net(x[None] if per_step else x)
    norm = next(layer.norm for layer in reversed(net.layers.values()) if layer.norm is not None)
    assert norm.running_var.tolist() == [1.0] * norm.num_features
    assert norm.running_mean.tolist() == [0.0] * norm.num_features
    net.eval()(x)  # which is what evaluation may do


@pytest.mark.parametrize("neuron", [LIF, Own])
def test_two_steps_or_two_images_are_enough(neuron):
    """n is T * B, a constant current or not: two equal values have a variance of 0, and torch's momentum is 0.1."""
    net = SpikingVGG("F8", input_shape=(3, 2, 2), timesteps=2, neuron=neuron).train()
    norm = net.layers["fc1"].norm
    net(torch.rand(1, 3, 2, 2))
    torch.testing.assert_close(norm.running_var, torch.full((8,), 0.9))
    net(torch.rand(1, 2, 3, 2, 2))  # T = 1, two images
    assert norm.running_var.isfinite().all()
    assert norm.num_batches_tracked == 2


def test_the_batches_of_all_processes_count():
    """One value here and one in another process are two; one in all of them is one, none is none."""
    norm = nn.BatchNorm1d(2).train()
    moments = torch.tensor([[3.0, 5.0], [1.0, 4.0], [2.0, 2.0]], dtype=torch.float64)  # mean, variance, number
    update_statistics(norm, moments, 1, 1)
    torch.testing.assert_close(norm.running_mean, torch.tensor([0.3, 0.5]))
    torch.testing.assert_close(norm.running_var, torch.tensor([0.9 + 0.1 * 2, 0.9 + 0.1 * 8]))
    moments[2] = 1.0
    with pytest.raises(ValueError, match=REFUSED):
        update_statistics(norm, moments, 1, 1)
    before = norm.running_var.clone()
    update_statistics(norm, torch.tensor([[math.nan] * 2, [math.nan] * 2, [0.0] * 2], dtype=torch.float64), 1, 0)
    assert torch.equal(norm.running_var, before)


@pytest.mark.parametrize("neuron", [LIF, Own])
@pytest.mark.parametrize("constant", [True, False])
def test_without_momentum_the_statistics_are_the_mean_of_all_batches(neuron, constant):
    """As in SWA's last epoch; by torch's own module on the T * B images that the layer normalises."""
    net = SpikingVGG("F8", input_shape=(3, 2, 2), timesteps=3, neuron=neuron).double().train()
    layer, torchs = net.layers["fc1"], nn.BatchNorm1d(8, momentum=None).double().train()
    layer.norm.momentum = None
    draw = torch.Generator().manual_seed(0)
    for batch in (4, 2, 5):
        x = torch.rand(3, batch, 3, 2, 2, generator=draw, dtype=torch.float64)
        x = x[:1].expand(3, -1, -1, -1, -1) if constant else x
        net(x[0] if constant else x)
        torchs(layer.weights(x.flatten(2)).flatten(0, 1).detach())
    torch.testing.assert_close(layer.norm.running_mean, torchs.running_mean)
    torch.testing.assert_close(layer.norm.running_var, torchs.running_var)
    assert layer.norm.num_batches_tracked == 3
