"""What every counting metric shares: whole numbers in, whole numbers kept, divisions at the end only."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from spikesparse.metrics.bill import EnergyConstants, SpikeBill
from spikesparse.nn.tally import LayerSizes, SpikeTally, checked_tally

_OVERFLOWN = -1  # counts are not negative: a sum that once was stays so


def add_counts(parts: Tensor) -> Tensor:
    """Sum of int64 counts over the first axis; -1 wherever a part is, or where the sum passes 2**63 - 1."""
    about = parts.to(torch.float64).sum(0)  # shows what the integers' own sum, which wraps, may hide
    wrong = (parts < 0).any(0) | (about > 2.0**62)
    return torch.where(wrong, _OVERFLOWN, parts.sum(0))


def _first(parts: Tensor) -> Tensor:
    return parts[0]  # all processes hold the same


class SpikeCounts(Metric):
    """Counts of all that a :class:`spikesparse.SpikeTally` holds, exact for any batches and number of processes.

    The states are sums in int64: float32 stops counting at ``2**24``, and a float64 state would not survive
    ``module.to(bfloat16)``. Each process adds up its own images; the sums are added when a value is asked for. A count
    beyond ``2**62`` is refused. A subclass names the :attr:`column` of the bill that ``compute`` gives; :meth:`bill`
    gives the whole of it, as exact integers.

    Args:
        per_layer: compute a dict, layer name -> value, instead of one value for the whole network.
        kwargs: of :class:`torchmetrics.Metric`.
    """

    #: A column of :data:`spikesparse.metrics.bill.DEFINITIONS`.
    column: str = "spikes"
    full_state_update = True  # states grow from nothing to one number a layer, which forward's shortcut cannot add
    higher_is_better = False
    plot_lower_bound = 0.0
    counts: Tensor
    recorded: Tensor
    layout: Tensor

    def __init__(self, per_layer: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.per_layer = per_layer
        self.constants = EnergyConstants()
        self.add_state("counts", torch.zeros((), dtype=torch.int64), dist_reduce_fx=add_counts)
        self.add_state("recorded", torch.zeros((), dtype=torch.int64), dist_reduce_fx=add_counts)
        # Names and sizes of the layers, as bytes of JSON: being a state, they are kept wherever the counts are.
        self.add_state("layout", torch.zeros(0, dtype=torch.uint8), dist_reduce_fx=_first)
        self._layers: LayerSizes | None = None  # the same, as last seen

    def update(self, tally: SpikeTally) -> None:
        """Add a batch, which may be empty.

        Raises:
            ValueError: if it is no tally, or comes from a network of other layers than the batches before.
        """
        tally = checked_tally(tally)
        if not self.layout.numel():
            text = json.dumps(asdict(tally.layers)).encode()
            self.layout = torch.tensor(list(text), dtype=torch.uint8, device=tally.macs.device)
        elif self._layers != tally.layers and self._read_layout() != tally.layers:
            raise ValueError("a metric counts one network: reset() it, or use another for a network of other layers")
        self._layers = tally.layers
        image = torch.ones_like(tally.macs)
        spiking = (tally.macs == 0) * float(tally.timesteps)
        rows = torch.stack([image, image * tally.timesteps, spiking, tally.input_spikes, tally.macs])
        rows = torch.cat([rows, tally.spikes, tally.pooling_spikes, tally.synops])
        self.counts = _added(self.counts, rows.detach().to(torch.int64).sum(1))
        if tally.record is not None:
            self.recorded = _added(self.recorded, _sums_of_record(tally))

    def compute(self) -> Any:
        """The value of :attr:`column`, a float64 scalar, or a dict of one per layer; 0 of nothing is 0.

        Raises:
            ValueError: if it needs a record, and the network was not asked for one with every batch.
            OverflowError: if a count grew too large.
        """
        bill = self._bill()
        rows = bill.rows(self.constants)
        names = bill.layers.synapses if self.per_layer else ["total"]
        values = {
            name: rows[name].get(self.column, 0) for name in names if self.column in rows[name] or name == "total"
        }
        if bill.images and None in values.values():
            raise ValueError(f"{type(self).__name__} needs net(x, record='neurons') for every batch")
        computed = {
            name: torch.tensor(value or 0, dtype=torch.float64, device=self.counts.device)
            for name, value in values.items()
        }
        return computed if self.per_layer else computed["total"]

    def bill(self) -> SpikeBill:
        """The counts themselves, over all processes, each of which must ask."""
        with self.sync_context(
            dist_sync_fn=self.dist_sync_fn, should_sync=self._to_sync, should_unsync=self._should_unsync
        ):
            return self._bill()

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """Plot a value (by default :meth:`compute`'s): a bar per layer for a dict, else as torchmetrics does.

        Args:
            val: what ``compute`` or ``forward`` returned, or a list of such values.
            ax: matplotlib axes; None makes new ones.

        Returns:
            Figure and axes.
        """
        val = self.compute() if val is None else val
        if not isinstance(val, dict):
            return self._plot(val, ax)
        import matplotlib.pyplot as plt

        if ax is None:
            _, ax = plt.subplots(layout="constrained")
        ax.barh(list(val), [float(value) for value in val.values()])
        ax.invert_yaxis()  # the first layer on top
        ax.set(
            xlabel=self.column.replace("_", " "), xlim=(0.0, None)
        )  # to the largest: a quiet network's rates are low
        return ax.figure, ax

    def set_dtype(self, dst_type: Any) -> SpikeCounts:
        """Nothing: counts are whole numbers, whatever the network's dtype."""
        return self

    def _read_layout(self) -> LayerSizes:
        text = bytes(self.layout.tolist())
        return LayerSizes(**json.loads(text)) if text else LayerSizes({}, {})

    def _bill(self) -> SpikeBill:
        counts, recorded = self.counts.flatten().tolist(), self.recorded.flatten().tolist()
        if _OVERFLOWN in counts or _OVERFLOWN in recorded:
            raise OverflowError(f"{type(self).__name__}: a count passed 2**62; evaluate fewer images at a time")
        return SpikeBill.from_sums(self._read_layout(), counts, recorded)


def _added(total: Tensor, more: Tensor) -> Tensor:
    """Both together; ``total`` is 0 before the first batch."""
    return add_counts(torch.stack([total.expand_as(more), more]))


def _sums_of_record(tally: SpikeTally) -> Tensor:
    """Images, those whose nonzero weights are known, MACs; synapses (times images), SynOps; spikes of each neuron."""
    record, images = tally.record, tally.batch_size
    assert record is not None
    nothing = torch.zeros(len(tally.synops), dtype=torch.int64, device=tally.synops.device)
    if record.nonzero_synapses is None or record.nonzero_synops is None or record.nonzero_macs is None:
        weights = [torch.stack([nothing[0] + images, nothing[0], nothing[0]]), nothing, nothing]
    else:
        head = torch.stack([nothing[0] + images, nothing[0] + images, record.nonzero_macs])
        weights = [head, record.nonzero_synapses * images, record.nonzero_synops]
    return torch.cat([*weights, *(spikes.flatten() for spikes in record.neurons.values())])
