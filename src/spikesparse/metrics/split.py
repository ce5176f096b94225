"""All that is measured on one split of the data, under the tags that the logger gets."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from spikesparse.metrics.bill import EnergyConstants, SpikeBill
from spikesparse.metrics.counts import SpikeCounts
from spikesparse.metrics.means import ImageMeans
from spikesparse.nn.tally import SpikingOutput

MEANS = ("accuracy", "loss/task", "loss/sparsity")
TAGS = {
    "efficiency/spikes_per_image": "spikes_per_image",
    "efficiency/synops_per_image": "synops_per_image",
    "efficiency/nonzero_synops_per_image": "nonzero_synops_per_image",
    "efficiency/macs_per_image": "macs_per_image",
    "efficiency/ann_macs_per_image": "ann_macs_per_image",
    "efficiency/energy_uj_per_image": "energy_uj_per_image",
    "efficiency/ann_energy_uj_per_image": "ann_energy_uj_per_image",
    "efficiency/energy_over_ann": "energy_over_ann",
}
LAYER_TAGS = {"spikes/rate": "spike_rate", "synops": "synops_per_image"}
PERCENTILE_TAGS = {"spikes/p10": 10, "spikes/p90": 90}  # of the rates of a layer's neurons
NEURON_TAGS = {"health/silent": "silent_neurons", "health/saturated": "saturated_neurons"}  # shares of the neurons


class SplitMetrics(nn.Module):
    """Accuracy, losses and the spike bill of one split, exact over any number of processes."""

    def __init__(self, energy: EnergyConstants) -> None:
        super().__init__()
        self.energy = energy
        self.means = ImageMeans(len(MEANS))
        self.counts = SpikeCounts()

    def update(self, output: SpikingOutput, labels: Tensor, task_loss: Tensor, sparsity_loss: Tensor) -> None:
        """Add a batch; an empty one (a process without images) adds nothing."""
        self.counts.update(output.tally)
        images = len(labels)
        sums = output.logits.new_zeros(len(MEANS), dtype=torch.float64)
        if images:  # of none, a loss is not a number
            correct = (output.logits.argmax(1) == labels).sum()
            losses = torch.stack([task_loss.detach().double(), sparsity_loss.detach().double()])
            sums = torch.cat([correct.double()[None], losses * images])
        self.means.update(sums, images)

    def compute(self, split: str) -> tuple[dict[str, float], SpikeBill]:
        """Tag -> value, and the bill; the same on every process. Then start anew."""
        values = {f"{tag}/{split}": mean for tag, mean in zip(MEANS, self.means.compute().tolist(), strict=True)}
        bill = self.counts.bill()
        rows = bill.rows(self.energy)
        total = rows["total"]
        values |= {f"{tag}/{split}": total[column] for tag, column in TAGS.items() if total[column] is not None}
        values[f"efficiency/timesteps/{split}"] = float(bill.timesteps)
        for name in bill.layers.synapses:
            row = rows[name]
            for tag, column in LAYER_TAGS.items():
                if column in row:
                    values[f"{tag}/{name}/{split}"] = row[column]
            if row.get("silent_neurons") is not None:
                for tag, column in NEURON_TAGS.items():
                    values[f"{tag}/{name}/{split}"] = row[column] / row["neurons"]
                for tag, percent in PERCENTILE_TAGS.items():
                    values[f"{tag}/{name}/{split}"] = bill.rate_percentile(name, percent)
        for metric in (self.means, self.counts):
            metric.reset()
        return values, bill
