"""The whole bill of what a network spent on a set of images: exact integers, and what follows from them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import islice
from typing import Any

from spikesparse.errors import ArgumentError
from spikesparse.nn.tally import LayerSizes

ACCUMULATE_PJ = 0.9  # 32-bit floating point addition in 45 nm; Horowitz 2014, doi 10.1109/ISSCC.2014.6757323
MULTIPLY_ACCUMULATE_PJ = 4.6  # multiplication 3.7 + addition 0.9


@dataclass(frozen=True)
class EnergyConstants:
    """What an operation costs. The defaults are 32-bit floating point in 45 nm (Horowitz 2014).

    Attributes:
        accumulate_pj: a synaptic operation (accumulate), in picojoules.
        multiply_accumulate_pj: a multiply-accumulate, in picojoules.

    Raises:
        UserError: for an energy that is negative or no number.
    """

    accumulate_pj: float = ACCUMULATE_PJ
    multiply_accumulate_pj: float = MULTIPLY_ACCUMULATE_PJ

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not (value >= 0.0 and math.isfinite(value)):
                raise ArgumentError(name, value, "an energy in picojoules must be 0 or more.")


_DEFAULT = EnergyConstants()

#: What each column of a bill holds, with its unit. "..._per_image" is the quantity over the number of images.
DEFINITIONS = {
    "neurons": "neurons of a hidden or a spiking pooling layer; total: hidden [neurons]",
    "silent_neurons": "hidden neurons without a spike in any image [neurons]",
    "saturated_neurons": "hidden neurons that spiked in every step of every image [neurons]",
    "spikes": "nonzero outputs of these neurons; input: nonzeros of a spiking input; total: hidden [spikes]",
    "spikes_per_image": "[spikes/image]",
    "spike_rate": "spikes / (neurons * images * T) [spikes/neuron/step]",
    "membrane_updates": "neurons * images * T, pooling neurons included: all are updated in every step [updates]",
    "membrane_updates_per_image": "[updates/image]",
    "synapses": "what one event in every neuron drives in one step; borders count what they reach [synapses]",
    "nonzero_synapses": "those of them whose weight is not zero [synapses]",
    "synops": "events that enter the layer, each times its fan-out where it falls [accumulates]",
    "synops_per_image": "[accumulates/image]",
    "nonzero_synops": "the same over synapses of nonzero weight alone [accumulates]",
    "nonzero_synops_per_image": "[accumulates/image]",
    "dense_synops": "synops if every neuron fired in every step: synapses * images * T [accumulates]",
    "dense_synops_per_image": "[accumulates/image]",
    "macs": "of the first layer under analog input: once if its current is constant, else in each step [MACs]",
    "macs_per_image": "[MACs/image]",
    "nonzero_macs": "the same over nonzero weights alone [MACs]",
    "nonzero_macs_per_image": "[MACs/image]",
    "ann_macs": "of the same network without spikes: each of its connections once an image [MACs]",
    "ann_macs_per_image": "[MACs/image]",
    "energy_uj_per_image": "of synops and macs, arithmetic alone: no memory traffic, no leak [uJ/image]",
    "ann_energy_uj_per_image": "of ann_macs [uJ/image]",
    "energy_over_ann": "the one over the other: below 1 the spiking network spends less [1]",
}


@dataclass(frozen=True)
class SpikeBill:
    """Exact counts over a set of images. Python integers, so nothing rounds or overflows.

    Attributes:
        layers: the network's static sizes.
        images: images counted.
        steps: images * T, summed over the images.
        spiking_steps: the same over the images whose input was spikes.
        input_spikes: nonzeros of spiking inputs.
        macs: multiply-accumulates of the first layer under analog input.
        spikes: hidden layer -> spikes.
        pooling_spikes: spiking pooling layer -> spikes.
        synops: weight layer -> synaptic operations.
        neuron_spikes: hidden layer -> spikes of each of its neurons; None if no record was kept of every image. So
            below.
        nonzero_synapses: weight layer -> dense synapses of nonzero weight.
        nonzero_synops: weight layer -> synaptic operations over those alone.
        nonzero_macs: multiply-accumulates over those alone.
    """

    layers: LayerSizes
    images: int
    steps: int
    spiking_steps: int
    input_spikes: int
    macs: int
    spikes: dict[str, int]
    pooling_spikes: dict[str, int]
    synops: dict[str, int]
    neuron_spikes: dict[str, list[int]] | None = None
    nonzero_synapses: dict[str, int] | None = None
    nonzero_synops: dict[str, int] | None = None
    nonzero_macs: int | None = None

    @classmethod
    def from_sums(cls, layers: LayerSizes, counts: list[int], recorded: list[int]) -> SpikeBill:
        """From the states of :class:`spikesparse.metrics.SpikeCounts`."""
        if len(counts) == 1:  # nothing was counted yet
            counts = [0] * (5 + len(layers.neurons) + len(layers.pooling_neurons) + len(layers.synapses))
        ahead = iter(counts)
        images, steps, spiking_steps, input_spikes, macs = islice(ahead, 5)
        names = (layers.neurons, layers.pooling_neurons, layers.synapses)
        spikes, pooling_spikes, synops = (dict(zip(of, ahead, strict=False)) for of in names)
        record: dict[str, Any] = {}
        ahead = iter(recorded)
        if next(ahead) == images > 0:
            weights_known, nonzero_macs = islice(ahead, 2)
            synapses, nonzero_synops = (dict(zip(layers.synapses, ahead, strict=False)) for _ in range(2))
            if weights_known == images:
                record["nonzero_synapses"] = {name: n // images for name, n in synapses.items()}
                record |= {"nonzero_synops": nonzero_synops, "nonzero_macs": nonzero_macs}
            record["neuron_spikes"] = {name: list(islice(ahead, n)) for name, n in layers.neurons.items()}
        return cls(layers, images, steps, spiking_steps, input_spikes, macs, spikes, pooling_spikes, synops, **record)

    @property
    def timesteps(self) -> float:
        """Steps an image, in the mean; an int, T, unless images had different numbers of steps."""
        mean = self.steps / max(1, self.images)
        return int(mean) if mean.is_integer() else mean

    def rate_percentile(self, layer: str, percent: float) -> float:
        """Spike rate that so many percent of a hidden layer's neurons do not exceed (nearest rank)."""
        assert self.neuron_spikes is not None
        ordered = sorted(self.neuron_spikes[layer])
        rank = max(1, math.ceil(percent / 100 * len(ordered)))
        return ordered[rank - 1] / max(1, self.steps)

    def rows(self, constants: EnergyConstants = _DEFAULT) -> dict[str, dict[str, Any]]:
        """The bill as a table: "input", weight layers, spiking pooling layers and "total" -> column -> value.

        The columns are those of :data:`DEFINITIONS`. A row lacks those that mean nothing for it; a value is None if it
        needs a record that was not kept.
        """
        rows: dict[str, dict[str, Any]] = {"input": {"spikes": self.input_spikes}}
        rows |= {name: self._neuron_counts(name) | self._weight_counts(name) for name in self.layers.synapses}
        rows |= {name: self._neuron_counts(name) for name in self.layers.pooling_neurons}
        rows["total"] = self._total(rows)
        return {name: self._with_ratios(row, constants) for name, row in rows.items()}

    def _neuron_counts(self, name: str) -> dict[str, Any]:
        neurons = self.layers.neurons | self.layers.pooling_neurons
        if name not in neurons:
            return {}
        counts: dict[str, Any] = {
            "neurons": neurons[name],
            "spikes": (self.spikes | self.pooling_spikes)[name],
            "membrane_updates": neurons[name] * self.steps,
        }
        if name in self.spikes:
            each = None if self.neuron_spikes is None else self.neuron_spikes[name]
            counts["silent_neurons"] = None if each is None else each.count(0)
            counts["saturated_neurons"] = None if each is None else each.count(self.steps)
        return counts

    def _weight_counts(self, name: str) -> dict[str, Any]:
        first = name == next(iter(self.layers.synapses))
        return {
            "synapses": self.layers.synapses[name],
            "nonzero_synapses": _of(self.nonzero_synapses, name),
            "synops": self.synops[name],
            "nonzero_synops": _of(self.nonzero_synops, name),
            "dense_synops": self.layers.synapses[name] * (self.spiking_steps if first else self.steps),
            "macs": self.macs if first else 0,
            "nonzero_macs": self.nonzero_macs if first or self.nonzero_macs is None else 0,
            "ann_macs": self.layers.ann_macs[name] * self.images,
        }

    def _total(self, rows: dict[str, dict[str, Any]]) -> dict[str, Any]:
        counted = [row for name, row in rows.items() if name in self.layers.synapses]
        columns = {column for row in counted for column in row}
        values = {column: [row[column] for row in counted if column in row] for column in columns}
        values["membrane_updates"] = [row.get("membrane_updates", 0) for row in rows.values()]
        return {column: None if None in v else sum(v) for column, v in values.items()}

    def _with_ratios(self, row: dict[str, Any], constants: EnergyConstants) -> dict[str, Any]:
        images = max(1, self.images)  # 0 of nothing is 0
        values = dict(row)
        for quantity, count in row.items():
            if f"{quantity}_per_image" in DEFINITIONS:
                values[f"{quantity}_per_image"] = None if count is None else count / images
        if "neurons" in row:
            values["spike_rate"] = row["spikes"] / max(1, row["neurons"] * self.steps)
        if "synops" in row:
            picojoules = row["synops"] * constants.accumulate_pj + row["macs"] * constants.multiply_accumulate_pj
            ann_picojoules = row["ann_macs"] * constants.multiply_accumulate_pj
            values["energy_uj_per_image"] = picojoules / images * 1e-6
            values["ann_energy_uj_per_image"] = ann_picojoules / images * 1e-6
            values["energy_over_ann"] = picojoules / ann_picojoules if ann_picojoules else 0.0
        return {column: values[column] for column in DEFINITIONS if column in values}


def _of(counts: dict[str, int] | None, name: str) -> int | None:
    return None if counts is None else counts[name]
