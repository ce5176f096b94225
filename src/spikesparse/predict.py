"""Predictions as one CSV, in the data's order."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from spikesparse.errors import UserError
from spikesparse.whole_files import replace_file

COLUMNS = ("index", "label", "predicted", "confidence", "spikes", "steps")


class PredictionWriter(Callback):
    """Writes index, label, predicted, confidence, spikes and steps of every image that `predict` or a test reads.

    So two networks can be compared image by image. Several processes make one file, in the data's order. A folder of
    images has no labels, and its rows end with the file's name.

    Args:
        path: the CSV; None is predictions_<what>.csv in the run folder.
    """

    def __init__(self, path: str | None = None) -> None:
        self.path = path
        self._batches: list[dict[str, Tensor]] = []

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep a batch's rows on the CPU."""
        self._batches.append({name: outputs[name].cpu() for name in COLUMNS})

    on_test_batch_end = on_predict_batch_end

    def on_predict_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Gather the rows of all processes, and write them."""
        data = trainer.datamodule  # type: ignore[attr-defined]
        if data.predict_on in ("val", "test"):
            self._gather(trainer, data.predict_on)
        else:
            self._gather(trainer, Path(data.predict_on).name, data.predicted_folder[1])

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Gather the rows of all processes, and write them: the same file as `predict` on the test split."""
        self._gather(trainer, "test")

    def _gather(self, trainer: Trainer, what: str, files: list[Path] | None = None) -> None:
        rows = {name: torch.cat([batch[name] for batch in self._batches]) for name in COLUMNS}
        self._batches = []
        parts: list[Any] = [rows]
        if trainer.world_size > 1:
            parts = [None] * trainer.world_size
            torch.distributed.all_gather_object(parts, rows)
        folder = trainer.log_dir  # asked for on every process: it is broadcast
        if trainer.is_global_zero and (folder or what != "test"):  # fast_dev_run logs nowhere
            merged = {name: torch.cat([part[name] for part in parts]) for name in COLUMNS}
            self._write(Path(folder or ".") / f"predictions_{what}.csv", merged, files)

    def _write(self, path: Path, rows: dict[str, Tensor], files: list[Path] | None) -> None:
        path = Path(self.path) if self.path else path
        order = rows["index"].argsort(stable=True).tolist()
        columns = {name: rows[name].tolist() for name in COLUMNS}
        text = io.StringIO(newline="")
        writer = csv.writer(text)
        writer.writerow([*COLUMNS, "file"] if files else COLUMNS)
        for i in order:
            row = [columns[name][i] for name in COLUMNS]
            row[1] = row[1] if row[1] >= 0 else ""
            row[3] = f"{row[3]:.6f}"
            writer.writerow([*row, files[row[0]]] if files else row)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_file(path, text.getvalue())
        except OSError as error:
            raise UserError(f"--predictions.path={path}: cannot be written ({error}).") from error
        print(f"{len(order)} predictions in {path}")
