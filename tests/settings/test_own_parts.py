"""Someone else's images, network, neuron, encoder, schedule and penalty: the documentation's pages as they stand."""

import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest
import torch
import yaml

from refusals import refused_with
from spikesparse import LIF, SparsityAnnealing, SpikingVGG, load_run
from spikesparse.commands.flags import with_flags
from spikesparse.commands.main import main
from spikesparse.errors import UserError
from spikesparse.files.paths import CONFIGS
from spikesparse.nn import SpikingNetwork, SpikingNeuron
from spikesparse.settings.command_line import CommandLine

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's advice on tiny runs is not what is tested here

DOCS = Path(__file__).resolve().parents[2] / "docs"
CUT = [
    *("--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"),
    *("--trainer.max_epochs=1", "--trainer.limit_train_batches=2", "--trainer.limit_val_batches=1"),
    *("--trainer.limit_test_batches=1", "--trainer.num_sanity_val_steps=0", "--model.scheduler.warmup_epochs=0"),
    *("--sparsity.start_epoch=0", "--sparsity.end_epoch=0", "--data.batch_size=8", "--dashboard.every_n_epochs=0"),
]


@pytest.fixture(autouse=True)
def _forget_own_modules():
    """A file of the same name in another test's folder is another module."""
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if re.match(r"my_|mine", name):
            del sys.modules[name]


def block(page, language):
    (text,) = re.findall(rf"```{language}\n(.*?)```", (DOCS / f"{page}.md").read_text(), re.DOTALL)
    return text


def follow(page, extra=()):
    """Write the page's file and run its commands, cut short; the folder of the last command's run."""
    code = block(page, "python")
    Path(re.match(r"# (\S+\.py)\n", code)[1]).write_text(code)
    for line in block(page, "bash").splitlines():
        program, *args = shlex.split(line.replace("configs/experiment", str(CONFIGS / "experiment")))
        if program == "python":
            runpy.run_path(args[0])
        else:
            assert program == "spikesparse"
            assert main([*args, *CUT, *extra]) == 0
            folder = Path("runs") / CommandLine(["fit", *args[1:], *CUT, *extra]).run_name() / "seed0"
    return folder


def check_later_use(folder, allowed=()):
    """`test` and `predict` rebuild everything from the checkpoint alone; so does load_run."""
    quick = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]
    checkpoint = f"--ckpt_path={folder}/checkpoints/best.ckpt"
    quick += [f"--allow-import={allowed}"] if allowed else []
    assert main(["test", checkpoint, "--trainer.limit_test_batches=1", *quick]) == 0
    assert main(["predict", checkpoint, "--trainer.limit_predict_batches=1", *quick]) == 0
    assert (folder / "predictions_val.csv").read_text().count("\n") == 1 + 8
    return load_run(folder, allow_import=allowed)


def test_own_images():
    module, data = check_later_use(follow("own_images"))
    assert (data.num_classes, data.input_shape) == (3, (3, 20, 24))
    assert data.dataset.classes == ["left", "middle", "right"]
    assert module.net.layers["classifier"].weights.out_features == 3


def test_own_network():
    module, _ = check_later_use(follow("own_network"), "my_network")
    assert type(module.net).__name__ == "WideNet"
    assert module.net.sizes.neurons == {"conv1": 8 * 16 * 16, "conv2": 16 * 8 * 8}


def test_own_neuron():
    module, _ = check_later_use(follow("own_neuron"), "my_neuron")
    neurons = [layer.neuron for layer in module.net.layers.values() if layer.neuron is not None]
    assert {type(neuron).__name__ for neuron in neurons} == {"Adaptive"}
    assert {neuron.rise for neuron in neurons} == {0.3}
    assert len({id(neuron) for neuron in neurons}) == 3


def test_own_neuron_of_the_page_spikes_as_it_says():
    exec(block("own_neuron", "python"), namespace := {})
    neuron = namespace["Adaptive"](decay=1.0, rise=1.0)
    current = torch.full((6, 1), 1.0, requires_grad=True)
    spikes = neuron(current)
    assert spikes.flatten().tolist() == [1, 0, 1, 0, 0, 1]  # thresholds 1, 2, 1.9, 2.81, 2.63, 2.47
    assert torch.equal(neuron(torch.ones(1), 6), spikes)
    spikes.sum().backward()
    assert current.grad.abs().sum() > 0


@pytest.mark.slow
def test_own_encoder():
    _, data = check_later_use(follow("own_encoder"), "my_encoder")
    assert (type(data.encoder).__name__, data.encoder.floor, data.timesteps) == ("Latency", 0.2, 6)
    batch = data.encode(next(iter(data.test_dataloader())))
    assert batch.images.shape[0] == 6
    assert set(batch.images.unique().tolist()) == {0, 1}
    assert batch.images.sum(0).max() == 1  # one spike per pixel


