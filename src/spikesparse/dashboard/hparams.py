"""TensorBoard's HParams: settings beside results, over all runs."""

from __future__ import annotations

from typing import Any, cast

from pytorch_lightning import Trainer
from pytorch_lightning.loggers import TensorBoardLogger

# What people compare runs by, under short names: TensorBoard shows the first few of the alphabet.
SHORT_NAMES = {
    **{"net.architecture": "architecture", "data.batch_size": "batch_size", "data.encoder": "encoder"},
    **{"data.timesteps": "timesteps", "max_epochs": "epochs", "sparsity.end_value": "lambda"},
    **{"optimizer.lr": "learning_rate", "penalty.by": "penalty", "seed_everything": "seed"},
}
# Where and how data is read, which makes no difference to what is learned.
LEFT_OUT = ("data.data_dir", "data.num_workers", "data.pin_memory", "data.predict_on", "data.draw_seed")
RESULTS = ("accuracy", "efficiency/spikes_per_image", "efficiency/synops_per_image", "efficiency/energy_uj_per_image")


def flat_settings(settings: dict[str, Any]) -> dict[str, bool | int | float | str]:
    """Nested settings as one level of plain values: "architecture", "lambda", "net.decay", "sparsity.schedule"."""
    flat: dict[str, bool | int | float | str] = {}

    def add(prefix: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                name = prefix if key == "init_args" else f"{prefix}.{key}" if prefix else key
                add(name.removeprefix("model."), inner)
        elif isinstance(value, bool | int | float | str) and prefix not in LEFT_OUT:
            flat[SHORT_NAMES.get(prefix, prefix)] = value

    add("", settings)
    return {name: value for name, value in flat.items() if not name.endswith("class_path")}


def write_hparams(trainer: Trainer, settings: dict[str, Any], measured: dict[str, float], split: str) -> None:
    """Write a run's settings and its final results, once, to its TensorBoard loggers.

    Args:
        trainer: the run's; its step is that of the results.
        settings: nested, of the run.
        measured: tag -> value.
        split: "val" or "test": whose results.
    """
    results = {f"{tag}/{split}": measured[f"{tag}/{split}"] for tag in RESULTS if f"{tag}/{split}" in measured}
    for logger in trainer.loggers if trainer.is_global_zero else []:
        if isinstance(logger, TensorBoardLogger):
            logger.log_hyperparams(flat_settings(settings), results, step=cast(Any, trainer).global_step)
            logger.save()
