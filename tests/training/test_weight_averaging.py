"""Averaged weights (EMA, SWA): they count as any others do, and what is reported is of the weights that are kept."""

import copy
import json
from pathlib import Path

import pytest
import torch
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import EMAWeightAveraging, ModelCheckpoint, StochasticWeightAveraging
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_avg_fn, get_ema_multi_avg_fn

from spikesparse import CIFAR10DataModule, SpikingClassifier, SpikingVGG, load_run
from spikesparse.commands.main import main
from spikesparse.settings.command_line import CommandLine

quiet = pytest.mark.filterwarnings("ignore")  # Lightning's advice on tiny runs is not what is tested here


def conv_fanout(side, channels):
    """Synapses of an event at each place of a 3x3 convolution with padding 1, by counting."""
    rows = [sum(0 <= row + tap < side for tap in (-1, 0, 1)) for row in range(side)]
    return torch.tensor([[channels * up * across for across in rows] for up in rows])


def assert_counts_as_built(net):
    """The fan-out of "4-P-6-F8" on 8x8 pixels, by hand."""
    expected = {"conv1": conv_fanout(8, 4), "conv2": conv_fanout(4, 6), "fc1": torch.full((4, 4), 8)}
    for name, fanout in expected.items():
        assert torch.equal(net.layers[name].fanout, fanout), name
    assert net.layers["classifier"].fanout.item() == 10


def network():
    torch.manual_seed(0)
    return SpikingVGG("4-P-6-F8", input_shape=(3, 8, 8), timesteps=2)


@pytest.mark.parametrize(
    "average", [{"avg_fn": get_ema_avg_fn(0.9)}, {"multi_avg_fn": get_ema_multi_avg_fn(0.992)}, {}]
)
def test_averaging_with_buffers_leaves_the_counts_alone(average):
    net = network().eval()
    averaged = AveragedModel(net, use_buffers=True, **average)
    for _ in range(4):
        averaged.update_parameters(net)
    assert_counts_as_built(averaged.module)
    images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1)) * 3
    with torch.no_grad():
        ours, theirs = (each(images).tally for each in (net, averaged.module))
    torch.testing.assert_close(ours.synops, theirs.synops, rtol=0, atol=0)
    assert ours.synops.sum() > 0


@pytest.mark.parametrize(
    "change",
    [
        lambda net: net.to(torch.bfloat16),
        lambda net: net.half().float(),
        lambda net: net.to("meta").to_empty(device="cpu"),
        lambda net: net.apply(lambda part: [buffer.zero_() for buffer in part.buffers()]),
        copy.deepcopy,
    ],
    ids=["bfloat16", "half", "meta", "buffers", "deepcopy"],
)
def test_nothing_done_to_parameters_and_buffers_reaches_the_fan_out(change):
    assert_counts_as_built(change(network()))


def test_the_only_buffers_are_batch_norms_statistics():
    net = network()
    of_norms = {
        id(b) for part in net.modules() if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d) for b in part.buffers()
    }
    assert {id(buffer) for buffer in net.buffers()} == of_norms


def test_a_network_that_was_built_without_memory_counts_once_it_has_weights():
    with torch.device("meta"):
        net = network()
    whole = network()
    net.to_empty(device="cpu").load_state_dict(whole.state_dict())
    assert_counts_as_built(net)
    images = torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(net.eval()(images).logits, whole.eval()(images).logits, rtol=0, atol=0)


# ---- runs ------------------------------------------------------------------------------------------------------------

CALLBACKS = "pytorch_lightning.callbacks"
AVERAGES = {
    "ema": [f"--trainer.callbacks+={CALLBACKS}.EMAWeightAveraging", "--trainer.callbacks.decay=0.9"],
    "ema_without_buffers": [
        *(f"--trainer.callbacks+={CALLBACKS}.EMAWeightAveraging", "--trainer.callbacks.decay=0.9"),
        "--trainer.callbacks.use_buffers=false",
    ],
    "swa": [
        *(f"--trainer.callbacks+={CALLBACKS}.StochasticWeightAveraging", "--trainer.callbacks.swa_lrs=0.01"),
        "--trainer.callbacks.swa_epoch_start=1",
    ],
}


