"""Accumulated gradients train what the whole batch trains, if no layer looks at the batch as a whole."""

import numpy as np
import pytest
import torch
from pytorch_lightning import Trainer

from spikesparse import CIFAR10DataModule, SpikingClassifier, SpikingVGG
from spikesparse.quiet import quiet

STEPS = 20


def trained(path, norm, accumulated, encoder="direct"):
    """Weights after 20 steps in float64 on global batches of 12, with the penalty in the loss."""
    torch.manual_seed(0)
    net = SpikingVGG("6-P-F8", num_classes=2, timesteps=3, input_shape=(3, 8, 8), norm=norm)
    module = SpikingClassifier(net, lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9))
    module.sparsity_weight = 0.5
    data = CIFAR10DataModule(
        **{"source": "npz", "data_dir": str(path), "timesteps": 3, "encoder": encoder, "val_split": 4},
        batch_size=12 // accumulated,
    )
    trainer = Trainer(
        **{"accelerator": "cpu", "precision": "64-true", "accumulate_grad_batches": accumulated},
        **{"max_epochs": -1, "max_steps": STEPS, "limit_val_batches": 0},
        **dict.fromkeys(("logger", "enable_progress_bar", "enable_checkpointing", "enable_model_summary"), False),
    )
    trainer.fit(module, data)
    assert trainer.global_step == STEPS
    return net.state_dict()


@pytest.fixture
def images(tmp_path):
    """40 images of 8x8 pixels, 36 of which train."""
    quiet()
    rng = np.random.default_rng(0)
    arrays = {f"x_{split}": rng.integers(0, 256, (40, 8, 8, 3), np.uint8) for split in ("train", "test")}
    np.savez(tmp_path / "images.npz", **arrays, y_train=np.arange(40) % 2, y_test=np.arange(40) % 2)
    return tmp_path / "images.npz"


@pytest.mark.filterwarnings("ignore:Trying to infer the `batch_size` from an ambiguous collection")
@pytest.mark.parametrize("encoder", ["direct", pytest.param("poisson", marks=pytest.mark.slow)])
def test_without_batch_norm_three_small_batches_are_one_large_one(images, encoder):
    whole, parts = (trained(images, "none", accumulated, encoder) for accumulated in (1, 3))
    assert list(whole) == list(parts)
    for name, expected in whole.items():
        torch.testing.assert_close(parts[name], expected, rtol=1e-9, atol=1e-12, msg=name)
    torch.manual_seed(0)
    before = SpikingVGG("6-P-F8", num_classes=2, timesteps=3, input_shape=(3, 8, 8), norm="none").double().state_dict()
    moved = {name for name in whole if (whole[name] - before[name]).abs().max() > 1e-2}
    assert moved >= {f"layers.{name}.weights.weight" for name in ("conv1", "fc1", "classifier")}  # all have learned


def test_with_batch_norm_they_are_not(images):
    whole, parts = (trained(images, "batch", accumulated) for accumulated in (1, 3))
    assert any((parts[name] - whole[name]).abs().max() > 1e-4 for name in whole if "weight" in name)
