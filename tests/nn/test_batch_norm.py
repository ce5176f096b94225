"""BatchNorm in training: too few values, running statistics without momentum, over T * B images."""

import math
import re
from types import SimpleNamespace

import pytest
import torch
from pytorch_lightning import Trainer
from torch import nn

from refusals import refused_with
from spikesparse import LIF, CIFAR10DataModule, SpikingClassifier, SpikingLayer, SpikingStack, SpikingVGG
from spikesparse.nn.norm import update_statistics
from spikesparse.training.single_values import refuse_single_values

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


# ---- known at the start ----------------------------------------------------------------------------------------------


def trainer_of(world=1, synchronised=False, **settings):
    strategy = SimpleNamespace(_layer_sync=object() if synchronised else None)
    whole = {"limit_train_batches": 1.0, "max_steps": -1, "max_epochs": 2, "accumulate_grad_batches": 1, **settings}
    return SimpleNamespace(world_size=world, strategy=strategy, **whole)


class Foreign(nn.Module):
    """A network of torch's own parts: its norm sees B values, whatever T is."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(192)

    def forward(self, x):
        return self.norm(x.flatten(-3).flatten(0, -2) if x.dim() == 4 else x.flatten(2).mean(0))


FC = {"architecture": "4-P-F6"}


@pytest.mark.parametrize(
    ("net", "data", "trainer", "refused"),
    [
        (FC, {"batch_size": 5}, {}, "--data.batch_size=5: of 36 training images the last batch has a single one, "),
        (FC, {"batch_size": 7}, {}, "--data.batch_size=7: "),
        (FC, {"batch_size": 1}, {}, "--data.batch_size=1: "),
        (FC, {"batch_size": 1, "drop_last": True}, {}, "--data.batch_size=1: "),
        (FC, {"batch_size": 5, "encoder": "poisson"}, {}, "--data.batch_size=5: "),
        (FC, {"batch_size": 17}, {"world": 2}, "the last batch has a single one in one of 2 processes"),
        (FC, {"batch_size": 11}, {"world": 2}, None),  # 14 images are left: 7 each
        (FC, {"batch_size": 11}, {"world": 3}, "in one of 3 processes"),  # 3 are left
        (FC, {"batch_size": 17}, {"world": 2, "synchronised": True}, None),
        (FC, {"batch_size": 5}, {"accumulate_grad_batches": 4}, "--data.batch_size=5: "),
        (FC, {"batch_size": 5}, {"limit_train_batches": 8}, "--data.batch_size=5: "),
        (FC, {"batch_size": 5}, {"limit_train_batches": 7}, None),
        (FC, {"batch_size": 5}, {"limit_train_batches": 0.9}, None),
        (FC, {"batch_size": 5}, {"max_steps": 7}, None),
        (FC, {"batch_size": 5}, {"max_steps": 2, "accumulate_grad_batches": 4}, "--data.batch_size=5: "),
        (FC, {"batch_size": 5}, {"max_epochs": 0}, None),
        (FC, {"batch_size": 5, "drop_last": True}, {}, None),
        (FC, {"batch_size": 5, "timesteps": 2}, {}, None),  # a constant current counts in each step
        (FC, {"batch_size": 5, "timesteps": 2, "encoder": "poisson"}, {}, None),
        (FC, {"batch_size": 9}, {}, None),
        ({"architecture": "4-P-8"}, {"batch_size": 5}, {}, None),
        ({"architecture": "4-P-4-P-4-P-8"}, {"batch_size": 5}, {}, "--data.batch_size=5: "),  # a 1x1 map
        ({**FC, "norm": "none"}, {"batch_size": 5}, {}, None),
        (None, {"batch_size": 5, "timesteps": 2}, {}, "--data.batch_size=5: "),
    ],
    ids=str,
)
def test_a_batch_of_one_value_per_channel_is_refused_before_training(tiny_npz, net, data, trainer, refused):
    data = CIFAR10DataModule(str(tiny_npz), "npz", **{"timesteps": 1, **data})
    built = Foreign() if net is None else SpikingVGG(**net, input_shape=(3, 8, 8), timesteps=data.timesteps)
    before, drawn = {name: value.clone() for name, value in built.state_dict().items()}, torch.get_rng_state()
    if refused is None:
        refuse_single_values(trainer_of(**trainer), built, data)
    else:
        with refused_with(re.escape(refused)) as error:
            refuse_single_values(trainer_of(**trainer), built, data)
        assert "--data.drop_last=true" in str(error.value)
        assert f"--data.timesteps={data.timesteps}" in str(error.value)
    assert all(torch.equal(value, before[name]) for name, value in built.state_dict().items())
    assert torch.equal(torch.get_rng_state(), drawn)


@pytest.mark.filterwarnings("ignore")  # Lightning's advice on tiny runs
@pytest.mark.parametrize("drop_last", [False, True])
def test_a_plain_trainer_refuses_it_before_the_first_step(tiny_npz, drop_last):
    data = CIFAR10DataModule(str(tiny_npz), "npz", batch_size=5, timesteps=1, drop_last=drop_last)
    model = SpikingClassifier(SpikingVGG("4-P-F6", num_classes=3, input_shape=(3, 8, 8), timesteps=1))
    off = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing"), False)
    trainer = Trainer(accelerator="cpu", max_epochs=1, **off)
    if drop_last:
        trainer.fit(model, data)
        assert trainer.global_step == 7
        assert all(value.isfinite().all() for value in model.state_dict().values())
        return
    with refused_with(r"--data\.batch_size=5"):
        trainer.fit(model, data)
    assert trainer.global_step == 0
