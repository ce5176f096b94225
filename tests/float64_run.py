"""A small run in float64, whose weights another way of training the same must reach."""

import numpy as np
import torch
from pytorch_lightning import Trainer

from spikesparse import CIFAR10DataModule, SpikingClassifier, SpikingVGG
from spikesparse.commands.quiet import quiet

GLOBAL_BATCH = 12


def save_images(folder):
    """40 images of 8x8 pixels in two classes, 36 of which train."""
    quiet()
    rng = np.random.default_rng(0)
    arrays = {f"x_{split}": rng.integers(0, 256, (40, 8, 8, 3), np.uint8) for split in ("train", "test")}
    np.savez(folder / "images.npz", **arrays, y_train=np.arange(40) % 2, y_test=np.arange(40) % 2)
    return folder / "images.npz"


def network(**net):
    """The run's network, as it is before training."""
    torch.manual_seed(0)
    return SpikingVGG("6-P-F8", num_classes=2, timesteps=3, input_shape=(3, 8, 8), **net)


def train(net, images, trainer, batches=1, **data):
    """Train it with the penalty in the loss, on global batches of 12 made of ``batches`` smaller ones; the trainer."""
    module = SpikingClassifier(net, lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9))
    module.sparsity_weight = 0.5
    arrays = CIFAR10DataModule(
        **{"source": "npz", "data_dir": str(images), "timesteps": 3, "batch_size": GLOBAL_BATCH // batches}, **data
    )
    trained = Trainer(
        **{"accelerator": "cpu", "precision": "64-true", "limit_val_batches": 0},
        **dict.fromkeys(("logger", "enable_progress_bar", "enable_checkpointing", "enable_model_summary"), False),
        **trainer,
    )
    trained.fit(module, arrays)
    return trained
