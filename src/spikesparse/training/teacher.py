"""A teacher's network, read from its checkpoint."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from spikesparse.files.checkpoint import check_state_dict, read_checkpoint, settings_of
from spikesparse.settings.build import build_network
from spikesparse.settings.build_errors import SettingsErrors
from spikesparse.settings.same_data import check_same_input

_FLAG = "--model.distillation.teacher"


def load_teacher(path: str, data: Any) -> nn.Module:
    """The network of a checkpoint, frozen and in evaluation mode.

    Args:
        path: a checkpoint written by this command line.
        data: the student's data module.

    Raises:
        UserError: if there is none, or it was trained on other images, classes or image shapes, or another encoding.
    """
    checkpoint = read_checkpoint(path, _FLAG)
    settings = settings_of(checkpoint, f"{_FLAG}={path}")
    with SettingsErrors():
        check_same_input(settings["data"], data, f"{_FLAG}={path}")
        with torch.random.fork_rng(
            devices=[]
        ):  # the weights drawn here are overwritten: the student's draws stay its own
            theirs = build_network(
                settings["model"]["net"], settings["data"]["timesteps"], data.num_classes, data.input_shape
            )
        weights = {
            name.removeprefix("net."): value
            for name, value in checkpoint["state_dict"].items()
            if name.startswith("net.")
        }
        check_state_dict(weights, theirs.state_dict(), f"{_FLAG}={path}")
        theirs.load_state_dict(weights)
    return theirs.eval().requires_grad_(False)


@torch.no_grad()
def logits_of(teacher: nn.Module, images: Tensor) -> Tensor:
    """What a teacher makes of a batch: (B, classes)."""
    logits: Tensor = teacher(images).logits
    return logits
