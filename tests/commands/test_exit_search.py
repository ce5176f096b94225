"""The search for confidences, against all that there are."""

from itertools import product

import pytest
import torch

from spikesparse.commands.exits.search import THRESHOLDS, ExitSearch, chance_of_right

T, N = 3, 400


def images(seed):
    """Networks that are right as often as they are sure, surer with each step, and spend more on some images."""
    torch.manual_seed(seed)
    confidence = (torch.rand(1, N) ** 0.5 * 0.6 + 0.3 * torch.rand(T, N).cumsum(0) / T + 0.1).clamp(0.01, 0.999)
    right = torch.rand(T, N) < confidence
    spent = (50 + 100 * torch.rand(T, N)).round().cumsum(0)
    return confidence[:-1], right, spent


def outcome(confidence, right, spent, thresholds):
    """By a loop over images and steps."""
    answers, cost = 0, 0.0
    for image in range(right.shape[1]):
        step = next((t for t, least in enumerate(thresholds) if confidence[t, image] >= least), len(thresholds))
        answers += int(right[step, image])
        cost += float(spent[step, image])
    return answers / right.shape[1], cost / right.shape[1]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_what_is_found_keeps_to_the_budget_and_is_the_best_of_all(seed):
    """All pairs of thresholds 0.02 apart; those found may lie between."""
    confidence, right, spent = images(seed)
    search = ExitSearch(confidence, right, spent)
    coarse = THRESHOLDS[1::2]
    done = torch.stack([confidence >= least for least in coarse])  # (thresholds, T - 1, N)
    all_pairs = []
    for first, second in product(range(len(coarse)), repeat=2):
        steps = torch.where(done[first, 0], 0, torch.where(done[second, 1], 1, 2))[None]
        all_pairs.append((right.gather(0, steps).double().mean().item(), spent.gather(0, steps).mean().item()))
    for share in (0.4, 0.5, 0.6, 0.8, 1.0):
        most = share * float(spent[-1].mean())
        found = search.within(most)
        assert (found.right, found.spent) == pytest.approx(outcome(confidence, right, spent, found.confidence))
        assert found.spent <= most
        best = max(answers for answers, cost in all_pairs if cost <= most)
        assert found.right >= best - 1e-9
        one = max(outcome(confidence, right, spent, [k] * (T - 1)) for k in (0.5, 0.6, 0.7, 0.8, 0.9))
        assert found.right >= one[0] or one[1] > most


