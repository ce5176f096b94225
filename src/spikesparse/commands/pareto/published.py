"""What others published, to draw beside a front."""

from __future__ import annotations

#: Sorbaro et al. 2020 on CIFAR-10: (million SynOps/image behind the first layer, test accuracy in percent). The
#: undominated rows of CIFAR10_analogue/log_inference.txt in the authors' repository, fgr1986/synoploss; the stages of
#: their runs were chosen on the test set.
SORBARO = (
    *((2179, 91.75), (1593, 91.73), (368, 91.47), (277, 91.43), (215, 91.07), (173, 91.01), (157, 90.64)),
    *((127, 90.37), (119, 89.48), (104, 89.13), (88, 88.50), (77, 87.42), (70, 86.37), (64, 85.71), (61, 83.81)),
    *((55, 81.36), (44, 77.15)),
)
#: Their first layer, 3 -> 96 channels on 32x32 pixels: multiplications once an image, as we count a constant current;
#: they spread it over 10 steps. A 3x3 kernel with padding 1 is assumed: (3 * 32 - 2)^2 connections a channel pair.
SORBARO_FIRST_LAYER = 3 * 96 * (3 * 32 - 2) ** 2
#: Allred et al. 2020 (arXiv 2003.01250), abstract: "up to" these shares of the twin's spikes saved, and at what cost in
#: points of accuracy. Relative figures: their networks and absolute numbers are not published.
ALLRED = ((0.701, 0.0), (0.733, 1.0))
