"""Whether what a file holds is finite."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def bad_value(state: Mapping[str, Any]) -> str | None:
    """The name of the first tensor that is not finite.

    >>> bad_value({"steps": 3, "scale": torch.ones(2), "shift": torch.tensor([1.0, -torch.inf])})
    'shift'
    """
    return next((name for name, value in state.items() if isinstance(value, Tensor) and not _is_finite(value)), None)


def _is_finite(values: Tensor) -> bool:
    if values.layout is not torch.strided:
        values = values._values() if values.layout is torch.sparse_coo else values.values()
    if values.is_complex():
        values = torch.view_as_real(values.resolve_conj())
    if not values.is_floating_point() or not values.numel() or values.is_meta:
        return True
    # Both extremes of numbers with a NaN among them are NaN; and no tensor of the same size is made.
    least, most = torch.aminmax(values.float() if values.dtype.itemsize == 1 else values)
    return bool(least.isfinite() & most.isfinite())
