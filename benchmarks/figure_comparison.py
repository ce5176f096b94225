"""Draw a sparse run beside its accuracy-only twin: the picture at the top of the README.

    python benchmarks/figure_comparison.py TWIN_RUN SPARSE_RUN docs/quiet.png

Everything in it is read from the two run folders (TensorBoard events and result.json).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

GREY, BLUE = "#8a8f98", "#1f6feb"


def series(folder: Path, tag: str) -> list[float]:
    """A scalar's values, one per epoch."""
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    return [event.value for event in events.Scalars(tag)]


def draw(twin: Path, sparse: Path, out: Path) -> None:
    """Three panels: accuracy and spikes by epoch, and spikes by layer on the test set."""
    results = [json.loads((folder / "result.json").read_text()) for folder in (twin, sparse)]
    figure, (accuracy, spikes, layers) = plt.subplots(1, 3, figsize=(12, 3.6), dpi=150, layout="constrained")
    for folder, colour, name in ((twin, GREY, "trained for accuracy alone"), (sparse, BLUE, "accurate and quiet")):
        values = series(folder, "accuracy/val")
        epochs = range(1, len(values) + 1)
        accuracy.plot(epochs, [100 * v for v in values], color=colour, label=name, lw=2)
        spikes.plot(epochs, [v / 1000 for v in series(folder, "efficiency/spikes_per_image/val")], color=colour, lw=2)
    accuracy.set(title="validation accuracy (%)", xlabel="epoch")
    accuracy.legend(frameon=False, loc="lower right")
    spikes.set(title="thousand spikes per image", xlabel="epoch", ylim=(0, None))
    ramp = spikes.twinx()
    weights = series(sparse, "schedule/lambda")
    ramp.fill_between(range(1, len(weights) + 1), weights, color=BLUE, alpha=0.12, lw=0, step="mid")
    ramp.set(ylim=(0, 3 * max(weights)), yticks=[])
    spikes.text(len(weights), 0, "λ ", color=BLUE, alpha=0.6, ha="right", va="bottom")
    names = [name for name, layer in results[0]["layers"].items() if "spikes" in layer]
    for offset, result, colour in ((-0.2, results[0], GREY), (0.2, results[1], BLUE)):
        heights = [result["layers"][name]["spikes"] / 1000 for name in names]
        layers.bar([i + offset for i in range(len(names))], heights, 0.4, color=colour)
    layers.set(title="thousand spikes per image and layer (test)", xticks=range(len(names)), xticklabels=names)
    for axes in (accuracy, spikes, layers):
        axes.spines[["top", "right"]].set_visible(False)
    ramp.spines[["top", "right"]].set_visible(False)
    change = results[1]["spikes"] / results[0]["spikes"] - 1
    figure.suptitle(
        f"CIFAR-10, vgg7, T=4: {100 * change:+.0f} % spikes, test accuracy {results[0]['accuracy']:.1%} → "
        f"{results[1]['accuracy']:.1%}",
        fontsize=13,
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out)


if __name__ == "__main__":
    draw(*(Path(argument) for argument in sys.argv[1:4]))
