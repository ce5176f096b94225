"""Hooks of a module: they see its inputs and outputs and may replace them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def hooked(module: nn.Module) -> bool:
    """Whether a module must be called as the module that it is: hooks, or a forward that was put in its place."""
    hooks = any(getattr(module, name) for name in _HOOKS)
    return hooks or "forward" in vars(module) or bool(torch_module._has_any_global_hook())


def with_hooks(module: nn.Module, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """``function(x)`` as the forward of a module: its hooks run before and behind it, as torch runs them.

    Pruning and torch's older weight_norm make the parameters of the module in such a hook.
    """
    if "forward" in vars(module) or not hooked(module):
        return function(x)
    module.forward = function  # what torch itself calls between the hooks
    try:
        y: Tensor = module(x)
    finally:
        del module.forward
    return y


def unit_behind(x: Tensor, unit: float | None, *parts: nn.Module | None) -> float | None:
    """``unit``, unless a hook on one of the parts that ``x`` has passed has put other values than zero and that there.

    Without hooks nothing is looked at: what a part promises, it keeps.
    """
    if unit is None or not any(part is not None and hooked(part) for part in parts):
        return unit
    return unit_kept(x, unit)


@torch.no_grad()
def unit_kept(x: Tensor, unit: float | None) -> float | None:
    """``unit``, if ``x`` holds zeros and that value only."""
    return unit if unit is not None and bool(((x == 0) | (x == unit)).all()) else None
