"""Encoders: from images to what the network reads."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from spikesparse.data.philox import POISSON, uniform
from spikesparse.errors import ArgumentError, choose

#: Normalisations that an encoder may ask the data module for.
#: "standard": zero mean and unit variance per channel. "signed_unit": zero mean, values in [-1, 1].
#: "unit": pixels in [0, 1].
NORMALIZATIONS = ("standard", "signed_unit", "unit")


class Encoder:
    """Base of encoders. ``normalization`` says what its images must be: see :data:`NORMALIZATIONS`."""

    normalization: str = "standard"

    def __call__(self, images: Tensor, index: Tensor, timesteps: int, seed: int, epoch: int) -> Tensor:
        """Encode a batch.

        Args:
            images: normalised images, float32 (B, C, H, W).
            index: sample indices, int64 (B,), for random draws.
            timesteps: T.
            seed: of random draws.
            epoch: of random draws.

        Returns:
            Spikes or currents (T, B, C, H, W), or a constant current (B, C, H, W).
        """
        raise NotImplementedError


class DirectEncoder(Encoder):
    """Direct coding: the normalised image itself, a constant current; the network's first layer runs on it once."""

    def __call__(self, images: Tensor, index: Tensor, timesteps: int, seed: int, epoch: int) -> Tensor:
        """The images, unchanged: (B, C, H, W)."""
        return images


class PoissonEncoder(Encoder):
    """Rate coding: in each step, a pixel x spikes with probability |x|, independently.

    Args:
        signed: spikes carry the pixel's sign, {-1, 0, 1}, of an image with zero mean and values in [-1, 1], as in
            Lee et al. 2020; otherwise pixels in [0, 1] give {0, 1}.
        gain: multiplies the probabilities, which saturate at 1.
    """

    def __init__(self, signed: bool = True, gain: float = 1.0) -> None:
        if not gain > 0:
            raise ArgumentError("gain", gain, "it must be above 0; 1 is the pixel's own value.")
        self.signed, self.gain = signed, gain
        self.normalization = "signed_unit" if signed else "unit"

    def __call__(self, images: Tensor, index: Tensor, timesteps: int, seed: int, epoch: int) -> Tensor:
        """Spikes (T, B, C, H, W), a function of (seed, epoch, index, step, pixel) alone."""
        flat = images.flatten(1)
        draws = uniform(seed, POISSON, epoch, index, timesteps, flat.shape[1])
        spikes = (draws < flat.abs() * self.gain).to(images.dtype)
        if self.signed:
            spikes = spikes * torch.sign(flat)
        return spikes.reshape(timesteps, *images.shape)


ENCODERS: dict[str, Callable[[], Encoder]] = {
    "direct": DirectEncoder,
    "poisson": lambda: PoissonEncoder(signed=True),
    "poisson_unsigned": lambda: PoissonEncoder(signed=False),
}


def make_encoder(encoder: str | Encoder) -> Encoder:
    """An encoder by its name, or as it is.

    Raises:
        ArgumentError: for a name that does not exist.
    """
    if isinstance(encoder, Encoder):
        return encoder
    return ENCODERS[choose("encoder", encoder, ENCODERS, "encoder")]()
