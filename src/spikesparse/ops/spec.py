"""What is fixed about a layer of neurons."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from spikesparse.ops.surrogate import Surrogate


@dataclass(frozen=True)
class NeuronSpec:
    """What a neuron layer does, apart from its decay and threshold.

    Attributes:
        surrogate: derivative that stands in for the spike's.
        soft_reset: subtract the threshold after a spike instead of returning to zero.
        detach_reset: let no gradient flow through the spike in the reset.
        strict: fire only strictly above the threshold.
        key: its name: what the operators of torch's dispatcher, which take no objects, are given in its place.
    """

    surrogate: Surrogate
    soft_reset: bool = False
    detach_reset: bool = True
    strict: bool = False
    key: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        key = f"{type(self.surrogate).__module__}.{self!r}"
        object.__setattr__(self, "key", key)
        _BY_KEY[key] = self

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled as its arguments: made anew in another process, where its key is not known yet."""
        return type(self), (self.surrogate, self.soft_reset, self.detach_reset, self.strict)


_BY_KEY: dict[str, NeuronSpec] = {}


def spec_of(key: str) -> NeuronSpec:
    """The spec of that key."""
    return _BY_KEY[key]
