"""Pictures of spikes, legible on a card some 400 pixels wide.

Figures are made without pyplot: it would keep them, and belongs to the user.
"""

from __future__ import annotations

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

DPI = 120
COLOURS = "magma"


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def as_array(figure: Figure) -> np.ndarray:
    """Its pixels: uint8 (height, width, 3)."""
    canvas = figure.canvas
    assert isinstance(canvas, FigureCanvasAgg)
    canvas.draw()  # type: ignore[no-untyped-call]
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()  # type: ignore[no-untyped-call]


def _tiles(rows: list[list[np.ndarray]], titles: list[str]) -> Figure:
    """Pictures (height, width, 3) in [0, 1] in a grid, every tile of one size, under the titles of its columns."""
    side, gap, head = 130, 8, 26
    height, width = len(rows) * (side + gap) - gap, len(titles) * (side + gap) - gap
    sheet = np.ones((height, width, 3))
    for i, row in enumerate(rows):
        for j, tile in enumerate(row):
            y, x = (np.arange(side) * size // side for size in tile.shape[:2])
            top, left = i * (side + gap), j * (side + gap)
            sheet[top : top + side, left : left + side] = tile[y][:, x]
    figure = Figure(figsize=(width / DPI, (height + head) / DPI), dpi=DPI)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, height / (height + head)))
    axes.imshow(sheet, aspect="auto")
    axes.set_axis_off()
    for j, title in enumerate(titles):
        axes.text(j * (side + gap) + side / 2, -6, title, ha="center", va="bottom", fontsize=9)
    return figure


def _as_picture(image: Tensor) -> np.ndarray:
    """(C, H, W) -> (H, W, 3) in [0, 1]: its own range stretched, its channels repeated if it has one."""
    image = image.detach().float().cpu()
    image = (image - image.min()) / (image.max() - image.min()).clamp(min=1e-9)
    image = image if image.shape[0] == 3 else image.mean(0, keepdim=True).expand(3, -1, -1)
    picture: np.ndarray = image.permute(1, 2, 0).numpy()
    return picture


def input_and_encoding(images: Tensor, encoded: Tensor) -> Figure:
    """Each input image beside what the network reads of it.

    Args:
        images: (n, C, H, W), as loaded.
        encoded: (T, n, C, H, W): its first step and its mean over T are shown; or a constant (n, C, H, W).
    """
    if encoded.dim() == 4:
        rows = [[_as_picture(image), _as_picture(current)] for image, current in zip(images, encoded, strict=True)]
        return _tiles(rows, ["image", "constant current"])
    mean = encoded.float().mean(0)
    rows = [[_as_picture(picture) for picture in trio] for trio in zip(images, encoded[0], mean, strict=True)]
    return _tiles(rows, ["image", "first step", "mean over T"])


def raster(spikes: dict[str, Tensor], image: int = 0, neurons: int = 24) -> Figure:
    """Spikes of a few neurons of each layer over time; the same neurons every time, evenly spread over the layer.

    Args:
        spikes: layer -> (T, n, ...).
        image: which of the n.
        neurons: so many of each layer.
    """
    figure = _figure(5.0, 0.55 + 0.9 * len(spikes))
    rows = figure.subplots(len(spikes), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (name, train) in zip(rows, spikes.items(), strict=True):
        flat = train[:, image].flatten(1).float().cpu()
        chosen = torch.linspace(0, flat.shape[1] - 1, min(neurons, flat.shape[1])).long()
        steps = len(flat)
        times = [train.nonzero().flatten().tolist() for train in flat[:, chosen].T]
        width = min(6.0, max(1.0, 40.0 / steps))
        axes.eventplot(times, lineoffsets=range(len(chosen)), linelengths=0.9, linewidths=width, colors="#1b1b3a")
        axes.set_xlim(-0.6, steps - 0.4)
        axes.set_ylim(len(chosen) - 0.3, -0.7)
        axes.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=10)
        axes.set_yticks([])
        axes.set_xticks(range(steps) if steps <= 10 else [0, steps - 1])
    rows[0].set_title(f"spikes of {neurons} neurons of each layer, one image", fontsize=10)
    rows[-1].set_xlabel("time step", fontsize=10)
    return figure


def layer_by_time(spikes: dict[str, Tensor]) -> Figure:
    """Spike rate of each layer in each time step, over the images shown; ``spikes``: layer -> (T, n, ...)."""
    rates = torch.stack([train.ne(0).float().flatten(1).mean(1) for train in spikes.values()]).cpu().numpy()
    figure = _figure(5.0, 1.0 + 0.42 * len(spikes))
    axes = figure.subplots()
    shown = axes.imshow(rates, cmap=COLOURS, aspect="auto", vmin=0, vmax=max(float(rates.max()), 1e-3))
    axes.set_yticks(range(len(spikes)), list(spikes), fontsize=10)
    axes.set_xticks(range(rates.shape[1]) if rates.shape[1] <= 10 else [0, rates.shape[1] - 1])
    axes.set_xlabel("time step", fontsize=10)
    axes.set_title("spike rate", fontsize=10)
    if rates.shape[1] <= 10:
        for (row, column), rate in np.ndenumerate(rates):
            bright = rate > 0.6 * max(float(rates.max()), 1e-3)
            axes.text(
                column, row, f"{rate:.2f}", ha="center", va="center", fontsize=9, color="black" if bright else "white"
            )
    figure.colorbar(shown, ax=axes)
    return figure


def where_spikes_fall(images: Tensor, spikes: dict[str, Tensor], most: int = 4) -> Figure:
    """Each image beside its spikes, summed over channels and steps, in the layers that have places.

    Each picture has its own scale, from none (black) to its most (bright).

    Args:
        images: (n, C, H, W), as loaded.
        spikes: layer -> (T, n, ...).
        most: so many layers, evenly chosen from the first to the last.
    """
    spatial = [name for name, train in spikes.items() if train.dim() == 5]
    chosen = [spatial[i] for i in sorted({round(x) for x in np.linspace(0, len(spatial) - 1, min(most, len(spatial)))})]
    rows = []
    for i, image in enumerate(images):
        counts = [spikes[name][:, i].ne(0).float().sum((0, 1)).cpu().numpy() for name in chosen]
        rows.append([_as_picture(image), *(colormaps[COLOURS](c / max(c.max(), 1.0))[..., :3] for c in counts)])
    return _tiles(rows, ["image", *chosen])
