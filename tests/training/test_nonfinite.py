"""Numbers that are not finite: where they are found, and that looking for them leaves training alone."""

import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import nn

from refusals import refused_with
from spikesparse import CIFAR10DataModule, DirectEncoder, SpikingClassifier, SpikingVGG, load_run
from spikesparse.commands.flags import with_flags
from spikesparse.commands.main import main
from spikesparse.errors import UserError
from spikesparse.runs.resume import newest
from spikesparse.sparsity.asked import told_by
from spikesparse.training.nonfinite import bad_image, bad_output, bad_weight, layer_of
from spikesparse.training.nonfinite_guard import NonFiniteGuard
from spikesparse.training.predict import PredictionWriter
from spikesparse.training.teacher import load_teacher

pytestmark = pytest.mark.filterwarnings(
    r"ignore:The '\w+' does not have many workers",
    r"ignore:The number of training batches \(\d+\) is smaller",
    r"ignore:`isinstance\(treespec, LeafSpec\)` is deprecated",
    "ignore:GPU available but not used",
)
VALUES = [float("nan"), float("inf"), float("-inf")]


class Spoils(DirectEncoder):
    """Gives one image a pixel that is not finite, in training or in evaluation."""

    def __init__(self, image, value, training=True):
        super().__init__()
        self.image, self.value, self.training = image, value, training

    def __call__(self, images, indices, timesteps, seed, epoch):
        images = super().__call__(images, indices, timesteps, seed, epoch)
        if (seed == 0) is self.training:  # the data module's draw_seed; evaluation has a key of its own
            chosen = slice(None) if self.image is None else indices == self.image
            images[chosen, 0, 3, 4] = self.value
        return images


class At(Callback):
    """Does something to the module at a hook, when so many steps are done; 3 is the second batch of epoch 1."""

    def __init__(self, hook, spoil, step=3):
        setattr(self, hook, lambda trainer, module, *_: spoil(module) if trainer.global_step == step else None)


class Bad(nn.Module):
    """A penalty that is not finite."""

    def forward(self, tally):
        return tally.spikes.sum() * float("nan")


@pytest.fixture
def stopped(tmp_path):
    """Trains 36 images of 8x8 pixels, two batches an epoch, until the guard stops it; gives its words."""

    def run(*callbacks, encoder="direct", penalty=None, norm="batch", spoil=None, **arguments):
        rng = np.random.default_rng(0)
        pixels, labels = rng.integers(0, 256, (44, 8, 8, 3), dtype=np.uint8), np.arange(44) % 2
        arrays = {"x_train": pixels[:40], "y_train": labels[:40], "x_test": pixels[40:], "y_test": labels[40:]}
        np.savez(tmp_path / "data.npz", **arrays)
        data = CIFAR10DataModule(str(tmp_path / "data.npz"), "npz", batch_size=18, timesteps=2, encoder=encoder)
        torch.manual_seed(0)
        net = SpikingVGG("2-P-3-F4", num_classes=2, input_shape=(3, 8, 8), timesteps=2, norm=norm)
        model = SpikingClassifier(net, penalty=penalty)
        model.sparsity_weight = 0.25
        if spoil is not None:
            spoil(net)
        off = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary"), False)
        settings = {"accelerator": "cpu", "max_epochs": 3, "default_root_dir": tmp_path, "num_sanity_val_steps": 0}
        trainer = Trainer(
            callbacks=[ModelCheckpoint(save_on_train_epoch_end=True), *callbacks], **settings | off | arguments
        )
        with pytest.raises(UserError) as error:
            trainer.fit(model, datamodule=data)
        for path in tmp_path.rglob("*.ckpt"):
            kept = torch.load(path, weights_only=True)["state_dict"].values()
            assert all(weight.isfinite().all() for weight in kept)
        assert not any(part._forward_hooks for part in model.modules())
        return with_flags(error.value)

    return run


def says(text, *words):
    for word in ("not finite (NaN or infinity) at step", "learning rate 0.001, lambda 0.25", *words):
        assert word in text, text


