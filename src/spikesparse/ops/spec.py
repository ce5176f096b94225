"""What is fixed about a layer of neurons."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import count
from typing import Any

from spikesparse.ops.surrogate import Surrogate, is_built_in


@dataclass(frozen=True, eq=False)
class NeuronSpec:
    """What a neuron layer does, apart from its decay and threshold.

    Attributes:
        surrogate: derivative that stands in for the spike's.
        soft_reset: subtract the threshold after a spike instead of returning to zero.
        detach_reset: let no gradient flow through the spike in the reset.
        strict: fire only strictly above the threshold.
        key: its name: what the operators of torch's dispatcher, which take no objects, are given in its place. Two
            specs have one key only if they do the same.
    """

    surrogate: Surrogate
    soft_reset: bool = False
    detach_reset: bool = True
    strict: bool = False
    key: str = field(init=False, repr=False)

    def __post_init__(self) -> None:
        # A custom class may have attributes that its repr does not show, and two classes may share a name. So only
        # built-in surrogates have their repr as key, which is the same in every process, as torch.compile's caches
        # need; any other surrogate has a number.
        own = f"{type(self.surrogate).__qualname__} #{next(_NUMBERS)}"
        key = repr(self) if is_built_in(self.surrogate) else own
        object.__setattr__(self, "key", key)
        _BY_KEY[key] = self

    def __reduce__(self) -> tuple[type[NeuronSpec], tuple[Any, ...]]:
        """A copy, here or in another process, is one more spec, with a key of its own."""
        return type(self), (self.surrogate, self.soft_reset, self.detach_reset, self.strict)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """What was pickled before there was ``__reduce__``."""
        self.__dict__.update(state)
        self.__post_init__()


_NUMBERS = count()
# For good: a compiled backward pass knows nothing but the key, and may run when the neurons are gone.
_BY_KEY: dict[str, NeuronSpec] = {}


def spec_of(key: str) -> NeuronSpec:
    """The spec of that key."""
    return _BY_KEY[key]
