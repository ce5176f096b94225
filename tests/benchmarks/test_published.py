"""What others published, as it is drawn beside a front."""

from itertools import pairwise

from spikesparse.commands.pareto.published import ABSOLUTE, RELATIVE


def test_sorbaros_first_layer_is_what_a_walk_over_its_borders_counts():
    (sorbaro,) = ABSOLUTE
    reached = sum(0 <= y + dy < 32 for y in range(32) for dy in (-1, 0, 1))
    assert reached**2 * 3 * 96 == sorbaro.first_layer
    assert f"{sorbaro.first_layer / 1e6:.2f}M MACs" in sorbaro.note


def test_sorbaros_points_are_a_front():
    (sorbaro,) = ABSOLUTE
    assert (sorbaro.points[0], sorbaro.points[-1]) == ((2179, 91.75), (44, 77.15))
    assert all(more[0] < less[0] and more[1] < less[1] for less, more in pairwise(sorbaro.points))


def test_allreds_points_are_those_of_the_abstract():
    (allred,) = RELATIVE
    assert allred.points == ((0.701, 0.0), (0.733, 1.0))
    assert "up to" in allred.label
