"""Architectures by name, or spelled out."""

from __future__ import annotations

import math
import re

from spikesparse.errors import ArgumentError, UserError

ARCHITECTURES: dict[str, str] = {
    "vgg7": "16-16-P-32-32-P-64-64-P",  # for small machines
    "vgg9": "64-64-P-128-128-P-256-256-256-P-F1024",  # Lee et al. 2020
    "vgg16": "64-64-P-128-128-P-256-256-256-P-512-512-512-P-512-512-512-P",
}

MOST_LAYERS = 1000


def parse_architecture(architecture: str | list[int | str], width: float = 1.0) -> list[tuple[str, int]]:
    """Turn an architecture into layers: ("conv", channels), ("pool", 0), ("fc", features).

    Args:
        architecture: a name of :data:`ARCHITECTURES`; or its entries as a list or joined by "-": a number is a 3x3
            convolution of that many channels, "P" halves the image, "F<n>" is a hidden fully connected layer. The
            classifier is not listed.
        width: multiplies channels and features; each is at least 1.

    Raises:
        UserError: for a name or an entry that does not exist, or an order that cannot be built.
    """
    where = f"`architecture={architecture!r}`"
    if not (width > 0 and math.isfinite(width)):
        raise ArgumentError("width", width, "it must be above 0; 1.0 is the named network.")
    text = ARCHITECTURES.get(architecture, architecture) if isinstance(architecture, str) else architecture
    entries = text.split("-") if isinstance(text, str) else [str(entry) for entry in text]
    if len(entries) > MOST_LAYERS:
        raise UserError(f"`architecture`: {len(entries)} layers; the most are {MOST_LAYERS}.")
    layers: list[tuple[str, int]] = []
    for entry in entries:
        match = re.fullmatch(r"(F?)([1-9]\d{0,8})|P", entry.strip())
        if not match:
            raise UserError(
                f"{where}: {entry!r} is no layer and there is no architecture of that name. There are: "
                f"{', '.join(ARCHITECTURES)}; or a list such as 16-16-P-32-F64 (3x3 convolutions, P pools, F64 is "
                "fully connected)."
            )
        if entry.strip() == "P":
            if not layers or layers[-1][0] != "conv":
                raise UserError(f"{where}: a pool P must stand behind a convolution.")
            layers.append(("pool", 0))
        else:
            kind = "fc" if match[1] else "conv"
            if kind == "conv" and any(k == "fc" for k, _ in layers):
                raise UserError(f"{where}: convolution {entry} stands behind a fully connected layer.")
            layers.append((kind, max(1, round(int(match[2]) * width))))
    return layers
