"""What others published, to draw beside a front: add your own points of comparison to these two tuples."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Relative:
    """Points given as savings against an accuracy-only twin; they are drawn from our twin.

    Attributes:
        label: in the legend.
        color: of the points.
        points: (share of the twin's spikes saved, accuracy lost in percentage points).
        note: below the figure.
    """

    label: str
    color: str
    points: tuple[tuple[float, float], ...]
    note: str


@dataclass(frozen=True)
class Absolute:
    """A curve on CIFAR-10, drawn beside CIFAR-10 alone.

    Attributes:
        label: in the legend.
        color: of the curve.
        points: (million SynOps/image behind the first layer, accuracy in percent).
        first_layer: operations/image of the first layer.
        note: below the figure.
        elsewhere: below the figure of other images, on which the curve is not drawn.
    """

    label: str
    color: str
    points: tuple[tuple[float, float], ...]
    first_layer: int
    note: str
    elsewhere: str


RELATIVE: tuple[Relative, ...] = (
    # template only
    # arXiv 2003.01250, abstract. Relative figures: their networks and absolute numbers are not published.
    Relative(
        label="Allred et al. 2020, “up to”, relative: from our twin",
        color="#b26a00",
        points=((0.701, 0.0), (0.733, 1.0)),
        note="Allred et al. give spikes saved against a twin, -70.1 % at the same accuracy and -73.3 % at -1 point, no "
        "absolute figures: drawn from our twin, and for operations as if these fell as spikes do.",
    ),
    # end
)
ABSOLUTE: tuple[Absolute, ...] = (
    # template only
    # The undominated rows of CIFAR10_analogue/log_inference.txt in the authors' repository, fgr1986/synoploss; the
    # stages of their runs were chosen on the test set. Their first layer is 3 -> 96 channels on 32x32 pixels, of which
    # a 3x3 kernel with padding 1 is assumed: (3 * 32 - 2)^2 connections a channel pair. We count its multiplications
    # once an image, as we do for a constant current; they spread it over 10 steps.
    Absolute(
        label="Sorbaro et al. 2020, CIFAR-10, test",
        color="#3d8b5f",
        points=(
            (2179, 91.75),
            (1593, 91.73),
            (368, 91.47),
            (277, 91.43),
            (215, 91.07),
            (173, 91.01),
            (157, 90.64),
            (127, 90.37),
            (119, 89.48),
            (104, 89.13),
            (88, 88.50),
            (77, 87.42),
            (70, 86.37),
            (64, 85.71),
            (61, 83.81),
            (55, 81.36),
            (44, 77.15),
        ),
        first_layer=3 * 96 * (3 * 32 - 2) ** 2,
        note="Sorbaro et al.: their log's front, chosen on the test set; their first layer (assumed 3x3, padding 1) is "
        "2.54M MACs, once an image, as ours is; tenfold if each of their 10 steps convolves.",
        elsewhere="Sorbaro et al. 2020 measured on CIFAR-10: their curve is drawn beside CIFAR-10 only.",
    ),
    # end
)
