"""What stands behind docs/results.md and is no part of the package: an idea that was tried, and the picture."""

from pathlib import Path

import numpy as np
import pytest
import torch

from spikesparse import SpikePenalty, SpikingVGG
from spikesparse.commands.campaign.lookup import all_plans
from spikesparse.commands.campaign.plan import read_plan
from spikesparse.commands.campaign.rows import COLUMNS, add_row

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def _benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def test_guard_prices_the_shortfall_of_each_layer():
    from ideas import GuardedPenalty

    net = SpikingVGG("4-P-F6", input_shape=(3, 8, 8), timesteps=3)  # in training mode: BatchNorm keeps it firing
    with torch.no_grad():
        tally = net(torch.rand(5, 3, 8, 8)).tally
    rates = [float(s.sum()) / (5 * 3 * n) for s, n in zip(tally.spikes, tally.layers.neurons.values(), strict=True)]
    least = 2 * max(rates)
    expected = float(SpikePenalty()(tally)) + sum(0.5 * (1 - rate / least) ** 2 for rate in rates)
    assert float(GuardedPenalty(least, 0.5)(tally)) == pytest.approx(expected, rel=1e-6)
    assert float(GuardedPenalty(min(rates), 0.5)(tally)) == pytest.approx(float(SpikePenalty()(tally)), rel=1e-6)


def test_figure_shows_each_recipe_beside_its_own_twin(tmp_path):
    """One seed, 40 images: the narrow network loses 4 of them at half the spikes, the wide one 2 at a quarter."""
    from figure_claim import LINES, picture

    recipes = (("twin", 100, 40), ("quiet_70", 50, 36), ("wide_twin", 200, 30), ("wide_quiet_70", 50, 28))
    for recipe, spikes, right in recipes:
        row = dict.fromkeys(COLUMNS, "") | {"recipe": recipe, "seed": 0, "spikes_per_image": spikes}
        add_row("width_proxy", row, np.arange(40) < right, tmp_path)
    (axes,) = picture(tmp_path).axes
    points = {tuple(np.round(line.get_xydata()[0], 6)) for line in axes.lines if len(line.get_xdata()) == 1}
    assert {(50.0, 10.0), (75.0, 5.0)} <= points
    made = {(run.campaign, run.recipe) for path in all_plans() for run in read_plan(path).runs}
    assert {(line.campaign, recipe) for line in LINES for recipe in (line.twin, *line.recipes)} <= made