@pytest.mark.parametrize(("value", "norm"), [(VALUES[0], "batch"), (VALUES[1], "batch"), (VALUES[2], "none")])
def test_the_image_is_named(stopped, value, norm):
    says(stopped(encoder=Spoils(17, value), norm=norm), "input of the network, training image 17, is", "--data.encoder")


@pytest.mark.parametrize(
    ("weight", "value"),
    [("conv1.weights.weight", VALUES[0]), ("conv2.norm.bias", VALUES[1]), ("classifier.weights.weight", VALUES[2])],
)
def test_the_weight_is_named(stopped, weight, value):
    def spoil(module):
        dict(module.named_parameters())[f"net.layers.{weight}"].data.view(-1)[-1] = value

    text = stopped(At("on_train_batch_start", spoil))
    says(text, f"a weight of layer {weight.split('.')[0]} (net.layers.{weight}) is", "epoch 1", "optimizer.lr")


def test_the_first_layer_whose_output_overflows_is_named(stopped):
    """Its weights are finite, and the spikes behind it turn infinite currents into zeros and ones."""

    def spoil(net):
        net.layers["conv2"].weights.weight.data.fill_(torch.finfo(torch.float32).max)

    text = stopped(norm="none", spoil=spoil)
    says(text, "the output of layer conv2 (net.layers.conv2.weights) is")


def test_the_gradient_nearest_to_the_loss_is_named(stopped):
    def spoil(module):
        for name in ("conv1", "conv2"):  # on the way back, what is not finite in conv2 reaches conv1
            module.net.layers[name].weights.weight.grad[0, 0, 0, 0] = float("nan")

    text = stopped(At("on_after_backward", spoil))
    says(text, "the gradient of layer conv2 (net.layers.conv2.weights.weight) is", "step 3, epoch 1")


def test_a_loss_of_finite_outputs_is_named(stopped):
    says(stopped(penalty=Bad()), "the loss, with finite outputs of every layer, is", "step 0, epoch 0")


def test_an_image_in_validation_alone_is_named(stopped):
    words = stopped(encoder=Spoils(None, VALUES[0], training=False))
    image = int(re.search(r"the input of the network, image (\d+) of validation, is", words)[1])
    says(
        stopped(encoder=Spoils(image, VALUES[1], training=False)), f"image {image} of validation, is", "step 2, epoch 0"
    )


def test_a_validation_loss_is_named_with_its_layer(stopped):
    def spoil(module):
        module.net.layers["fc1"].norm.bias.data.fill_(1e3)  # all its neurons fire
        module.net.layers["classifier"].weights.weight.data.fill_(torch.finfo(torch.float32).max)

    text = stopped(At("on_validation_start", spoil, step=2))
    says(text, "the output of layer classifier (net.layers.classifier.weights) in validation batch 0 is", "epoch 0")


def test_weights_that_are_not_finite_are_in_no_checkpoint_whenever_it_is_written(stopped):
    def spoil(module):
        module.net.layers["conv1"].norm.weight.data[0] = float("nan")
        module.trainer.save_checkpoint("mine.ckpt")

    says(
        stopped(At("on_train_batch_end", spoil)), "a weight of layer conv1 (net.layers.conv1.norm.weight) is", "step 3"
    )
    assert not Path("mine.ckpt").exists()


def test_images_that_shrink_to_nothing_are_no_finding():
    empty = torch.zeros(0, 3, 8, 8)
    assert bad_image(empty, torch.zeros(0, dtype=torch.int64)).item() == -1
    assert bad_image(torch.full((2, 1, 3, 8, 8), 3e38), torch.tensor([4])).item() == -1  # no sum overflows
    spikes = torch.zeros(3, 2, 1, 4, 4)
    spikes[2, 1, 0, 3, 3] = float("inf")
    assert bad_image(spikes, torch.tensor([6, 9])).item() == 9


class Watched(Callback):
    """Counts what the layers carry while training runs, and how often the guard ran the network once more."""

    hooks = steps = 0

    def on_before_backward(self, trainer, module, loss):
        self.steps += 1
        self.hooks += sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in module.net.modules())


