"""Counter-based random numbers against the published vectors and against Python integers."""

import random

import pytest
import torch

from spikesparse.data.philox import AUGMENT, POISSON, SHUFFLE, SPLIT, permutation, philox, uniform, words

# Known answers of philox4x32-10 from Random123's kat_vectors: counter, key, result.
KNOWN = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


def unhex(text):
    return tuple(int(word, 16) for word in text.split())


@pytest.mark.parametrize(("counter", "key", "result"), KNOWN)
def test_known_answers(counter, key, result):
    drawn = philox(unhex(key), tuple(torch.tensor(word) for word in unhex(counter)))
    assert tuple(word.item() for word in drawn) == unhex(result)


def philox_of_integers(key, counter):
    """Salmon et al. 2011, section 4.2, on Python's unbounded integers."""
    (k0, k1), (c0, c1, c2, c3) = key, counter
    for _ in range(10):
        high0, low0 = divmod(0xD2511F53 * c0, 2**32)
        high1, low1 = divmod(0xCD9E8D57 * c2, 2**32)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
    return c0, c1, c2, c3


@pytest.mark.parametrize(("counter", "key", "result"), KNOWN)
def test_the_implementation_on_integers_is_right_itself(counter, key, result):
    assert philox_of_integers(unhex(key), unhex(counter)) == unhex(result)


def test_equals_the_implementation_on_integers():
    draw = random.Random(0)
    counters = [[draw.getrandbits(32) for _ in range(4)] for _ in range(100)]
    counters += [[draw.choice([0, 1, 2**31 - 1, 2**31, 2**32 - 1]) for _ in range(4)] for _ in range(100)]
    key = draw.getrandbits(32), draw.getrandbits(32)
    drawn = torch.stack(philox(key, tuple(torch.tensor(counters).unbind(1))), dim=1)
    assert drawn.dtype == torch.int64
    assert drawn.tolist() == [list(philox_of_integers(key, counter)) for counter in counters]


def test_counters_broadcast():
    rows, columns, zero = torch.arange(3)[:, None], torch.arange(2), torch.tensor(0)
    drawn = philox((1, 2), (rows, columns, zero, zero))
    assert drawn[0].shape == (3, 2)
    expected = [[philox_of_integers((1, 2), (row, column, 0, 0))[0] for column in range(2)] for row in range(3)]
    assert drawn[0].tolist() == expected


def test_uniform_draws_are_in_the_half_open_interval():
    draws = uniform(1, POISSON, 0, torch.arange(64), steps=4, count=1000)
    assert draws.shape == (4, 64, 1000)
    assert draws.dtype == torch.float32
    assert 0 <= draws.min() < 1e-4
    assert 1 - 1e-4 < draws.max() < 1


def test_the_largest_word_is_still_below_one():
    """2**32 - 1 scaled in float32 would round up to 1; the 24 high bits do not."""
    assert torch.tensor((2**32 - 1) >> 8).float() * 2.0**-24 < 1
    draws = uniform(1, POISSON, 0, torch.arange(64), steps=1, count=1000).double()
    assert torch.equal((draws * 2**24).round(), draws * 2**24)


def test_mean_and_variance_of_uniform_draws():
    draws = uniform(5, POISSON, 3, torch.arange(100), steps=5, count=200).double()
    # 100,000 draws: the mean's standard error is sqrt(1 / 12 / n) = 0.0009, the variance's sqrt(1 / 180 / n) = 0.0002
    assert draws.mean().item() == pytest.approx(1 / 2, abs=0.004)
    assert draws.var().item() == pytest.approx(1 / 12, abs=0.001)


@pytest.mark.parametrize("axis", [0, 1, 2], ids=["steps", "samples", "positions"])
def test_neighbouring_draws_are_uncorrelated(axis):
    draws = uniform(5, POISSON, 3, torch.arange(40), steps=40, count=40).double().movedim(axis, 0)
    pair = torch.corrcoef(torch.stack([draws[1:].flatten(), draws[:-1].flatten()]))[0, 1]
    assert abs(pair.item()) < 5 / 62_400**0.5


def test_a_sample_s_draws_do_not_depend_on_its_batch():
    whole = uniform(7, POISSON, 2, torch.arange(10), steps=3, count=9)
    other = uniform(7, POISSON, 2, torch.tensor([8, 3]), steps=3, count=9)
    assert torch.equal(other, whole[:, [8, 3]])


def test_the_first_draws_do_not_depend_on_how_many_are_asked_for():
    index = torch.tensor([3, 4])
    longer = uniform(7, POISSON, 2, index, steps=5, count=11)
    assert torch.equal(uniform(7, POISSON, 2, index, steps=3, count=6), longer[:3, :, :6])


@pytest.mark.parametrize(
    "other",
    [
        {"seed": 8},
        {"seed": 7 + 2**32},  # a seed's high bits count
        {"seed": -7},
        {"stream": AUGMENT},
        {"epoch": 3},
        {"index": torch.tensor([6])},
    ],
)
def test_another_seed_stream_epoch_or_sample_draws_otherwise(other):
    settings = {"seed": 7, "stream": POISSON, "epoch": 2, "index": torch.tensor([5])}
    first, second = (uniform(**case, steps=2, count=50) for case in (settings, settings | other))
    assert (first == second).double().mean() < 0.05


def test_uniform_draws_and_words_come_from_the_documented_counters():
    """So that no refactoring changes what a seed gives: key (seed, stream), counter (block, step, sample, epoch)."""
    draws = uniform(7, POISSON, 2, torch.tensor([5]), steps=2, count=7)
    for step in range(2):
        blocks = [philox_of_integers((7, POISSON), (block, step, 5, 2)) for block in range(2)]
        assert draws[step, 0].tolist() == [(word >> 8) / 2**24 for block in blocks for word in block][:7]
    four = words(7, AUGMENT, 2, torch.tensor([5, 6]))
    assert [word[1].item() for word in four] == list(philox_of_integers((7, AUGMENT), (0, 0, 6, 2)))


@pytest.mark.parametrize("size", [0, 1, 2, 1000])
def test_a_permutation_has_every_index_once(size):
    order = permutation(1, SHUFFLE, 0, size)
    assert order.dtype == torch.int64
    assert sorted(order.tolist()) == list(range(size))


@pytest.mark.parametrize("other", [(2, SHUFFLE, 0), (1, SPLIT, 0), (1, SHUFFLE, 1)], ids=["seed", "stream", "epoch"])
def test_permutations_differ(other):
    assert not torch.equal(permutation(1, SHUFFLE, 0, 50), permutation(*other, 50))


def test_a_permutation_is_repeatable():
    assert torch.equal(permutation(1, SHUFFLE, 4, 50), permutation(1, SHUFFLE, 4, 50))


def test_permutations_put_an_index_anywhere():
    places = [permutation(1, SHUFFLE, epoch, 4).tolist().index(0) for epoch in range(400)]
    # each of four places 100 times, with a standard deviation of 8.7
    assert all(60 < places.count(place) < 140 for place in range(4))


def test_draws_leave_torch_s_generator_alone():
    before = torch.get_rng_state()
    uniform(1, POISSON, 0, torch.arange(3), steps=1, count=3)
    permutation(1, SHUFFLE, 0, 5)
    assert torch.equal(torch.get_rng_state(), before)
