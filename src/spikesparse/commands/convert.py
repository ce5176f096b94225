"""``spikesparse convert FOLDER OUT.npz``: a folder of images as one npz."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from spikesparse.data.arrays import Dataset
from spikesparse.data.sources import load_folder
from spikesparse.errors import UserError
from spikesparse.files.whole_files import whole_file

CIFAR10_CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
CIFAR10_MEAN = (0.49139968, 0.48215841, 0.44653091)  # of its 50,000 training images, pixels in [0, 1]


def channel_means(dataset: Dataset) -> torch.Tensor:
    """Mean of the training pixels in [0, 1] per channel, float64, exact up to the division."""
    return dataset.train.images.transpose(0, 1).flatten(1).sum(1).double() / dataset.train.images[:, 0].numel() / 255


def convert(folder: Path, out: Path) -> str:
    """Write the npz, whole or not at all, and say what it is.

    Raises:
        UserError: if the folder is not ``{train,test}/<class>/*.png|jpg``, or the npz cannot be written.
    """
    if out.suffix != ".npz":
        raise UserError(f"{out}: the file to write must end in .npz")
    dataset = load_folder(folder)
    arrays = {"classes": np.array(dataset.classes)}
    for split, part in (("train", dataset.train), ("test", dataset.test)):
        arrays[f"x_{split}"] = part.images.permute(0, 2, 3, 1).numpy()
        arrays[f"y_{split}"] = part.labels.numpy()
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(out) as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error})") from error
    means = channel_means(dataset)
    lines = [
        f"{out}: {len(dataset.train)} training and {len(dataset.test)} test images of "
        f"{dataset.train.images.shape[3]}x{dataset.train.images.shape[2]} pixels, {len(dataset.classes)} classes",
        "channel means: " + ", ".join(f"{m:.8f}" for m in means.tolist()),
    ]
    if dataset.classes == CIFAR10_CLASSES:
        own = torch.allclose(means, torch.tensor(CIFAR10_MEAN, dtype=torch.float64), rtol=0, atol=1e-7)
        lines.append(
            "These are CIFAR-10's own means."
            if own
            else f"WARNING: CIFAR-10's own means are {CIFAR10_MEAN}: these are not all of its training images."
        )
    lines.append(f'Train on it: make train EXPERIMENT=cifar10_vgg7_cpu ARGS="--data.source=npz --data.data_dir={out}"')
    return "\n".join(lines)


def main(args: list[str]) -> None:
    """Command line of ``spikesparse convert``."""
    parser = argparse.ArgumentParser(prog="spikesparse convert", description=__doc__)
    parser.add_argument("folder", type=Path, help="holds {train,test}/<class>/*.png|jpg")
    parser.add_argument("out", type=Path, help="the .npz to write, such as data/cifar10.npz")
    parsed = parser.parse_args(args)
    print(convert(parsed.folder, parsed.out))