def test_while_all_is_finite_no_layer_is_watched_and_nothing_runs_twice(stopped, monkeypatch):
    passes, forward = [], SpikingVGG.forward
    monkeypatch.setattr(
        SpikingVGG, "forward", lambda net, x, **kw: passes.append(net.training) or forward(net, x, **kw)
    )
    watched = Watched()

    def spoil(module):
        module.net.layers["conv1"].weights.weight.grad.fill_(float("nan"))

    stopped(watched, At("on_after_backward", spoil, step=5))
    assert (watched.steps, watched.hooks) == (6, 0)
    assert passes.count(True) == 6 + 1  # that once when something was found


def test_the_gradients_norm_is_that_of_all_gradients_together():
    module = SpikingClassifier(SpikingVGG("2-P", num_classes=2, input_shape=(3, 8, 8), timesteps=2))
    for number, parameter in enumerate(module.parameters()):
        parameter.grad = torch.full_like(parameter, number + 1.0)
    flat = torch.cat([parameter.grad.flatten() for parameter in module.parameters()])
    logged = {}
    module.log = lambda tag, value, **_: logged.update({tag: value})
    trainer = SimpleNamespace(precision_plugin=None, global_step=0, world_size=1, log_every_n_steps=1)
    guard, again = NonFiniteGuard(), NonFiniteGuard()
    guard.on_before_optimizer_step(trainer, module, None)
    again.load_state_dict(guard.state_dict())  # stopped within the epoch, and taken up
    for parameter in module.parameters():
        parameter.grad *= 3
    again.on_before_optimizer_step(trainer, module, None)
    again.on_train_epoch_end(trainer, module)
    torch.testing.assert_close(logged["health/gradient_norm"], 2 * flat.square().sum().sqrt())
    assert again.state_dict() == {}


def test_a_module_that_meets_what_is_not_finite_is_named_before_those_behind_it():
    class Swallows(nn.Module):
        def forward(self, x):
            return x.gt(1).float()

    net = nn.Sequential(nn.Linear(2, 2), Swallows(), nn.Linear(2, 2))
    assert bad_output(net, lambda: net(torch.ones(1, 2))) is None
    net[2].bias.data.fill_(float("inf"))
    assert bad_output(net, lambda: net(torch.ones(1, 2))) == "2"
    assert bad_weight(net) == "2.bias"
    net[0].weight.data.fill_(float("nan"))
    assert bad_output(net, lambda: net(torch.ones(1, 2))) == "0"
    assert layer_of("net.layers.conv1.weights.weight") == "conv1"


# ---- networks that are only read -------------------------------------------------------------------------------------


def tiny_model():
    torch.manual_seed(0)
    net = SpikingVGG("2-P-3-F4", num_classes=3, input_shape=(3, 8, 8), timesteps=2)
    return SpikingClassifier(net)


def spoil_weight(net):
    net.layers["conv1"].weights.weight.data[0, 0, 0, 0] = float("nan")  # which its neurons turn into silence


def spoil_statistics(net):
    net.layers["conv2"].norm.running_var[1] = float("inf")


