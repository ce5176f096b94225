"""Where a number is not finite (NaN or infinity): in which image, weight, layer's output or gradient."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from spikesparse.files.finite import bad_value


def bad_image(images: Tensor, indices: Tensor) -> Tensor:
    """The index of the first image that is not finite, -1 if all are: a scalar on their device, without waiting for it.

    Args:
        images: as the network reads them, (T, B, C, H, W) or (B, C, H, W).
        indices: of the images in their source, (B,).

    >>> bad_image(torch.tensor([[[[1.0]]], [[[torch.nan]]]]), torch.tensor([30, 7])).item()
    7
    """
    if not len(indices):
        return indices.new_full((), -1)
    dims = tuple(d for d in range(images.dim()) if d != images.dim() - 4)
    bad = ~torch.linalg.vector_norm(images, torch.inf, dim=dims).isfinite()
    return torch.where(bad.any(), indices[bad.int().argmax()], -1)


def bad_weight(module: nn.Module) -> str | None:
    """The name of the first parameter or buffer that is not finite."""
    return bad_value(module.state_dict())


def bad_output(module: nn.Module, run: Callable[[], Any]) -> str | None:
    """The name of the first submodule, in the order in which they run, that meets or makes a number not finite.

    Spiking neurons turn NaN into silence: what reaches a module counts as well as what leaves it.

    Args:
        module: whose submodules are watched.
        run: makes them run.
    """
    found: list[str] = []

    def watch(name: str) -> Any:
        def look(part: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            tensors = [t for t in (*args, output) if isinstance(t, Tensor) and t.is_floating_point()]
            if not found and not all(bool(t.isfinite().all()) for t in tensors):
                found.append(name)

        return look

    hooks = [part.register_forward_hook(watch(name)) for name, part in module.named_modules() if name]
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a layer with hooks says that it runs part by part
            run()
    finally:
        for hook in hooks:
            hook.remove()
    return found[0] if found else None


def layer_of(name: str) -> str:
    """What a parameter's or module's layer is called in tables: "net.layers.conv1.weights" is of "conv1".

    >>> layer_of("net.layers.conv1.weights.weight"), layer_of("net.readout.weight")
    ('conv1', 'net.readout.weight')
    """
    _, found, rest = name.partition("layers.")
    return rest.split(".")[0] if found else name
