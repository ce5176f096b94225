"""Pages of TensorBoard's Custom Scalars."""

from __future__ import annotations

from collections.abc import Sequence


def custom_scalars(layers: Sequence[str], weight_layers: Sequence[str]) -> dict[str, dict[str, list[object]]]:
    """Page -> chart -> what it draws, for ``SummaryWriter.add_custom_scalars``.

    Args:
        layers: names of the hidden neuron layers.
        weight_layers: names of the weight layers.
    """

    def lines(*tags: str) -> list[object]:
        return ["Multiline", list(tags)]  # regular expressions

    spread: dict[str, list[object]] = {
        f"rate of {layer}: 10 % and 90 % of its neurons, mean": [
            "Margin",
            [f"spikes/rate/{layer}/val", f"spikes/p10/{layer}/val", f"spikes/p90/{layer}/val"],
        ]
        for layer in layers
    }
    return {
        "Overview": {
            # each beside what a budget allows, where there is one
            "accuracy": lines("^(accuracy/(train|val|test)|schedule/budget_accuracy)$"),
            "spikes per image": lines(
                "^(efficiency/spikes_per_image/(train|val|test)|schedule/budget_spikes_per_image)$"
            ),
            "SynOps per image": lines(
                "^(efficiency/synops_per_image/(train|val|test)|schedule/budget_synops_per_image)$"
            ),
        },
        "Objective": {
            "task loss": lines("^loss/task/(train|val)$"),
            "sparsity loss: share of what could be spent": lines("^loss/sparsity/(train|val)$"),
            "lambda": lines("^schedule/lambda$"),
            "learning rate": lines("^schedule/learning_rate$"),
        },
        "Layers": {
            "spike rate of each layer": lines(*(f"^spikes/rate/{layer}/val$" for layer in layers)),
            **spread,
            "SynOps per image of each layer": lines(*(f"^synops/{layer}/val$" for layer in weight_layers)),
        },
        "Efficiency": {
            "SynOps per image beside the MACs of the same network without spikes": lines(
                "^efficiency/synops_per_image/val$", "^efficiency/ann_macs_per_image/val$"
            ),
            "energy per image in uJ, beside the same network without spikes": lines(
                "^efficiency/energy_uj_per_image/val$", "^efficiency/ann_energy_uj_per_image/val$"
            ),
            "energy as a share of the same network without spikes": lines("^efficiency/energy_over_ann/val$"),
            "steps per image: fewer than T under early exit": lines("^efficiency/timesteps/val$"),
        },
        "Health": {
            "share of silent neurons": lines(*(f"^health/silent/{layer}/val$" for layer in layers)),
            "share of saturated neurons": lines(*(f"^health/saturated/{layer}/val$" for layer in layers)),
            "gradient norm, mean over the epoch": lines("^health/gradient_norm$"),
        },
    }