def overflow(net):
    net.layers["fc1"].norm.bias.data.fill_(1e3)  # all its neurons fire
    net.layers["classifier"].weights.weight.data.fill_(torch.finfo(torch.float32).max)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (spoil_weight, "a weight of layer conv1 (net.layers.conv1.weights.weight) is"),
        (spoil_statistics, "a weight of layer conv2 (net.layers.conv2.norm.running_var) is"),
        (overflow, "the output of layer classifier (net.layers.classifier.weights) in {split} batch 0 is"),
        (None, "the input of the network, image {image} of {split}, is"),
    ],
    ids=["weight", "statistics", "output", "image"],
)
@pytest.mark.parametrize("command", ["validate", "test", "predict"])
def test_a_network_whose_numbers_are_not_finite_is_not_measured(tiny_npz, command, spoil, said):
    encoder = Spoils(None, VALUES[0], training=False) if spoil is None else "direct"
    data = CIFAR10DataModule(str(tiny_npz), "npz", batch_size=5, timesteps=2, encoder=encoder)
    model, off = tiny_model(), dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary"), False)
    if spoil is not None:
        spoil(model.net)
    writer = PredictionWriter("predictions.csv")
    trainer = Trainer(accelerator="cpu", enable_checkpointing=False, callbacks=[writer], **off)
    with pytest.raises(UserError) as error:
        getattr(trainer, command)(model, data)
    split = {"validate": "validation", "test": "test", "predict": "prediction"}[command]
    image = r"\d+"
    assert re.match(re.escape(said.format(split=split, image="IMAGE")).replace("IMAGE", image), with_flags(error.value))
    assert "not finite (NaN or infinity): nothing is reported" in with_flags(error.value)
    assert not Path("predictions.csv").exists()
    data.encoder = DirectEncoder()  # the trainer remembers nothing of it
    getattr(trainer, command)(tiny_model(), data, **({} if command == "predict" else {"verbose": False}))


@pytest.mark.filterwarnings("ignore")  # Lightning's and the parser's own
@pytest.mark.parametrize("where", ["state_dict", "current_model_state"])  # the latter beside averaged weights
def test_whatever_reads_a_checkpoint_refuses_weights_that_are_not_finite(capsys, where):
    folder = Path("theirs/seed0")
    last, weights = folder / "checkpoints/last.ckpt", tiny_model().state_dict()
    last.parent.mkdir(parents=True)
    bad = {**weights, "net.layers.conv1.weights.weight": torch.full((2, 3, 3, 3), torch.nan)}
    spends = "efficiency/spikes_per_image/val"
    torch.save({"state_dict": weights, "measured": {spends: 9.0}, "global_step": 1, "epoch": 1, where: bad}, last)
    said = "its weight net.layers.conv1.weights.weight is not finite (NaN or infinity), so that nothing"
    for command, flag in (
        *((name, f"--ckpt_path={last}") for name in ("test", "predict", "validate", "fit", "train", "compare")),
        ("exits", str(folder)),
    ):
        assert main([command, flag]) == 2
        error = capsys.readouterr().err
        assert f"{last}: {said}" in error, command
        assert error.count("\n") == 1
    for flag, read in {
        "--model.init_from=": lambda: SpikingClassifier(tiny_model().net, init_from=str(last)),
        "--model.distillation.teacher=": lambda: load_teacher(str(last), None),
        "--budget.baseline=": lambda: told_by(str(last), spends, "--budget.baseline"),
        "": lambda: load_run(folder, "last"),
    }.items():
        with refused_with(re.escape(f"{flag}{last}: {said}")):
            read()
    assert newest(folder) is None  # nothing to go on from
    assert said in capsys.readouterr().out
    assert not Path("runs").exists()


ON_ONE = """
import os

from spikesparse import DirectEncoder


class Spoils(DirectEncoder):
    \"\"\"An image that only one of the processes ever sees.\"\"\"

    def __call__(self, images, indices, timesteps, seed, epoch):
        if os.environ.get("LOCAL_RANK") == "1" and epoch == 1:
            images[0, 0, 0, 0] = float("nan")
        return images
"""


@pytest.mark.slow
def test_two_processes_stop_with_the_same_words(tiny_args):
    Path("spoils.py").write_text(ON_ONE)
    flags = ["--allow-import=spoils", "--data.encoder=spoils.Spoils", "--trainer.devices=2", "--trainer.strategy=ddp"]
    launch = ["torch.distributed.run", "--standalone", "--nproc-per-node=2", "--redirects=3", "--log-dir=logs", "-m"]
    command = [sys.executable, "-m", *launch, "spikesparse", "fit", *tiny_args, *flags]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode != 0
    said = [re.findall("spikesparse: error: (.*)", log.read_text()) for log in sorted(Path("logs").rglob("stderr.log"))]
    assert len(said) == 2
    assert said[0] == said[1]
    assert re.match(r"the input of the network, training image \d+, is not finite .* at step 3, epoch 1", said[0][0])
