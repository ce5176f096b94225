"""Surrogate gradients: what stands in for the derivative of the spike.

Each takes the distance d = h - threshold of the membrane potential from the threshold and returns the stand-in for
ds/dh at that distance. ``slope`` sharpens it: the larger, the narrower.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from spikesparse.errors import ArgumentError, choose


@dataclass(frozen=True)
class Surrogate:
    """Base class. ``slope`` > 0 is in units of 1 / membrane potential."""

    slope: float = 1.0
    name: ClassVar[str]

    def derivative(self, distance: Tensor, threshold: float | Tensor, spikes: Tensor) -> Tensor:
        """The stand-in for ds/dh at ``distance`` = h - threshold, where ``spikes`` came out; same shape."""
        raise NotImplementedError

    def trace_correction(self, spikes: Tensor, decay: float | Tensor, dtype: torch.dtype) -> Tensor | None:
        """A factor on every step's spike gradient from the neuron's whole train ``spikes`` (T, ...), or None."""
        return None


@dataclass(frozen=True)
class Atan(Surrogate):
    """(slope / 2) / (1 + (pi / 2 * slope * d)^2). Fang et al. 2021, arXiv 2007.05785."""

    slope: float = 2.0
    name = "atan"

    def derivative(self, distance: Tensor, threshold: float | Tensor, spikes: Tensor) -> Tensor:
        return (distance * (math.pi / 2 * self.slope)).square_().add_(1.0).reciprocal_().mul_(self.slope / 2)


@dataclass(frozen=True)
class Sigmoid(Surrogate):
    """slope * sigmoid(slope * d) * (1 - sigmoid(slope * d)). Zenke & Vogels 2021, doi 10.1162/neco_a_01367."""

    slope: float = 4.0
    name = "sigmoid"

    def derivative(self, distance: Tensor, threshold: float | Tensor, spikes: Tensor) -> Tensor:
        p = torch.sigmoid(distance * self.slope)
        return p * (1.0 - p) * self.slope


@dataclass(frozen=True)
class FastSigmoid(Surrogate):
    """1 / (1 + slope * |d|)^2. SuperSpike: Zenke & Ganguli 2018, doi 10.1162/neco_a_01086."""

    slope: float = 10.0
    name = "fast_sigmoid"

    def derivative(self, distance: Tensor, threshold: float | Tensor, spikes: Tensor) -> Tensor:
        return distance.abs().mul_(self.slope).add_(1.0).square_().reciprocal_()


@dataclass(frozen=True)
class Triangle(Surrogate):
    """max(0, 1 - slope * |d|). Esser et al. 2016, doi 10.1073/pnas.1604850113; Bellec et al. 2018, arXiv 1803.09574."""

    slope: float = 1.0
    name = "triangle"

    def derivative(self, distance: Tensor, threshold: float | Tensor, spikes: Tensor) -> Tensor:
        return distance.abs().mul_(-self.slope).add_(1.0).clamp_(min=0.0)


@dataclass(frozen=True)
class Rectangle(Surrogate):
    """slope where |d| < 1 / (2 * slope), else 0. Wu et al. 2018 (STBP), doi 10.3389/fnins.2018.00331, curve h1."""

    slope: float = 1.0
    name = "rectangle"

    def derivative(self, distance: Tensor, threshold: float | Tensor, spikes: Tensor) -> Tensor:
        return (distance.abs() < 0.5 / self.slope).to(distance.dtype).mul_(self.slope)


@dataclass(frozen=True)
class Lee2020(Surrogate):
    """slope / threshold where the neuron fired, else 0, corrected for the leak.

    Lee et al. 2020, doi 10.3389/fnins.2020.00119: the correction of a neuron's spike gradient, in every step, is
    [LF > 0.001] + ln(decay) * LF / N with N its spikes over all steps and LF its leaky-filtered spike count at the
    end (LF[t] = decay * LF[t-1] + s[t]). A neuron that never fires gets no gradient, so it can never be revived.
    """

    slope: float = 1.0
    name = "lee2020"

    def derivative(self, distance: Tensor, threshold: float | Tensor, spikes: Tensor) -> Tensor:
        return spikes * (self.slope / threshold)

    def trace_correction(self, spikes: Tensor, decay: float | Tensor, dtype: torch.dtype) -> Tensor | None:
        filtered = torch.zeros_like(spikes[0], dtype=dtype)
        for s in spikes:
            filtered = filtered * decay + s
        total = spikes.sum(0, dtype=dtype)
        log_decay = torch.log(torch.as_tensor(decay, dtype=dtype, device=filtered.device))
        return (filtered > 1e-3).to(dtype) + log_decay * filtered / total.clamp(min=1.0)


SURROGATES: dict[str, type[Surrogate]] = {
    cls.name: cls for cls in (Atan, Sigmoid, FastSigmoid, Triangle, Rectangle, Lee2020)
}


def is_built_in(surrogate: Surrogate) -> bool:
    """Is it one of those above, so that class and slope are all there is to it?"""
    ours = type(surrogate) in SURROGATES.values() and type(surrogate).__module__ == __name__
    return ours and set(vars(surrogate)) == {"slope"} and type(surrogate.slope) in (int, float)


def surrogate(name: str | Surrogate, slope: float | None = None) -> Surrogate:
    """A surrogate by its name, with its own default slope unless one is given.

    Raises:
        UserError: for an unknown name, or a slope that is not positive.
    """
    if isinstance(name, Surrogate):
        return name
    cls = SURROGATES[choose("surrogate", name, SURROGATES, "surrogate")]
    if slope is None:
        return cls()
    if not slope > 0:
        raise ArgumentError("surrogate_slope", slope, f"it must be above 0; {name}'s own is {cls().slope}.")
    return cls(slope)