class Killed(BaseException):
    """No error of the run's own."""


def state_of(folder, name="last"):
    return torch.load(folder / f"checkpoints/{name}.ckpt", weights_only=True)


def assert_same(first, second, where=""):
    assert type(first) is type(second), where
    if isinstance(first, dict):
        assert first.keys() == second.keys(), where
        for key in first:
            assert_same(first[key], second[key], f"{where}/{key}")
    elif isinstance(first, list | tuple):
        assert len(first) == len(second), where
        for number, pair in enumerate(zip(first, second, strict=True)):
            assert_same(*pair, f"{where}/{number}")
    elif isinstance(first, torch.Tensor):
        assert torch.equal(first, second), where
    else:
        assert first == second, where


@torch.no_grad()
def measured(folder):
    """Accuracy, spikes and SynOps per image of the test split, by the network of best.ckpt and a plain loop."""
    module, data = load_run(folder)
    right, spikes, synops, images = 0, 0.0, 0.0, len(data.dataset.test)
    assert_counts(module.net)
    for batch in data.test_dataloader():
        batch = data.encode(batch)
        output = module.net(batch.images)
        right += int((output.logits.argmax(1) == batch.labels).sum())
        spikes += float(output.tally.spikes.sum())
        synops += float(output.tally.synops.sum())
    return right / images, spikes / images, synops / images


def assert_counts(net):
    """The fan-out of "4-P-F6" on 8x8 pixels."""
    assert torch.equal(net.layers["conv1"].fanout, conv_fanout(8, 4))
    assert net.layers["fc1"].fanout.unique().tolist() == [6]


@quiet
@pytest.mark.slow
@pytest.mark.parametrize("average", AVERAGES)
def test_a_run_closes_with_what_its_checkpoint_gives(tiny_args, average):
    ramp = ["--sparsity.end_epoch=1", "--trainer.max_epochs=2", "--trainer.limit_train_batches=3"]
    args = ["train", *tiny_args, *AVERAGES[average], *ramp]
    assert main(args) == 0
    folder = Path("runs") / CommandLine(["fit", *args[1:]]).run_name() / "seed0"
    result = json.loads((folder / "result.json").read_text())
    assert [result[name] for name in ("accuracy", "spikes", "synops")] == pytest.approx(measured(folder), abs=1e-9)
    assert result["epochs"] == 2
    current = state_of(folder).get("current_model_state")  # averaged, the weights are others
    assert (current is None) is (average == "swa")
    if current is not None:
        assert not torch.equal(current["net.layers.conv1.weights.weight"], weight_of(folder))


def weight_of(folder, name="last"):
    return state_of(folder, name)["state_dict"]["net.layers.conv1.weights.weight"]


@quiet
@pytest.mark.slow
@pytest.mark.parametrize("step", [4, 7, 12])
@pytest.mark.parametrize("average", AVERAGES)
def test_a_killed_run_goes_on_to_the_bit(tiny_args, monkeypatch, capsys, average, step):
    """In an epoch, in the next, and where SWA only measures BatchNorm's statistics any more."""
    args = ["fit", *tiny_args, *AVERAGES[average], "--trainer.max_epochs=2", "--checkpoint.every_n_steps=2"]
    folder = Path("runs") / CommandLine(args).run_name() / "seed0"
    assert main(args) == 0
    whole = state_of(folder)
    steps, training_step = [], SpikingClassifier.training_step

    def dies(module, batch, batch_idx):
        steps.append(batch_idx)
        if len(steps) == step:
            raise Killed
        return training_step(module, batch, batch_idx)

    with monkeypatch.context() as patched:
        patched.setattr(SpikingClassifier, "training_step", dies)
        if step <= 10 or average == "swa":
            with pytest.raises(Killed):
                main([*args, "--fresh"])
        else:
            assert main([*args, "--fresh"]) == 0
    capsys.readouterr()
    assert main(args) == 0
    assert ("going on from" in capsys.readouterr().out) is (step <= 10 or average == "swa")
    again = state_of(folder)
    for key in ("state_dict", "current_model_state", "averaging_state", "global_step", "epoch"):
        assert_same(whole.get(key), again.get(key), key)
    # Not the rate: where SWA trains no more, Lightning makes no scheduler for it either.
    assert_same(*(kept["optimizer_states"][0]["state"] for kept in (whole, again)), "optimizer")


