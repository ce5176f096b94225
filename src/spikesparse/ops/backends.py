"""Which backend runs a tensor's scan, and why.

    reference   plain PyTorch; every device, dtype and surrogate
    cpu         C++ (cpu_kernels.cpp), compiled at first use; float32 and bfloat16
    triton      Triton (triton_kernels.py); CUDA; float32, bfloat16 and float16

``SPIKESPARSE_BACKEND`` names one to insist on: it is refused where that cannot run at all. Triton's interpreter runs on
the CPU that way, in tests.
"""

from __future__ import annotations

import logging
import os
from functools import cache
from importlib import import_module
from typing import cast

import torch

from spikesparse.errors import UserError
from spikesparse.ops.problem import Backend
from spikesparse.ops.spec import NeuronSpec
from spikesparse.ops.surrogate import is_built_in

BACKENDS = ("reference", "cpu", "triton")
_FLAG = "SPIKESPARSE_BACKEND"

_log = logging.getLogger("spikesparse")


@cache
def say_once(message: str) -> None:
    """Warn, the first time in a process: what is slow says so by name."""
    _log.warning(message)


def backend_for(device: torch.device, dtype: torch.dtype, spec: NeuronSpec | None = None) -> Backend:
    """The fastest backend there is for tensors of that device and dtype, and for that neuron.

    Raises:
        UserError: as :func:`named_backend`; or if the named one does not run on that device.
    """
    wanted = named_backend() or {"cpu": "cpu", "cuda": "triton"}.get(device.type, "reference")
    if wanted == "reference":
        return _load("reference")
    if wanted == "cpu" and device.type != "cpu":
        raise UserError(
            f"{_FLAG}=cpu: these kernels cannot read tensors on {device.type}. Unset it, or use `accelerator=cpu`."
        )
    why_not = _why_not(wanted, dtype, spec)
    if why_not:
        if dtype != torch.float64:  # float64 is for checking, and nobody expects it to be fast
            say_once(f"{why_not}: these neurons run in plain PyTorch, several times slower.")
        return _load("reference")
    return _load(wanted)


def named_backend() -> str | None:
    """The backend that the environment insists on, if any.

    Raises:
        UserError: if there is none of that name, or it cannot run on this machine.
    """
    name = os.environ.get(_FLAG)
    if not name:
        return None
    if name not in BACKENDS:
        raise UserError(
            f"{_FLAG}={name!r}: there is no backend of that name. There are: {', '.join(BACKENDS)}; or unset it, "
            "for the fastest there is."
        )
    if name != "reference" and (why_not := _unavailable(name)):
        raise UserError(f"{_FLAG}={name}: {why_not[0].lower()}{why_not[1:]}. Unset it, for the fastest there is.")
    return name


def _why_not(name: str, dtype: torch.dtype, spec: NeuronSpec | None) -> str | None:
    dtypes = {"cpu": (torch.float32, torch.bfloat16), "triton": (torch.float32, torch.bfloat16, torch.float16)}[name]
    if dtype not in dtypes:
        return f"The {name} kernels do not take {str(dtype).removeprefix('torch.')}"
    if spec is not None and not is_built_in(spec.surrogate):
        return f"The {name} kernels do not know the surrogate {type(spec.surrogate).__name__}"
    return _unavailable(name)


@cache
def _unavailable(name: str) -> str | None:
    """Why a backend cannot run on this machine at all, if so."""
    try:
        getattr(_load(name), "prepare", lambda: None)()
    except (ImportError, OSError, RuntimeError) as error:
        return f"The {name} kernels are not to be had ({error})"
    return None


@cache
def _load(name: str) -> Backend:
    module = {"reference": "reference", "cpu": "cpu", "triton": "triton_kernels"}[name]
    return cast(Backend, import_module(f"spikesparse.ops.{module}"))