def test_less_is_asked_for_where_another_step_mends_nothing():
    """The second step's answers are the third's, so it should be the last; after the first, half are mended."""
    confidence = torch.linspace(0.1, 0.9, N).repeat(2, 1)
    right = torch.ones(3, N, dtype=torch.bool)
    right[0, : N // 2] = False
    found = ExitSearch(confidence, right, torch.tensor([[1.0], [2.0], [3.0]]).expand(3, N)).within(1.6)
    assert found.right == 1.0
    assert found.spent == pytest.approx(1.5, abs=0.02)  # the grid's step on 0.8 of confidence
    assert 0.45 < found.confidence[0] <= 0.51
    assert found.confidence[1] <= 0.1


def test_steps_that_pay_only_together_are_found():
    """Four steps: the last alone mends answers, and after the second and third every image is falsely sure.

    So no threshold that is moved alone, from where all stop at once, gains anything, nor do two; and one threshold for
    all steps either stops at the second or never. By hand: the half that is unsure at first runs all four steps.
    """
    confidence = torch.stack([torch.linspace(0.1, 0.9, N), torch.full((N,), 0.95), torch.full((N,), 0.95)])
    right = torch.ones(4, N, dtype=torch.bool)
    right[:3, : N // 2] = False
    spent = torch.tensor([[1.0], [2.0], [3.0], [4.0]]).expand(4, N)
    found = ExitSearch(confidence, right, spent).within(2.6)
    assert found.right == 1.0
    assert found.spent == pytest.approx(2.5, abs=0.06)  # three more steps, on the grid's step on 0.8 of confidence
    assert found.confidence[0] == pytest.approx(0.51, abs=0.02)
    assert min(found.confidence[1:]) > 0.95


@pytest.mark.slow
def test_of_many_steps_it_finds_nearly_what_all_combinations_hold():
    """Six steps, five grades of confidence, so 7,776 combinations; easy images are sure and right early, with noise.

    What is right at all is often right by few thresholds, and better ones for a budget are many moves away.
    """
    steps, count, grades = 6, 300, torch.tensor([0.3, 0.45, 0.6, 0.75, 0.9])
    combinations = torch.cartesian_prod(*[torch.tensor([*grades.tolist(), 1.0])] * (steps - 1))
    short = []
    for seed in range(6):
        torch.manual_seed(seed)
        difficulty = torch.rand(count)
        ease = (torch.arange(1, steps + 1)[:, None] / steps) ** 0.5
        sure = ease * (1.2 - difficulty) + 0.25 * torch.randn(steps, count)
        confidence = grades[torch.bucketize(sure, grades).clamp(max=len(grades) - 1)]
        right = torch.rand(steps, count) < ease * (1.3 - difficulty)
        spent = (50 + 100 * torch.rand(steps, count)).round().cumsum(0)
        stop = torch.full((len(combinations), count), steps - 1)
        for step in reversed(range(steps - 1)):
            stop = torch.where(confidence[step] >= combinations[:, step, None] - 1e-6, step, stop)
        answers, cost = (value.double().gather(0, stop).mean(1) for value in (right, spent))
        search = ExitSearch(confidence[:-1], right, spent)
        for share in (0.3, 0.4, 0.5, 0.6, 0.7, 0.8):
            found = search.within(most := share * float(spent[-1].mean()))
            assert found.spent <= most
            short.append(float(answers[cost <= most].max()) - found.right)
    assert min(short) >= -1e-9
    assert sum(short) / len(short) < 0.0015  # of all answers; 0.0026 from what the front's own points allow alone


def test_prices_are_sought_from_both_sides():
    """Rising prices alone, from where none stops early, come to 5 right of 8; all combinations say that 6 can be."""
    confidence = [[20, 80, 60, 40, 40, 20, 60, 40], [80, 95, 80, 80, 40, 20, 60, 60], [80, 60, 60, 80, 95, 95, 20, 40]]
    confidence = torch.tensor([*confidence, [80, 60, 80, 60, 20, 60, 20, 40]]) / 100
    right = [[0, 1, 1, 1, 0, 0, 1, 0], [1, 0, 1, 0, 1, 0, 1, 1], [0, 1, 1, 1, 1, 0, 1, 1], [0, 0, 0, 1, 1, 1, 0, 0]]
    right = torch.tensor([*right, [1, 1, 1, 0, 0, 1, 0, 0]]).bool()
    spent = [[2, 1, 2, 1, 1, 4, 2, 1], [3, 5, 4, 3, 3, 6, 6, 5], [5, 6, 5, 7, 4, 7, 7, 6], [9, 7, 7, 8, 6, 11, 11, 7]]
    spent = torch.tensor([*spent, [13, 11, 8, 9, 8, 12, 13, 11]]).float()
    combinations = torch.cartesian_prod(*[torch.tensor([0.2, 0.4, 0.6, 0.8, 0.95, 1.0])] * 4)
    stop = torch.full((len(combinations), 8), 4)
    for step in reversed(range(4)):
        stop = torch.where(confidence[step] >= combinations[:, step, None] - 1e-6, step, stop)
    answers, cost = (value.double().gather(0, stop).mean(1) for value in (right, spent))
    found = ExitSearch(confidence, right, spent).within(2.85)
    assert found.right == answers[cost <= 2.85].max() == 6 / 8
    assert found.spent == 2.75


def test_of_two_choices_as_often_right_the_one_on_the_way_from_all_steps_is_found():
    """By hand: half are right after all three steps, and half where five of six stop at the second; no more ever are.

    A threshold for the first step that stops the fourth image, right only there, stops three others wrongly.
    """
    confidence = torch.tensor([[0.9, 0.5, 0.5, 0.5, 0.3, 0.5], [0.5, 0.9, 0.7, 0.7, 0.9, 0.7]])
    right = torch.tensor([[0, 0, 0, 1, 0, 0], [0, 0, 1, 0, 1, 0], [1, 1, 0, 0, 1, 0]]).bool()
    spent = torch.tensor([[1.0], [2.0], [3.0]]).expand(3, 6)
    found = ExitSearch(confidence, right, spent).within(3.0)
    assert (found.right, found.spent) == (0.5, pytest.approx((5 * 2 + 3) / 6))
    assert outcome(confidence, right, spent, found.confidence) == (found.right, pytest.approx(found.spent))


@pytest.mark.parametrize("count", [100, 107, 10, 2000])
def test_chance_of_being_right_is_that_of_images_of_like_confidence(count):
    """The surest and the least sure images stand together, in at most 20 groups of at least 25 each."""
    torch.manual_seed(5)
    confidence, right = torch.rand(2, count), torch.rand(2, count) < 0.5
    found = chance_of_right(confidence, right)
    groups = min(20, max(1, count // 25))
    for step in range(2):
        order = sorted(range(count), key=lambda image: float(confidence[step, image]))
        for group in range(groups):
            members = [image for rank, image in enumerate(order) if int(rank * groups / count + 1e-9) == group]
            share = sum(bool(right[step, image]) for image in members) / len(members)
            assert all(found[step, image].item() == pytest.approx(share) for image in members)
            assert len(members) >= min(25, count)


def test_a_network_of_one_step_and_a_budget_below_it():
    search = ExitSearch(torch.empty(0, 2), torch.tensor([[True, False]]), torch.tensor([[3.0, 5.0]]))
    assert search.within(4.0).confidence == []
    assert (search.within(4.0).right, search.within(4.0).spent) == (0.5, 4.0)
    assert search.within(3.9) is None


def test_a_silent_network_is_run_to_where_it_is_right():
    right = torch.tensor([[False, False], [True, True], [False, True]])
    found = ExitSearch(torch.full((2, 2), 0.5), right, torch.zeros(3, 2)).within(0.0)
    assert (found.right, found.spent) == (1.0, 0.0)
    assert found.confidence[1] <= 0.5 < found.confidence[0]


def test_who_is_as_sure_as_is_asked_for_stops_and_what_is_spent_may_be_all_that_is_allowed():
    """Sure at 0.50 and 0.49: only the first image is right at once, only the second is mended by the other step."""
    confidence, right = torch.tensor([[0.5, 0.49]]), torch.tensor([[True, False], [False, True]])
    spent = torch.tensor([[1.0, 3.0], [4.0, 6.0]])
    search = ExitSearch(confidence, right, spent)
    for most in (3.5, 3.9):
        found = search.within(most)
        assert (found.confidence, found.right, found.spent) == ([0.5], 1.0, 3.5)
        assert outcome(confidence, right, spent, found.confidence) == (1.0, 3.5)
    for most in (2.0, 3.4):  # all stop at once
        found = search.within(most)
        assert (found.right, found.spent) == (0.5, 2.0)
        assert outcome(confidence, right, spent, found.confidence) == (0.5, 2.0)
    assert search.within(1.99) is None


def test_of_what_is_as_often_right_the_least_is_spent():
    """Every image is right after the first step; of the thresholds that say so, none may let one go on."""
    confidence = torch.tensor([[0.3, 0.9], [0.6, 0.9]])
    found = ExitSearch(confidence, torch.ones(3, 2, dtype=torch.bool), torch.tensor([[1.0], [2.0], [3.0]]).expand(3, 2))
    assert [(found.within(most).right, found.within(most).spent) for most in (1.0, 2.0, 3.0)] == [(1.0, 1.0)] * 3


def test_without_images_there_is_nothing_to_choose_on():
    with pytest.raises(ValueError, match="no images"):
        ExitSearch(torch.empty(2, 0), torch.empty(3, 0, dtype=torch.bool), torch.empty(3, 0))
