"""Annealing schedules: how far the sparsity weight has come, as a function of the ramp's progress."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

SHARPNESS = 5.0  # of the exponential schedules: exp(-5) is under 1 %
STEPS = 4  # of the step schedule


def _constant(progress: float) -> float:
    return 1.0


def _linear(progress: float) -> float:
    return progress


def _cosine(progress: float) -> float:
    return (1.0 - math.cos(math.pi * progress)) / 2.0


def _exponential(progress: float) -> float:
    return math.expm1(SHARPNESS * progress) / math.expm1(SHARPNESS)


def _step(progress: float) -> float:
    return math.floor(progress * STEPS) / STEPS


def _cooling(progress: float) -> float:
    return 1.0 - (math.exp(-SHARPNESS * progress) - math.exp(-SHARPNESS)) / (1.0 - math.exp(-SHARPNESS))


#: The names once more as a type: jsonargparse takes a name for one before it looks for a function of that name.
ScheduleName = Literal["constant", "linear", "cosine", "exponential", "step", "cooling"]

#: name -> fraction of the way from start to end value at ``progress`` in [0, 1]; each ends at 1.
SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": _constant,  # the end value from the first epoch of the ramp on
    "linear": _linear,
    "cosine": _cosine,  # slow, fast, slow
    "exponential": _exponential,  # slow, then ever faster
    "step": _step,  # in four equal jumps
    # The paper's idea at its word: a temperature cools geometrically, as in simulated annealing, and the weight is
    # end * (1 - temperature); the temperature is shifted and scaled to run from exactly 1 to exactly 0.
    "cooling": _cooling,
}
