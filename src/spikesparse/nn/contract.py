"""Classes that say what is asked of a module, and leave open whose it is."""

from __future__ import annotations

from abc import ABC
from typing import Any

from torch import nn


class Contract(nn.Module, ABC):
    """Base of a class that states what a module must do; any torch module counts as one of it.

    The command line takes a class path by the type that is asked for. So nobody has to inherit from us, and the help
    names our own few classes and not all of torch's.
    """

    @classmethod
    def __subclasshook__(cls, other: type) -> Any:
        return issubclass(other, nn.Module) if Contract in cls.__bases__ else NotImplemented
