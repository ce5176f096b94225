"""More time steps than memory holds are refused before anything is run, and none that it does hold."""

from pathlib import Path

import pytest
import torch

from spikesparse import CIFAR10DataModule, SpikingVGG
from spikesparse.commands.main import main
from spikesparse.training.memory import least_bytes, memory_of, ran_out

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's advice on tiny runs is not what is tested here


def refusal(args, capsys):
    assert main(args) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("spikesparse: error:")]
    return line


@pytest.mark.parametrize(
    ("command", "encoder", "steps"),
    [("train", "direct", 10**10), ("validate", "poisson", 10**10), ("predict", "direct", 10**30)],
)
def test_too_many_steps_are_refused_before_anything_is_run(command, encoder, steps, tiny_args, capsys):
    args = [arg for arg in tiny_args if command == "train" or "--sparsity" not in arg]
    line = refusal([command, *args, f"--data.timesteps={steps}", f"--data.encoder={encoder}"], capsys)
    assert f"--data.timesteps={steps}: a batch of " in line
    assert "of memory at once" in line
    assert not list(Path("runs").glob("*/seed0"))


def test_cifar_is_not_downloaded_to_see_that_it_does_not_fit(capsys):
    assert "--data.timesteps=10000000: a batch of 128" in refusal(
        ["fit", "--trainer.accelerator=cpu", "--data.timesteps=10000000"], capsys
    )


class Held(torch.utils._python_dispatch.TorchDispatchMode):
    """Bytes of the largest tensor that any operation makes or reads."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for each in torch.utils._pytree.tree_leaves((args, made)):
            if isinstance(each, torch.Tensor):
                self.largest = max(self.largest, each.untyped_storage().nbytes())
        return made


@pytest.mark.parametrize("encoder", ["direct", "poisson"])
@pytest.mark.parametrize("architecture", ["4-P-8", "8-8-P-F5", "F6"])
@pytest.mark.parametrize("phase", ["fit", "validate", "predict"])
def test_nobody_is_refused_who_could_have_run(phase, architecture, encoder, tiny_npz):
    """What is said to be needed is never more than the two largest tensors of a real pass, which are there at once."""
    data = CIFAR10DataModule(str(tiny_npz), "npz", encoder=encoder, timesteps=6)
    net = SpikingVGG(architecture, num_classes=3, input_shape=(3, 8, 8), timesteps=6).train(phase == "fit")
    batch = data.encode(next(iter(data.test_dataloader())))
    record = "neurons" if phase == "validate" else None
    with Held() as held, torch.set_grad_enabled(phase == "fit"):
        net(batch.images, record=record)
    assert 0 < least_bytes(net, data, 4, phase) * 6 * 12 <= 2.5 * held.largest


def test_memory_is_what_the_machine_has_within_its_limits(monkeypatch):
    pages = Path("/proc/meminfo").read_text().split()
    total, swap = (1024 * int(pages[pages.index(name) + 1]) for name in ("MemTotal:", "SwapTotal:"))
    assert memory_of(torch.device("cpu")) <= total + swap + 4096
    Path("limit").write_text("1000000\n")
    monkeypatch.setattr("spikesparse.training.memory._CGROUPS", (Path("limit"), Path("nowhere")))
    assert memory_of(torch.device("cpu")) == 1_000_000 + swap
    Path("limit").write_text("max\n")
    assert memory_of(torch.device("cpu")) > 1_000_000 + swap


def test_memory_that_runs_out_all_the_same_ends_in_one_line(capsys, monkeypatch):
    with pytest.raises(RuntimeError) as error:
        torch.empty(1 << 60)
    assert ran_out(error.value)
    assert not ran_out(RuntimeError("anything else"))
    monkeypatch.setattr("spikesparse.commands.train.fit", lambda args: torch.empty(1 << 60))
    assert "memory ran out" in refusal(["fit"], capsys)
