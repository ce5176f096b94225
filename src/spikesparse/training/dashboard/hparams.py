"""TensorBoard's HParams: settings beside results, over all runs."""

from __future__ import annotations

from typing import Any, cast

from pytorch_lightning import Trainer
from pytorch_lightning.loggers import TensorBoardLogger
from torch.utils.tensorboard.summary import hparams

from spikesparse.settings.plain import flat

# What people compare runs by, under short names: TensorBoard shows the first few of the alphabet.
SHORT_NAMES = {
    "net.architecture": "architecture",
    "data.batch_size": "batch_size",
    "data.encoder": "encoder",
    "data.timesteps": "timesteps",
    "max_epochs": "epochs",
    "sparsity.end_value": "lambda",
    "optimizer.lr": "learning_rate",
    "penalty.by": "penalty",
    "seed_everything": "seed",
}
# Where and how data is read, which makes no difference to what is learned.
LEFT_OUT = ("data.data_dir", "data.num_workers", "data.pin_memory", "data.predict_on", "data.draw_seed")
RESULTS = ("accuracy", "efficiency/spikes_per_image", "efficiency/synops_per_image", "efficiency/energy_uj_per_image")


def flat_settings(settings: dict[str, Any]) -> dict[str, bool | int | float | str]:
    """Nested settings as one level of plain values: "architecture", "lambda", "net.decay", "sparsity.schedule"."""
    plain: dict[str, bool | int | float | str] = {}
    for path, value in flat(settings).items():
        name = path.replace(".init_args.", ".").removeprefix("model.")
        if isinstance(value, bool | int | float | str) and not name.endswith("class_path") and name not in LEFT_OUT:
            plain[SHORT_NAMES.get(name, name)] = value
    return plain


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
            # Not the logger's own log_hyperparams: it logs the results once more, which have been logged.
            plain = flat_settings(settings)
            logger.hparams.update(plain)
            writer: Any = logger.experiment._get_file_writer()
            for summary in hparams(plain, results):
                writer.add_summary(summary, cast(Any, trainer).global_step)
            logger.save()
