"""Which confidences of early exit answer the most images right for what they spend, one for each step but the last."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

#: Thresholds that are tried, 0.01 to 1. Finer ones would follow the noise of the images that they are chosen on.
THRESHOLDS = [k / 100 for k in range(1, 101)]
#: Prices of a network's whole work, in right answers an image, that are tried.
_PRICES = torch.logspace(1, -3, 61, dtype=torch.float64).tolist()

#: Bins of confidence, at most, and images that each is to have.
_BINS, _IMAGES = 20, 25

_Judge = Callable[[Tensor, Tensor], Tensor]


def chance_of_right(confidence: Tensor, right: Tensor) -> Tensor:
    """How often images of such a confidence are right after a step: the mean over those of like rank.

    Choosing on these rather than on single answers, a search follows less of the noise of the images at hand: the more
    steps, the more there is to choose, and to be misled by.

    Args:
        confidence: (T, N), after each step.
        right: bool (T, N), is the answer after so many steps right?

    Returns:
        Float64 (T, N).
    """
    images = right.shape[1]
    bins = max(1, min(_BINS, images // _IMAGES))
    rank = confidence.argsort(1).argsort(1)  # of each image after each step
    place = rank * bins // max(1, images)
    empty = right.new_zeros(len(right), bins, dtype=torch.float64)
    sums, sizes = (empty.scatter_add(1, place, each) for each in (right.double(), torch.ones_like(right).double()))
    return (sums / sizes).gather(1, place)


@dataclass(frozen=True)
class Choice:
    """Confidences, and what came of them on the images that they were chosen on.

    Attributes:
        confidence: after each step but the last.
        right: share of the images answered right, or expected to be.
        spent: per image.
    """

    confidence: list[float]
    right: float
    spent: float


class ExitSearch:
    """Trades right answers against what is spent, on images whose answers after each step are known.

    For a price mu the confidences are sought that make ``right - mu * spent`` the largest: one step's at a time, by
    trying all, given those of the others, until none changes. Falling prices, from where all stop at once, and rising
    ones, from where none stops early, give a front: from the first side a step that only pays where later ones go on
    is not found. Of a front there is nothing between two of its points, so two are made better within a budget: the
    best that it allows, and the next better one, brought down to it where that costs least. There two steps that
    follow each other are tried together, since what one of them is to spend more the other has to save.

    Args:
        confidence: (T - 1, N), of each image after each step but the last.
        right: (T, N), is the answer after so many steps right, or the chance that it is?
        spent: (T, N), spikes or operations up to each step: more with each.

    Raises:
        ValueError: without images.
    """

    def __init__(self, confidence: Tensor, right: Tensor, spent: Tensor) -> None:
        if not right.numel():
            raise ValueError("there are no images to choose confidences on")
        # An image is done at the first k of the thresholds, counted from below.
        self._done = torch.bucketize(confidence.contiguous(), confidence.new_tensor(THRESHOLDS), right=True)
        self._right, self._spent = right.double(), spent.double()
        starts = [[k] * len(confidence) for k in range(len(THRESHOLDS))]  # one confidence for all steps is a choice too
        whole = float(self._spent[-1].mean()) or 1.0  # a silent network spends nothing
        for settled, prices in ((starts[0], _PRICES), (starts[-1], reversed(_PRICES))):
            for price in prices:
                settled = self._settled(settled, _Priced(price / whole))
                starts.append(settled)
        self._front = [(needed, *self._outcome(needed)) for needed in starts]

    def within(self, most: float) -> Choice | None:
        """The most right answers for at most so much per image; None if even one step spends more."""
        allowed = [(right, -spent, needed) for needed, right, spent in self._front if spent <= most]
        if not allowed:
            return None
        best, _, needed = max(allowed)
        starts = [needed]
        if better := [(spent, needed) for needed, right, spent in self._front if spent > most and right > best]:
            starts.append(self._brought_down(min(better)[1], most) or needed)
        polished = [self._polished(needed, most) for needed in starts]
        found = [Choice([THRESHOLDS[k] for k in needed], *self._outcome(needed)) for needed in polished]
        return max(found, key=lambda choice: (choice.right, -choice.spent))

    def _brought_down(self, needed: list[int], most: float) -> list[int] | None:
        """Move one threshold after another to where an answer lost saves the most, until what is spent is allowed.

        A move may save far more than it has to: so of all that would have ended it on the way, the one that leaves the
        most right does. None where no threshold that is moved alone saves anything.
        """
        found, judge, kept = None, _Allowed(most), -torch.inf
        right, spent = self._outcome(needed)
        while spent > most:
            moves = []
            for step in range(len(needed)):
                rights, spents = self._outcomes(needed, step)
                saved = spent - spents
                price = torch.where(saved > 1e-12 * spent, (right - rights) / saved, torch.inf)
                moves.append((float(price.min()), step, int(price.argmin())))
                worth = judge(rights, spents)
                if worth.max() > kept:
                    kept, found = float(worth.max()), [*needed[:step], int(worth.argmax()), *needed[step + 1 :]]
            lowest, step, k = min(moves)
            if lowest == torch.inf:
                break
            needed = [*needed[:step], k, *needed[step + 1 :]]
            right, spent = self._outcome(needed)
        return found

    def _polished(self, needed: list[int], most: float) -> list[int]:
        """Move thresholds within what may be spent, one and two at a time, until none moves."""
        before: list[int] = []
        judge = _Allowed(most)
        while needed != before:
            before = needed = self._settled(needed, judge)
            for step in range(len(needed) - 1):
                needed = self._best_pair(needed, step, judge)
        return needed

    def _settled(self, needed: list[int], judge: _Judge) -> list[int]:
        """Move one step's threshold at a time to where the judge finds it best, until none moves."""
        before, needed = None, list(needed)
        while needed != before:
            before = list(needed)
            for step in reversed(range(len(needed))):
                worth = judge(*self._outcomes(needed, step))
                # On a tie it stays, and what differs by rounding alone is a tie: so this ends.
                if worth.max() > worth[needed[step]] + 1e-12:
                    needed[step] = int(worth.argmax())
        return needed

    def _best_pair(self, needed: list[int], step: int, judge: _Judge) -> list[int]:
        """The best thresholds of a step and the next, those of the others being what they are."""
        worth = judge(*self._outcomes_of_pairs(needed, step))
        k, m = divmod(int(worth.argmax()), len(THRESHOLDS))
        if worth[k, m] <= worth[needed[step], needed[step + 1]] + 1e-12:
            return needed
        return [*needed[:step], k, m, *needed[step + 2 :]]

    def _outcomes(self, needed: list[int], step: int) -> tuple[Tensor, Tensor]:
        """Means of right and spent for every threshold of one step, those of the others being what they are."""
        arrives, found = self._arrive(needed, step), []
        for value in (self._right, self._spent):
            goes_on = self._behind(needed, step, value)
            stopped = self._sums(torch.where(arrives, value[step] - goes_on, 0.0), self._done[step])
            base = torch.where(arrives, goes_on, self._behind(needed, -1, value)).mean()
            found.append(base + stopped / len(arrives))
        return found[0], found[1]

    def _outcomes_of_pairs(self, needed: list[int], step: int) -> tuple[Tensor, Tensor]:
        """The same for every threshold of one step (rows) and of the next (columns)."""
        arrives, found = self._arrive(needed, step), []
        first, second = self._done[step], self._done[step + 1]
        for value in (self._right, self._spent):
            goes_on = self._behind(needed, step + 1, value)
            late = torch.where(arrives, value[step + 1] - goes_on, 0.0)  # gain of stopping after the second
            stopped = self._sums(torch.where(arrives, value[step] - goes_on, 0.0), first)[:, None]
            passing = self._sums(late, second) - self._sums(late, first, second)  # of those that the first lets by
            base = torch.where(arrives, goes_on, self._behind(needed, -1, value)).mean()
            found.append(base + (stopped + passing) / len(arrives))
        return found[0], found[1]

    def _arrive(self, needed: list[int], step: int) -> Tensor:
        """Which images no step before this one stops."""
        return (self._done[:step] <= self._done.new_tensor(needed[:step])[:, None]).all(0)

    def _sums(self, gain: Tensor, *done: Tensor) -> Tensor:
        """For each threshold, or each pair, the sum over the images that are done at it, or at both."""
        place, size = gain.new_zeros(len(gain), dtype=torch.long), len(THRESHOLDS) + 1
        for each in done:
            place = place * size + each
        sums = gain.new_zeros(size ** len(done)).index_add_(0, place, gain).view([size] * len(done))
        for side in range(len(done)):
            sums = sums.flip(side).cumsum(side).flip(side).narrow(side, 1, size - 1)
        return sums

    def _outcome(self, needed: list[int]) -> tuple[float, float]:
        right, spent = (float(self._behind(needed, -1, value).mean()) for value in (self._right, self._spent))
        return right, spent

    def _behind(self, needed: list[int], step: int, value: Tensor) -> Tensor:
        """What comes of each image if it goes on after a step."""
        found = value[-1]
        for later in reversed(range(step + 1, len(needed))):
            found = torch.where(self._done[later] > needed[later], value[later], found)
        return found


@dataclass(frozen=True)
class _Priced:
    price: float

    def __call__(self, right: Tensor, spent: Tensor) -> Tensor:
        return right - self.price * spent


@dataclass(frozen=True)
class _Allowed:
    most: float

    def __call__(self, right: Tensor, spent: Tensor) -> Tensor:
        return torch.where(spent <= self.most, right, -torch.inf)
