"""Arithmetic energy."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from spikesparse.nn.tally import SpikeTally

ACCUMULATE_PJ = 0.9  # 32-bit floating point addition in 45 nm; Horowitz 2014, doi 10.1109/ISSCC.2014.6757323
MULTIPLY_ACCUMULATE_PJ = 4.6  # multiplication 3.7 + addition 0.9


class Energy(Metric):
    """Energy of the arithmetic per image, in microjoules: accumulates and multiply-accumulates, nothing else.

    Memory traffic, leak and reset are left out, as is usual in the field.

    Args:
        accumulate_pj: energy of one synaptic operation, in picojoules.
        multiply_accumulate_pj: energy of one multiply-accumulate of the first layer under analog input.
        kwargs: of :class:`torchmetrics.Metric`.
    """

    full_state_update = False
    higher_is_better = False
    plot_lower_bound = 0.0
    accumulates: Tensor
    multiply_accumulates: Tensor
    images: Tensor

    def __init__(
        self,
        accumulate_pj: float = ACCUMULATE_PJ,
        multiply_accumulate_pj: float = MULTIPLY_ACCUMULATE_PJ,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.accumulate_pj, self.multiply_accumulate_pj = accumulate_pj, multiply_accumulate_pj
        for state in ("accumulates", "multiply_accumulates", "images"):
            self.add_state(state, torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, tally: SpikeTally) -> None:
        """Add a batch's operations."""
        self.accumulates += tally.synops.detach().to(torch.int64).sum()
        self.multiply_accumulates += tally.macs.detach().to(torch.int64).sum()
        self.images += tally.batch_size

    def compute(self) -> Tensor:
        """Microjoules per image, float64."""
        picojoules = (
            self.accumulates.to(torch.float64) * self.accumulate_pj
            + self.multiply_accumulates.to(torch.float64) * self.multiply_accumulate_pj
        )
        return picojoules / self.images.clamp(min=1) * 1e-6
