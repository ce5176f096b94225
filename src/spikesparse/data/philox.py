"""Counter-based random numbers: a draw is a function of its key and counter, and of nothing else.

Philox4x32-10 of Salmon et al. 2011 (doi 10.1145/2063384.2063405), in plain tensor arithmetic, so that it gives the
same bits on every device. Shuffling, augmentation and Poisson spikes draw from it with (seed, stream) as the key and
(epoch, sample index, step, pixel) as the counter: they are the same for any batch size, rank or device.
"""

from __future__ import annotations

import torch
from torch import Tensor

_M0, _M1 = 0xD2511F53, 0xCD9E8D57
_W0, _W1 = 0x9E3779B9, 0xBB67AE85
_MASK = 0xFFFFFFFF

SHUFFLE, AUGMENT, SPLIT = 0, 1, 3  # streams: what a draw is for
POISSON = 2  #: The stream of Poisson spikes.


def philox(key: tuple[int, int], counter: tuple[Tensor, Tensor, Tensor, Tensor]) -> tuple[Tensor, ...]:
    """Four uniform 32-bit words for each counter.

    Args:
        key: two 32-bit words.
        counter: four int64 tensors with values in [0, 2**32), broadcast against each other.

    Returns:
        Four int64 tensors of the broadcast shape, values in [0, 2**32).
    """
    k0, k1 = key[0] & _MASK, key[1] & _MASK
    c0, c1, c2, c3 = counter
    for _ in range(10):
        # A product of two 32-bit words fits 64 bits; int64 wraps around, but its bits are right.
        product0, product1 = c0 * _M0, c2 * _M1
        c0, c1, c2, c3 = (
            ((product1 >> 32) & _MASK) ^ c1 ^ k0,
            product1 & _MASK,
            ((product0 >> 32) & _MASK) ^ c3 ^ k1,
            product0 & _MASK,
        )
        k0, k1 = (k0 + _W0) & _MASK, (k1 + _W1) & _MASK
    return c0, c1, c2, c3


def words(seed: int, stream: int, epoch: int, index: Tensor) -> tuple[Tensor, ...]:
    """Four 32-bit words for each sample ``index`` (int64, any shape) in an epoch."""
    zero = torch.zeros((), dtype=torch.int64, device=index.device)
    return philox(_key(seed, stream), (zero, zero, index & _MASK, zero + (epoch & _MASK)))


def uniform(seed: int, stream: int, epoch: int, index: Tensor, steps: int, count: int) -> Tensor:
    """Uniform draws in [0, 1) for every sample, step and position.

    Args:
        seed: any integer.
        stream: what the draw is for.
        epoch: epoch of the draw.
        index: sample indices, int64 (B,).
        steps: T.
        count: positions per sample and step.

    Returns:
        float32 (T, B, count), multiples of 2**-24.
    """
    device = index.device
    block = torch.arange(-(-count // 4), device=device)
    step = torch.arange(steps, device=device)[:, None, None]
    epoch_word = torch.full((), epoch & _MASK, device=device)
    four = philox(_key(seed, stream), (block, step, (index & _MASK)[None, :, None], epoch_word))
    draws = torch.stack(four, dim=-1).flatten(2)[..., :count]
    return (draws >> 8).to(torch.float32) * 2.0**-24


def permutation(seed: int, stream: int, epoch: int, size: int) -> Tensor:
    """A random order of range(``size``), int64: the indices sorted by 63 random bits each."""
    high, low, _, _ = words(seed, stream, epoch, torch.arange(size))
    return torch.argsort((high << 31) | (low >> 1), stable=True)


def _key(seed: int, stream: int) -> tuple[int, int]:
    return seed & _MASK, (((seed >> 32) & 0xFFFFFF) << 8) | stream
