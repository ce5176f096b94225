"""All that is measured on one split of the data, under the tags that the logger gets."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric

from spikesparse.metrics.energy import Energy
from spikesparse.metrics.spikes import SpikeRate, SpikesPerImage
from spikesparse.metrics.synops import SynapticOperations
from spikesparse.nn.tally import SpikingOutput


class SplitMetrics(nn.Module):
    """Accuracy, losses and the spike bill of one split, exact over any number of processes."""

    def __init__(self) -> None:
        super().__init__()
        self.accuracy = MeanMetric()
        self.task_loss = MeanMetric(nan_strategy="disable")  # a NaN is news, not to be left out
        self.sparsity_loss = MeanMetric(nan_strategy="disable")
        self.spikes = SpikesPerImage()
        self.synops = SynapticOperations()
        self.energy = Energy()
        self.layer_rate = SpikeRate(per_layer=True)
        self.layer_synops = SynapticOperations(per_layer=True)

    def update(self, output: SpikingOutput, labels: Tensor, task_loss: Tensor, sparsity_loss: Tensor) -> None:
        """Add a batch; an empty one (a process without images) adds nothing."""
        for metric in (self.spikes, self.synops, self.energy, self.layer_rate, self.layer_synops):
            metric.update(output.tally)
        if len(labels):
            self.accuracy.update((output.logits.argmax(1) == labels).float())
            self.task_loss.update(task_loss.detach().float(), len(labels))
            self.sparsity_loss.update(sparsity_loss.detach().float(), len(labels))

    def compute(self, split: str) -> dict[str, Tensor]:
        """Tag -> value, the same on every process. Then start anew."""
        single = {
            "accuracy": self.accuracy,
            "loss/task": self.task_loss,
            "loss/sparsity": self.sparsity_loss,
            "efficiency/spikes_per_image": self.spikes,
            "efficiency/synops_per_image": self.synops,
            "efficiency/energy_uj_per_image": self.energy,
        }
        values = {f"{tag}/{split}": metric.compute() for tag, metric in single.items()}
        per_layer = {"spikes/rate": self.layer_rate, "synops": self.layer_synops}
        for tag, layers in per_layer.items():
            values |= {f"{tag}/{name}/{split}": value for name, value in layers.compute().items()}
        for metric in (*single.values(), *per_layer.values()):
            metric.reset()
        return {tag: torch.as_tensor(value) for tag, value in values.items()}
