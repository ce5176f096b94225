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
from spikesparse.files.closing import Closing
from spikesparse.files.names import printable
from spikesparse.files.whole_files import replace_file

COLUMNS = ("index", "label", "predicted", "confidence", "spikes", "steps")


class PredictionWriter(Callback):
    r"""Writes index, label, predicted, confidence, spikes, steps, class of every image that `predict` or a test reads.

    So two networks can be compared image by image. Several processes make one file, in the data's order. The class is
    the predicted one's name. A folder of images has no labels, and its rows end with the file's name, in which a byte
    that is no UTF-8 is written out, as in ``caf\xe9.png``.

    Args:
        path: the CSV; None is predictions_<what>.csv in the run folder, where what is the split or the folder's name.
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

    def on_test_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """As :meth:`on_predict_batch_end`."""
        self.on_predict_batch_end(*args, **kwargs)

    def on_predict_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Gather the rows of all processes, and write them."""
        data = trainer.datamodule  # type: ignore[attr-defined]
        if data.predict_on in ("val", "test"):
            self._gather(trainer, data.predict_on)
        else:
            name = Path(data.predict_on).resolve().name
            # a folder may have a split's name, whose predictions are another file
            self._gather(trainer, f"{name}_folder" if name in ("val", "test") else name, data.predicted_folder[1])

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Gather the rows of all processes, and write them: the same file as `predict` on the test split.

        Where they cannot be written, the test goes on with a warning: its result is another.
        """
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
            data: Any = getattr(trainer, "datamodule", None)  # a test may be of loaders alone
            classes = data.dataset.classes if data is not None else []
            path = Path(self.path or Path(folder or ".") / f"predictions_{what}.csv")
            if trainer.state.fn == "predict":  # they are all that it is asked for
                self._write(path, merged, classes, files)
            else:
                with Closing().part(path):
                    self._write(path, merged, classes, files)

    def _write(self, path: Path, rows: dict[str, Tensor], classes: list[str], files: list[Path] | None) -> None:
        order = rows["index"].argsort(stable=True).tolist()
        columns = {name: rows[name].tolist() for name in COLUMNS}
        text = io.StringIO(newline="")
        writer, names = csv.writer(text), dict(enumerate(classes))
        writer.writerow([*COLUMNS, "class", *(["file"] if files else [])])
        for i in order:
            row = [columns[name][i] for name in COLUMNS]
            row[1] = row[1] if row[1] >= 0 else ""
            row[3] = f"{row[3]:.6f}"
            writer.writerow([*row, names.get(row[2], ""), *([printable(str(files[row[0]]))] if files else [])])
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_file(path, text.getvalue())
        except OSError as error:
            raise UserError(f"--predictions.path={path}: cannot be written ({error}).") from error
        print(f"{len(order)} predictions in {printable(str(path))}")