@pytest.mark.slow
def test_own_schedule(capsys):
    follow("own_schedule", ["--trainer.max_epochs=3", "--sparsity.end_epoch=4"])
    lambdas = re.findall(r"epoch 3/3 .* lambda (\S+)", capsys.readouterr().out)
    assert lambdas == ["0.25", "2"]  # of 2.0, half-way: 0.5 ** 3, and the jump


@pytest.mark.slow
def test_own_penalty():
    module, _ = check_later_use(follow("own_penalty"), "my_penalty")
    assert (type(module.penalty).__name__, module.penalty.spikes) == ("Budget", 500)


@pytest.mark.parametrize("page", sorted(DOCS.glob("own_*.md")), ids=lambda page: page.stem)
def test_page_is_short(page):
    assert len(page.read_text().splitlines()) < 60


MINE = """
import torch
from torch import nn
from spikesparse import LIF, Encoder, SpikingOutput, SpikingVGG
from spikesparse.nn import LayerSizes, SpikeCounter

class Plain(nn.Module):
    def __init__(self, num_classes, input_shape, timesteps, hidden: int = 5):
        super().__init__()
        c, h, w = input_shape
        self.timesteps, self.hidden = timesteps, hidden
        self.fc1, self.neuron, self.out = nn.Linear(c * h * w, hidden), LIF(), nn.Linear(hidden, num_classes)
        self.sizes = LayerSizes({"fc1": hidden}, {"fc1": c * h * w * hidden, "out": hidden * num_classes})
    def forward(self, x):
        counter = SpikeCounter(x, self.sizes, self.timesteps)
        counter.weights(torch.tensor(self.hidden))
        spikes = self.neuron(self.fc1(x.flatten(1)), self.timesteps)
        counter.neurons(spikes, 1.0)
        counter.weights(torch.tensor(self.out.out_features))
        return SpikingOutput(self.out(spikes).mean(0), counter.tally())
class Deaf(nn.Module):
    def __init__(self, num_classes): super().__init__()
class Logits(Plain):
    def forward(self, x): return super().forward(x).logits
class NoModule: pass
class Hasty(LIF):
    def forward(self, current): return super().forward(current)
class Folding(LIF):
    def forward(self, current, timesteps=None): return super().forward(current, timesteps).flatten(0, 1)
class Vector(nn.Module):
    def forward(self, tally): return tally.spikes.sum(0)
def falling(progress): return -1.0
"""


@pytest.fixture
def mine(tiny_args):
    Path("mine.py").write_text(MINE)
    return ["--allow-import=mine", *(a for a in tiny_args if "model.net" not in a and "encoder" not in a)]


def test_plain_module_trains_and_its_class_may_stand_in_a_config_file(mine):
    net = {"class_path": "mine.Plain", "init_args": {"hidden": 7}}
    Path("mine.yaml").write_text(yaml.safe_dump({"model": {"net": net}}))
    assert str(Path.cwd()) not in sys.path  # nor is it for the console script, whose own folder stands there
    assert main(["train", "--config", "mine.yaml", *mine]) == 0
    module, _ = load_run(
        Path("runs") / CommandLine(["fit", "--config", "mine.yaml", *mine]).run_name() / "seed0", allow_import=["mine"]
    )
    assert type(module.net).__name__ == "Plain"
    assert (module.net.hidden, module.net.out.out_features, module.net.timesteps) == (7, 3, 3)


BAD = {
    "--model.net=mine.nowhere.Net": ["No module named 'mine.nowhere'", "SpikingOutput", "own_network.md"],
    "--model.net=mine.Nothing": ["has no attribute 'Nothing'", "SpikingOutput"],
    "--model.net=mine.NoModule": ["torch.nn.Module", "SpikingOutput"],
    "--model.net=mine.Deaf": ["takes no input_shape, timesteps"],
    "--model.net=mine.Logits": ["returned 'Tensor'", "SpikingOutput(logits, tally)"],
    "--model.net.neuron=mine.NoModule": ["torch.nn.Module", "own_neuron.md"],
    "--model.net.neuron=mine.Hasty": ["forward must take (current, timesteps)"],
    "--model.net.neuron=mine.Folding": ["(T, B, ...)"],
    "--model.penalty=mine.NoModule": ["torch.nn.Module", "own_penalty.md"],
    "--model.penalty=mine.Vector": ["returned a tensor of shape", "scalar"],
    "--data.encoder=mine.Plain": ["spikesparse.Encoder"],
    "--sparsity.schedule=mine.nothing": ["has no attribute 'nothing'", "own_schedule.md"],
    "--sparsity.schedule=mine.falling": ["lambda -1", "0 or more"],
}


