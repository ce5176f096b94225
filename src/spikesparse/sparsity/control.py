"""The control law of the spike budget: how far to move lambda, given how far off the network is.

A network under a steady lambda spends about s ~ lambda^-b spikes, b the elasticity, and comes there by a share ``a`` of
the way in every epoch. With y = log(measured / aim) the law is, per epoch,

    log lambda += g * (y - y_previous / 2)  =  g / 2 * y  +  g / 2 * (y - y_previous),

a proportional-integral controller in its velocity form: there is no sum to wind up, and a bound on lambda bounds all.
Its loop has the characteristic polynomial z^2 - (2 - a - a b g) z + (1 - a - a b g / 2). By Jury's criterion it is
stable if and only if p(-1) = 2 (2 - a) - 3/2 a b g > 0 (p(1) > 0 always holds, and the third condition is weaker):

    b g < (2 / a - 1) * 4 / 3,

which is tightest for a network that answers within the epoch (a = 1): b g < 4/3. The elasticity is not known beforehand
(0.2 to 1.5 in practice), so g is found: it grows while the error neither changes sign nor shrinks, and is halved
whenever the error changes sign. A loop that oscillates therefore lowers its own gain until it is stable. The numbers
below are those that brought most of a grid of simulated networks to their target within a training of 12 epochs, whose
learning rate fades: a slower loop is still far off when the network stops answering.

By accuracy, lambda rises and falls in proportion to the room that is left of the drop, up to a largest speed. What an
e-fold of lambda costs is not known beforehand either, and small validation sets are noisy: the same rule halves that
gain at every change of sign, and never lets it above its first value.

The loop aims a little below what is allowed. Spikes drift up while the learning rate fades to 0 and the network
answers less and less; aimed at the target itself, the last epochs, most often the most accurate, would miss it by a few
percent.
"""

from __future__ import annotations

import math

AIM = 0.95  # of what is allowed
FIRST_GAIN, LEAST_GAIN, LARGEST_GAIN = 2.0, 0.3, 6.0
FASTER, SLOWER = 2.0, 0.5  # what the gain is multiplied by
STALLED = 0.6  # an error above this share of the one before has not shrunk
FIRST_GAIN_BY_ACCURACY = 1.0
LARGEST_STEP = math.log(4.0)  # in one epoch, either way
LEAST, LARGEST = 0.01, 100.0  # lambda; the penalty is a fraction in [0, 1], and 0.1 to 10 are what matters
FULL_ROOM = 0.01  # of accuracy: with so much to spare, or the whole drop if that is more, lambda rises at full speed
RISE, FALL = math.log(1.5), math.log(2.0)  # in one epoch, by accuracy


def moved(weight: float, step: float) -> float:
    """Lambda after a step of its logarithm, both bounded."""
    step = max(-LARGEST_STEP, min(LARGEST_STEP, step))
    return max(LEAST, min(LARGEST, weight * math.exp(step)))


def adapted(gain: float, error: float, previous: float) -> float:
    """The gain, given this and the previous error."""
    if error * previous < 0:
        return max(LEAST_GAIN, gain * SLOWER)
    return min(LARGEST_GAIN, gain * FASTER) if abs(error) > STALLED * abs(previous) else gain


def step_by_count(gain: float, error: float, previous: float) -> float:
    """Step of log lambda; the errors are logarithms of measured over the aim.

    While more is spent than aimed at, lambda never falls, however fast the network is coming down: what is given back
    late in training, when the learning rate fades and the network answers less and less, cannot be regained.
    """
    step = gain * (error - previous / 2)
    return max(step, 0.0) if error > 0 else step


def step_by_accuracy(room: float, allowed: float) -> float:
    """Step of log lambda, proportional to the room that is left of an allowed drop, up to a largest speed."""
    share = max(-1.0, min(1.0, room / max(allowed, FULL_ROOM)))
    return share * (RISE if share > 0 else FALL)
