"""Whether two runs see the same data: what a checkpoint's network was trained on, against a data module."""

from __future__ import annotations

import dataclasses
import types
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from spikesparse.data.same_images import check_same_images
from spikesparse.errors import UserError

if TYPE_CHECKING:
    from spikesparse.data import CIFAR10DataModule


def check_same_input(settings: dict[str, Any], data: CIFAR10DataModule, named: str) -> None:
    """Refuse a checkpoint whose network reads the same images otherwise: by another encoder, or normalised otherwise.

    The encoders are compared as they are built, whatever they were named by: class and attributes.

    Args:
        settings: the checkpoint's, of its data.
        data: that makes the network's input here.
        named: what the user called the checkpoint by.

    Raises:
        UserError: naming what differs; or if the checkpoint's encoder cannot be built.
    """
    from spikesparse.settings.build import build_encoder

    check_same_images(settings, data, named)
    theirs = build_encoder(settings["encoder"])
    if not alike(theirs, data.encoder):
        raise UserError(
            f"{named}: that network reads what {_told(theirs)} makes; --data.encoder is {_told(data.encoder)}. Name a "
            "checkpoint of the same encoding."
        )
    normalize = settings.get("normalize", True)
    if normalize != data.normalize and data.encoder.normalization != "unit":  # pixels are that already
        raise UserError(
            f"{named}: that network was trained with --data.normalize={str(normalize).lower()}; take the same here, or "
            "another checkpoint."
        )


def alike(one: Any, other: Any) -> bool:
    """Whether two values are the same to the last digit: of the same types, down to their attributes.

    What they print does not matter, and an object is not the same as its copy to ``==`` unless its class says so.
    """
    return _alike(one, other, {})


def _alike(one: Any, other: Any, met: dict[tuple[int, int], Any]) -> bool:
    if one is other or (id(one), id(other)) in met:  # what is being compared already is alike so far
        return True
    if type(one) is not type(other):
        return False
    met[id(one), id(other)] = one, other  # kept, so that no later object has the address of an earlier one
    if isinstance(one, Tensor):
        same = one.dtype == other.dtype and one.shape == other.shape
        return same and torch.equal(one.detach().cpu(), other.detach().cpu())
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and np.array_equal(one, other)
    parts = [_parts(each) for each in (one, other)]
    if parts[0] is None or parts[1] is None:
        return bool(one == other)
    return parts[0].keys() == parts[1].keys() and all(_alike(parts[0][name], parts[1][name], met) for name in parts[0])


def _parts(value: Any) -> dict[Any, Any] | None:
    """What a value is made of, by name; None for one that knows by itself whether it equals another."""
    if isinstance(value, dict):
        return value
    if isinstance(value, list | tuple):
        return dict(enumerate(value))
    if isinstance(value, types.FunctionType):  # made twice by the same line
        cells = [cell.cell_contents for cell in value.__closure__ or ()]
        return {"code": value.__code__, "defaults": (value.__defaults__, value.__kwdefaults__), "closure": cells}
    if isinstance(value, types.MethodType):
        return {"function": value.__func__, "self": value.__self__}
    if isinstance(value, partial):
        return {"function": value.func, "args": value.args, "keywords": value.keywords}
    own_equality = not _same_as_by_identity(value) and not dataclasses.is_dataclass(value)
    slots = [name for each in type(value).__mro__ for name in vars(each).get("__slots__", ()) if hasattr(value, name)]
    if isinstance(value, type) or own_equality or not (hasattr(value, "__dict__") or slots):
        return None
    return {**{name: getattr(value, name) for name in slots}, **getattr(value, "__dict__", {})}


def _same_as_by_identity(value: object) -> bool:
    return getattr(type(value), "__eq__", None) is getattr(object, "__eq__", None)


def _told(encoder: Any) -> str:
    """An encoder with its plain attributes."""
    plain = {name: value for name, value in vars(encoder).items() if isinstance(value, bool | int | float | str)}
    return f"{type(encoder).__name__}({', '.join(f'{name}={value}' for name, value in plain.items())})"