@pytest.mark.parametrize("flag", BAD)
def test_unusable_part_ends_with_one_line_that_names_flag_and_need(flag, mine, capsys):
    assert main(["fit", *mine, flag]) == 2
    error = capsys.readouterr().err
    line = [line for line in error.splitlines() if line.startswith("spikesparse: error:")]
    assert len(line) == 1
    for word in [flag if "falling" not in flag else "--sparsity.schedule", *BAD[flag]]:
        assert word in line[0]


def test_unusable_part_of_a_config_file_or_checkpoint_is_named(mine, capsys, tmp_path, monkeypatch):
    args = ["fit", *mine, "--model.net=mine.Plain", "--trainer.limit_train_batches=1"]
    assert main(args) == 0
    folder = Path("runs") / CommandLine(args).run_name() / "seed0"
    Path("mine.yaml").write_text(yaml.safe_dump({"model": {"net": {"class_path": "mine.Nothing"}}}))
    assert main(["fit", "--config", "mine.yaml", *mine]) == 2
    assert "--model.net=mine.Nothing: " in capsys.readouterr().err

    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path != str(tmp_path)])
    del sys.modules["mine"]
    assert main(["test", "--allow-import=mine", f"--ckpt_path={tmp_path / folder}/checkpoints/last.ckpt"]) == 2
    assert "--model.net=mine.Plain: No module named 'mine'" in capsys.readouterr().err
    with refused_with(r"--model.net=mine.Plain: No module named 'mine'"):
        load_run(tmp_path / folder, "last", "mine")


def test_edited_file_of_ones_own_makes_another_experiment():
    Path("mine.py").write_text("a = 1")
    flags, config = ["--model.net=mine.Net"], ["--config", "mine.yaml"]
    Path("mine.yaml").write_text("sparsity: {schedule: mine.rise}")
    before = [CommandLine(args).config_digest() for args in (flags, config, [])]
    Path("mine.py").write_text("a = 2")
    after = [CommandLine(args).config_digest() for args in (flags, config, [])]
    assert [a == b for a, b in zip(before, after, strict=True)] == [False, False, True]


@pytest.mark.parametrize(
    ("settings", "refused"),
    [
        ({"decay": 0.9}, ["decay=0.9"]),
        ({"reset": "soft", "learn_threshold": True}, ["reset=soft", "learn_threshold=True"]),
        ({"decay": 0.9, "threshold": 2.0, "readout": "leaky"}, []),
        ({"threshold": 2.0, "norm": "none"}, []),
        ({"threshold": 2.0, "decay": 0.9, "norm": "none"}, ["decay=0.9"]),
        ({"surrogate": "lee2020", "pooling": "spiking_average"}, []),
        ({"surrogate": "lee2020"}, ["surrogate=lee2020"]),
    ],
)
def test_settings_that_nothing_reads_beside_an_own_neuron_are_refused(settings, refused):
    if not refused:
        SpikingVGG("4-P-F5", input_shape=(3, 8, 8), neuron=LIF, **settings)
        return
    with pytest.raises(UserError) as error:
        SpikingVGG("4-P-F5", input_shape=(3, 8, 8), neuron=LIF, **settings)
    named = with_flags(error.value).split(":")[0]
    assert named == ", ".join(f"--model.net.{setting}" for setting in refused)


def test_own_neuron_in_place_of_the_same_built_in_one_changes_nothing():
    images = torch.randn(2, 3, 8, 8)
    outputs = []
    for neuron in (None, LIF):
        torch.manual_seed(0)
        outputs.append(SpikingVGG("4-P-F5", input_shape=(3, 8, 8), neuron=neuron)(images))
    assert torch.equal(outputs[0].logits, outputs[1].logits)


def test_contracts_take_any_module_but_nothing_else():
    assert issubclass(torch.nn.Linear, SpikingNetwork)
    assert issubclass(LIF, SpikingNeuron)
    assert not issubclass(dict, SpikingNetwork)
    assert not issubclass(torch.nn.Linear, SpikingVGG)
    assert not isinstance(torch.nn.Linear(2, 2), LIF)


def test_schedule_in_python_may_be_any_function():
    annealing = SparsityAnnealing(end_value=4.0, end_epoch=4, schedule=lambda progress: 2 * progress)
    assert [annealing.value_at(epoch) for epoch in range(6)] == [0, 2, 4, 6, 4, 4]
