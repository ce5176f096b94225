"""Every file under configs/ runs: its own architecture, encoder and T; only the data is cut."""

from pathlib import Path

import pytest
import torch

from spikesparse import SpikingClassifier, SpikingVGG
from spikesparse.commands.cli import SpikeCLI
from spikesparse.files.paths import CONFIGS
from spikesparse.settings.bolts import load_bolts

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's advice on tiny runs is not what is tested here

# A search space and a plan are no configurations: tests/commands reads them.
FILES = sorted(
    str(path.relative_to(CONFIGS)) for path in CONFIGS.rglob("*.yaml") if path.parent.name not in ("campaign", "search")
)
CUT = [
    "--trainer.accelerator=cpu",
    "--trainer.devices=1",
    "--trainer.strategy=auto",
    "--trainer.limit_train_batches=2",
    "--trainer.limit_val_batches=1",
    "--trainer.max_epochs=1",
    "--trainer.num_sanity_val_steps=0",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
    "--trainer.log_every_n_steps=1",
    "--data.batch_size=4",
    "--dashboard.every_n_epochs=0",
]


def test_there_are_configs():
    assert {"base.yaml", "experiment/digits.yaml", "experiment/cifar10_vgg7_cpu.yaml"} <= set(FILES)


SLOW = [f"experiment/{name}.yaml" for name in ("paper_t100", "cifar10_vgg9", "cifar10_vgg7_sixteen_steps")]


@pytest.mark.parametrize("file", [pytest.param(f, marks=pytest.mark.slow) if f in SLOW else f for f in FILES])
def test_config_trains_two_steps_and_validates(file, cifar_like_npz):
    text = (CONFIGS / file).read_text()
    if "pl_bolts" in text and load_bolts("pl_bolts.optimizers.lr_scheduler") is None:
        pytest.skip("lightning-bolts is not installed: `make setup` does it, VENV=none does not")
    args = ["fit", "--config", str(CONFIGS / file), *CUT]
    if "source: digits" not in text:
        args += ["--data.source=npz", f"--data.data_dir={cifar_like_npz}"]
    if "warmup_epochs" in text or "scheduler" not in text:
        args.append("--model.scheduler.warmup_epochs=0")
    if "overfit" in file:
        args.append("--trainer.overfit_batches=0")  # the cut above stands for it
    cli = SpikeCLI(args)
    assert cli.trainer.global_step == 2
    assert 0 <= float(cli.trainer.callback_metrics["accuracy/val"]) <= 1
    weights = torch.cat([p.detach().flatten() for p in cli.model.parameters()])
    assert weights.isfinite().all()


def test_experiments_that_change_class_state_what_the_old_class_would_leave_behind():
    """jsonargparse carries init_args over to another class: a changed optimizer must state lr and weight_decay."""
    for path in (CONFIGS / "experiment").glob("*.yaml"):
        text = Path(path).read_text()
        if "class_path: torch.optim." in text:
            assert "lr:" in text
            assert "weight_decay:" in text


def test_optimizer_by_flags_is_another_than_the_config_s(cifar_like_npz):
    cli = SpikeCLI(
        [
            "fit",
            *("--config", str(CONFIGS / "experiment/cifar10_vgg9.yaml")),
            *("--model.optimizer=torch.optim.SGD", "--model.optimizer.lr=0.1"),
            *("--model.optimizer.momentum=0.9", "--model.optimizer.weight_decay=0.0005"),
            *CUT,
            "--model.net.width=0.05",
            "--model.compile=off",
            "--data.batch_size=16",
            "--data.source=npz",
            f"--data.data_dir={cifar_like_npz}",
            "--model.scheduler.warmup_epochs=0",
        ]
    )
    optimizer = cli.trainer.optimizers[0]
    assert type(optimizer) is torch.optim.SGD
    group = optimizer.param_groups[0]
    assert (group["initial_lr"], group["momentum"], group["weight_decay"]) == (0.1, 0.9, 0.0005)


@pytest.mark.parametrize("weights_only", [False, True])
def test_weight_decay_by_itself_shrinks_weights_and_what_else_it_is_to_hold(weights_only):
    net = SpikingVGG("4-P-F8", input_shape=(1, 4, 4), learn_threshold=True)
    module = SpikingClassifier(
        net, lambda each: torch.optim.SGD(each, lr=0.1, weight_decay=0.5), decay_weights_only=weights_only
    )
    before = {name: each.detach().clone() for name, each in module.named_parameters()}
    for each in module.parameters():
        each.grad = torch.zeros_like(each)
    module.configure_optimizers().step()
    for name, each in module.named_parameters():
        shrinks = not weights_only or (".weights." in name and name.endswith("weight"))
        torch.testing.assert_close(each.detach(), before[name] * (0.95 if shrinks else 1.0), msg=name)
