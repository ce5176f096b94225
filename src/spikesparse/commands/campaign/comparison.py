"""Is it iso-accuracy? Sparse recipes beside their twin, over seeds, with intervals.

A recipe is *iso-accurate* if its mean drop in test accuracy is at most 0.2 point and the upper end of the drop's 95 %
interval at most 0.5; *within a point* if both are at most 1; *less accurate* if all of the interval lies above 1, and
else undecided. The interval is a bootstrap over seeds and, within a seed, over test images: twin and sparse network of
one seed are measured on the same drawn images. Fewer than five seeds decide nothing.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from spikesparse.commands.campaign.rows import correct_of, rows_of

SEEDS = 5  # that a verdict needs
METRICS = {  # columns of the rows: their heading, and how a mean is written
    "spikes_per_image": ("spikes/image", ",.0f"),
    "synops_per_image": ("SynOps/image", ",.0f"),
    "energy_uj_per_image": ("uJ/image", ".2f"),
    "steps_per_image": ("steps/image", ".2f"),
}
DRAWS = 200_000  # so that another seed of theirs changes no end by more than 0.01


@dataclass(frozen=True)
class Comparison:
    """A recipe beside its twin; drops and their interval in points, the change of a count as a fraction.

    Attributes:
        recipe: its name.
        seeds: those that both have.
        accuracy: mean test accuracy of the recipe, in percent.
        count: mean of its count per image.
        change: mean of the count over that of the twin's, less one.
        drop: mean drop in test accuracy.
        low: lower end of the drop's 95 % interval.
        high: upper end.
    """

    recipe: str
    seeds: int
    accuracy: float
    count: float
    change: float
    drop: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """What the numbers allow to say."""
        if self.seeds < SEEDS:
            return f"open: {self.seeds} of {SEEDS} seeds"
        if self.drop <= 0.2 and self.high <= 0.5:
            return "iso-accuracy"
        if self.drop <= 1.0 and self.high <= 1.0:
            return "within a point"
        return "less accurate" if self.low > 1.0 else "undecided"


def drop_interval(twin: np.ndarray, sparse: np.ndarray, draws: int = DRAWS, seed: int = 0) -> tuple[float, float]:
    """95 % interval of the mean drop in accuracy, in points.

    Args:
        twin: bool (seeds, images), which images the twin of each seed classified right.
        sparse: the same of the sparse network, on the same images.
        draws: of the bootstrap.
        seed: of its random numbers.
    """
    rng = np.random.default_rng(seed)
    lost = twin.astype(np.int8) - sparse.astype(np.int8)
    seeds, images = lost.shape
    # Images drawn with replacement are so many won, kept and lost: a draw of these three counts is a draw of images.
    shares = np.stack([(lost == change).mean(1) for change in (-1, 0, 1)], 1)
    counts = rng.multinomial(images, shares[rng.integers(seeds, size=(draws, seeds))])  # (draws, seeds, 3)
    means = (counts[..., 2] - counts[..., 0]).mean(1) / images
    low, high = np.quantile(100 * means, [0.025, 0.975])
    return float(low), float(high)


def compare(
    campaign: str, twin: str, metric: str, results: Path, chosen: Container[int] | None = None
) -> list[Comparison]:
    """Every recipe of a campaign beside its twin, on those of the chosen seeds (all) that both have; the twin first.

    Args:
        campaign: whose recipes.
        twin: a recipe of it, or <campaign>/<recipe> of another.
        metric: column of the count.
        results: folder of the rows.
        chosen: seeds.
    """
    home, _, name = twin.rpartition("/")
    twins, recipes = _measured(home or campaign, results, chosen), _measured(campaign, results, chosen)
    recipes = {twin: twins.get(name, {}), **{recipe: recipes[recipe] for recipe in sorted(recipes.keys() - {twin})}}
    found = []
    for recipe, of_seed in recipes.items():
        pairs = [(twins[name][seed], of_seed[seed]) for seed in sorted(of_seed) if seed in twins.get(name, {})]
        if not pairs:
            continue
        before, after = (np.stack([run.right for run in runs]) for runs in zip(*pairs, strict=True))
        counts = [np.mean([float(run.row[metric]) for run in runs]) for runs in zip(*pairs, strict=True)]
        low, high = drop_interval(before, after) if recipe != twin else (0.0, 0.0)
        found.append(
            Comparison(
                recipe,
                len(pairs),
                100 * float(after.mean()),
                float(counts[1]),
                float(counts[1] / counts[0] - 1),
                100 * float(before.mean() - after.mean()),
                low,
                high,
            )
        )
    return found


class _Measured(NamedTuple):
    row: dict[str, str]
    right: np.ndarray


def _measured(campaign: str, results: Path, chosen: Container[int] | None) -> dict[str, dict[int, _Measured]]:
    """Recipe -> seed -> what was measured, and which test images were right."""
    right = dict(correct_of(campaign, results))
    found: dict[str, dict[int, _Measured]] = {}
    for row in rows_of(campaign, results):
        recipe, seed = row["recipe"], int(row["seed"])
        if chosen is None or seed in chosen:
            found.setdefault(recipe, {})[seed] = _Measured(row, right[f"{recipe}/{seed}"])
    return found


def table(comparisons: list[Comparison], metric: str) -> str:
    """As Markdown."""
    name, written = METRICS[metric]
    lines = [
        f"| recipe | seeds | test accuracy | {name} | change | drop in points [95 %] | verdict |",
        "|---|---|---|---|---|---|---|",
    ]
    for c in comparisons:
        drop = "" if c is comparisons[0] else f"{c.drop:+.2f} [{c.low:+.2f}, {c.high:+.2f}]"
        change, verdict = ("", "") if c is comparisons[0] else (f"{100 * c.change:+.1f} %", c.verdict)
        lines.append(
            f"| {c.recipe} | {c.seeds} | {c.accuracy:.2f} % | {c.count:{written}} | {change} | {drop} | {verdict} |"
        )
    return "\n".join(lines)
