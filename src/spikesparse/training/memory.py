"""Whether a batch can fit into memory at all: seen before anything is run."""

from __future__ import annotations

import math
import os
import resource
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from spikesparse.data.encoding import PoissonEncoder
from spikesparse.data.module import CIFAR_STATISTICS
from spikesparse.errors import UserError
from spikesparse.nn.network import SpikingStack

if TYPE_CHECKING:
    from pytorch_lightning import Trainer

    from spikesparse.data import CIFAR10DataModule

_CGROUPS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
_MOST_ASSUMED = 4096  # images of a batch, where their number is not known before a download


def check_memory(command: str, net: nn.Module, data: CIFAR10DataModule, trainer: Trainer) -> None:
    """Refuse more time steps than memory can hold.

    What is compared is the least that a batch takes at once, of all the memory that there is: whoever is refused could
    not have run. Who is not may still run out of it.

    Args:
        command: "fit", "validate", "test" or "predict".
        net: the network.
        data: that it reads.
        trainer: that runs it.

    Raises:
        UserError: naming the time steps, and both sizes.
    """
    device = trainer.strategy.root_device
    itemsize = 2 if "16" in str(trainer.precision) else 4
    there = memory_of(device)
    validated: Any = trainer.limit_val_batches
    for phase in {"fit": ("fit", *(["validate"] if validated else []))}.get(command, (command,)):
        images = _images_at_once(phase, data, trainer.world_size)
        least = data.timesteps * images * least_bytes(net, data, itemsize, phase)
        if least > there:
            place = torch.cuda.get_device_name(device) if device.type == "cuda" else "this machine"
            raise UserError(
                f"--data.timesteps={data.timesteps}: a batch of {images} images takes at least {_told(least)} of "
                f"memory at once, and {place} has {_told(there)}. Lower it (4 is usual), or "
                f"--data.batch_size={data.batch_size}."
            )


def least_bytes(net: nn.Module, data: CIFAR10DataModule, itemsize: int, phase: str) -> int:
    """What must be held at once of each image and time step, in bytes; of a network of another kind, its input alone.

    A layer's input and what its weights make of it are there together: where a constant current enters, of one step. In
    training, the spikes of all layers are kept besides, as bits at least. Measuring records what neurons do, for which
    a layer's spikes are there before they are pooled.

    Args:
        net: the network.
        data: that it reads.
        itemsize: bytes of a number.
        phase: "fit", "validate", "test" or "predict".
    """
    spikes_enter = isinstance(data.encoder, PoissonEncoder)
    entering = 4 * math.prod(data.input_shape) if spikes_enter else 0
    if not isinstance(net, SpikingStack) or type(net).forward is not SpikingStack.forward:
        return entering
    layers: list[Any] = list(net.layers.values())
    most, hidden, last = entering, layers[:-1], layers[-1]
    for layer in hidden if spikes_enter else hidden[1:]:
        made = 0 if layer.recompute else layer.incoming.after(layer.weights).features
        most = max(most, itemsize * int(layer.incoming.features + made))
    most = max(most, itemsize * int(last.incoming.features + last.incoming.after(last.weights).features))
    neurons = net.sizes.neurons.values()
    if phase == "fit":
        return most + sum(neurons) // (4 * 8)  # of a pooled layer, a quarter may be kept
    return max(most, itemsize * max(neurons)) if phase in ("validate", "test") else most


def memory_of(device: torch.device) -> int:
    """Bytes of memory that a process may have on a device at the most: with swap, within the limits that are set."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    limits = [resource.getrlimit(resource.RLIMIT_AS)[0]]
    limits = [limit for limit in limits if limit != resource.RLIM_INFINITY]
    for file in _CGROUPS:
        text = file.read_text().strip() if file.is_file() else ""
        limits += [int(text)] if text.isdecimal() else []
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min([physical + _swap(), *(limit + _swap() for limit in limits)])


def _swap() -> int:
    lines = Path("/proc/meminfo").read_text().splitlines() if Path("/proc/meminfo").is_file() else []
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("SwapTotal:")), 0)


def _images_at_once(phase: str, data: CIFAR10DataModule, processes: int) -> int:
    """Images of a full batch, if there are as many."""
    if data.source in CIFAR_STATISTICS:
        there = min(data.train_images or _MOST_ASSUMED, _MOST_ASSUMED)
    elif phase == "fit":
        there = len(data.split[0])
    elif phase == "test" or (phase == "predict" and data.predict_on != "val"):
        there = len(data.dataset.test if phase == "test" or data.predict_on == "test" else data.predicted_folder[1])
    else:
        there = len(data.split[1])
    return max(1, min(data.batch_size, there // processes))


def _told(size: float) -> str:
    return f"{size / 1e9:,.0f} GB" if size >= 1e10 else f"{size / 1e9:.1f} GB"


def ran_out(error: Any) -> bool:
    """Whether an error is torch's for memory that cannot be had."""
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator: " in str(error)
