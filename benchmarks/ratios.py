"""Statistics of timings that were taken side by side: medians, spreads, paired ratios and their intervals."""

from __future__ import annotations

import random
import statistics
from collections.abc import Sequence


def interval(values: Sequence[float], draws: int = 2000) -> tuple[float, float]:
    """95 % bootstrap interval of the median."""
    generator = random.Random(0)
    medians = sorted(statistics.median(generator.choices(values, k=len(values))) for _ in range(draws))
    return medians[int(0.025 * draws)], medians[int(0.975 * draws)]


def interquartile(values: Sequence[float]) -> float:
    """Distance between the quartiles; 0 for a single value."""
    if len(values) < 2:
        return 0.0
    first, _, third = statistics.quantiles(values, n=4, method="inclusive")
    return third - first


def paired_ratios(values: Sequence[float], base: Sequence[float]) -> list[float]:
    """Each value over the one that was measured beside it, in the same round."""
    return [value / other for value, other in zip(values, base, strict=True)]
