"""Arithmetic energy."""

from __future__ import annotations

from typing import Any

from spikesparse.metrics.bill import ACCUMULATE_PJ, MULTIPLY_ACCUMULATE_PJ, EnergyConstants
from spikesparse.metrics.counts import SpikeCounts


class Energy(SpikeCounts):
    """Energy of the arithmetic per image, in microjoules: accumulates and multiply-accumulates, nothing else.

    Memory traffic, leak and reset are left out, as is usual in the field.

    Args:
        accumulate_pj: energy of one synaptic operation, in picojoules.
        multiply_accumulate_pj: energy of one multiply-accumulate of the first layer under analog input.
        over_ann: compute the share of what the same network without spikes spends (every connection one
            multiply-accumulate) instead: below 1 the spiking network spends less.
        per_layer: compute a dict, layer name -> value.
        kwargs: of :class:`torchmetrics.Metric`.
    """

    column = "energy_uj_per_image"

    def __init__(
        self,
        accumulate_pj: float = ACCUMULATE_PJ,
        multiply_accumulate_pj: float = MULTIPLY_ACCUMULATE_PJ,
        over_ann: bool = False,
        per_layer: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(per_layer, **kwargs)
        self.constants = EnergyConstants(accumulate_pj, multiply_accumulate_pj)
        self.column = "energy_over_ann" if over_ann else self.column