@pytest.fixture
def fit(tiny_npz, tmp_path):
    """A plain Trainer that has fitted 36 images in five batches, for two epochs; its module, data and checkpoints."""

    def run(average, net=None):
        data = CIFAR10DataModule(str(tiny_npz), "npz", batch_size=8, timesteps=2, crop_padding=0, flip=False)
        torch.manual_seed(0)
        net = net or SpikingVGG("4-P-F6", num_classes=3, input_shape=(3, 8, 8), timesteps=2)
        model = SpikingClassifier(net)
        keeps = ModelCheckpoint(tmp_path, monitor="loss/task/val", save_on_train_epoch_end=True)
        off = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary"), False)
        trainer = Trainer(accelerator="cpu", max_epochs=2, callbacks=[average, keeps], **off)
        trainer.fit(model, data)
        return trainer, model, data, keeps.best_model_path

    return run


@pytest.mark.slow
@quiet
@pytest.mark.parametrize(
    "settings",
    [{}, {"use_buffers": False}, {"update_every_n_steps": 0, "update_starting_at_epoch": 0}],
    ids=["steps", "without_buffers", "epochs"],
)
def test_a_plain_trainer_measures_the_weights_that_a_checkpoint_keeps(fit, settings):
    trainer, model, data, path = fit(EMAWeightAveraging(decay=0.5, **settings))
    kept = torch.load(path, weights_only=True)
    for run in (trainer.validate, trainer.test):
        run(model, data, ckpt_path=path, verbose=False, weights_only=True)
        assert_same(dict(model.state_dict()), dict(kept["state_dict"]))
    for tag in ("accuracy/val", "loss/task/val", "efficiency/synops_per_image/val"):
        assert model.measured[tag] == kept["measured"][tag]
    name = "net.layers.conv1.weights.weight"
    assert not torch.equal(kept["current_model_state"][name], kept["state_dict"][name])
    trainer.fit_loop.max_epochs = 3  # and it trains on from the others
    trainer.fit(model, data, ckpt_path=path, weights_only=True)
    assert trainer.current_epoch == 3


@quiet
def test_swa_ends_with_the_statistics_of_the_averaged_weights(fit):
    """By the mean over the epoch's batches of the moments of the first layer's currents, T times each."""
    trainer, model, data, _ = fit(StochasticWeightAveraging(swa_lrs=0.01, swa_epoch_start=1))
    assert trainer.max_epochs == 2  # for the statistics there was a third
    layer = model.net.layers["conv1"]
    moments = []
    trainer.train_dataloader.sampler.set_epoch(2)
    for batch in trainer.train_dataloader:
        with torch.no_grad():
            currents = layer.weights(data.encode(batch).images).double().transpose(0, 1).flatten(1)
        number = 2 * currents.shape[1]
        moments.append(torch.stack([currents.mean(1), currents.var(1, correction=0) * number / (number - 1)]))
    mean, var = torch.stack(moments).mean(0)
    assert len(moments) == layer.norm.num_batches_tracked == 5
    torch.testing.assert_close(layer.norm.running_mean.double(), mean, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(layer.norm.running_var.double(), var, rtol=1e-5, atol=1e-6)
    assert layer.norm.momentum == 0.1
