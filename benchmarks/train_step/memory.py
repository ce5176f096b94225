"""Memory of a training step: its peak, and what the forward pass keeps for the backward pass."""

from __future__ import annotations

import ctypes
import gc
import weakref
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .step import Step


def peaks(step: Step) -> dict[str, float | None]:
    """``peak_mb``: the most held at one time within a step above what was held before it.

    ``peak_total_mb`` is that above the level before the first step on a CPU (resident memory), above nothing on CUDA.
    Steps run here are the first of the process. What a compiler needed is not in it, but the code it left is.
    """
    cuda = step.setting.device.startswith("cuda")
    start = 0 if cuda else _status("VmRSS")
    for _ in range(2):
        step()
    give_back(cuda)
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        torch.cuda.synchronize()
        peak = torch.cuda.max_memory_allocated()
    else:
        before = _status("VmRSS")
        try:
            Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts anew
        except OSError:
            return {"peak_mb": None, "peak_total_mb": None}
        step()
        peak = _status("VmHWM")
    return {"peak_mb": round((peak - before) / 1e6, 1), "peak_total_mb": round((peak - start) / 1e6, 1)}


def held_bytes(step: Step) -> int:
    """Bytes that a forward pass allocates and that are still held at its end: for the backward pass, or as states."""
    device = step.setting.device
    if device.startswith("cuda"):
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        result = step.forward()
        held = torch.cuda.memory_allocated() - before
        del result
        return held
    activities = [torch.profiler.ProfilerActivity.CPU]
    # acc_events: torch 2.11 warns without it, though there is one cycle alone
    with torch.profiler.profile(activities=activities, profile_memory=True, acc_events=True) as profile:
        result = step.forward()
    del result
    return sum(event.self_cpu_memory_usage for event in profile.key_averages())


class _Saved:
    """What autograd holds in place of a tensor; gone with the part of the graph that held it."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


def saved_bytes(step: Step) -> int:
    """Bytes of distinct storages that autograd has saved behind a forward pass, without parameters and the batch."""
    known = {tensor.untyped_storage().data_ptr() for tensor in [*step.contender.module.parameters(), step.images]}
    saved: weakref.WeakSet[_Saved] = weakref.WeakSet()

    def pack(tensor: Tensor) -> _Saved:
        saved.add(packed := _Saved(tensor))
        return packed

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda packed: packed.tensor):
        result = step.forward()
    storages = [packed.tensor.untyped_storage() for packed in saved]
    sizes = {storage.data_ptr(): storage.nbytes() for storage in storages if storage.data_ptr() not in known}
    del result
    return sum(sizes.values())


def give_back(cuda: bool) -> None:
    """Unused memory to the system, so that a process that waits does not hold it."""
    gc.collect()
    if cuda:
        torch.cuda.empty_cache()
    else:
        trim: Any = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


def _status(name: str) -> int:
    """Bytes, from /proc."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))
