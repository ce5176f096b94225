"""Run folders as a report reads them: the values that are there, and a sentence for what is missing.

What a folder holds may come from somebody else: it is read as plain data, and a value of another type than expected
counts as missing.
"""

from __future__ import annotations

import json
import logging
import os
import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from spikesparse.errors import UserError
from spikesparse.files.safe_yaml import check_regular, load_yaml
from spikesparse.settings.plain import BUDGETS, flat, mapping, number, readable

_SEED = re.compile(r"seed(\d+)")
_EVENTS = "events.out.tfevents.*"


@dataclass(frozen=True)
class Run:
    """One run, with what its folder tells.

    Attributes:
        folder: as it was named.
        config: flattened settings, "model.net.class_path" -> value; empty if config.yaml is missing. So below.
        result: result.json.
        bill: bill.json.
        curves: TensorBoard tag -> (epochs from 1, values).
        seconds: that it trained, all its sittings together, without pauses between them, from run.json or, while it
            trains and of earlier versions, by the time stamps of its events; None if unknown.
        missing: what is not there and how to get it, a sentence each.
    """

    folder: Path
    config: dict[str, Any]
    result: dict[str, Any]
    bill: dict[str, Any]
    curves: dict[str, tuple[list[float], list[float]]]
    seconds: float | None
    missing: list[str]

    @property
    def name(self) -> str:
        """<experiment>/seed<k>."""
        whole = self.folder.resolve()
        return readable(f"{whole.parent.name}/{whole.name}")

    @property
    def final_lambda(self) -> float | None:
        """The weight of the sparsity penalty at its end; under a budget, the last that was logged."""
        if any(self.config.get(f"budget.{name}") is not None for name in BUDGETS):
            _, values = self.curves.get("schedule/lambda", ([], []))
            return float(f"{values[-1]:.3g}") if values else None
        return number(self.config.get("sparsity.end_value"))

    @property
    def layers(self) -> dict[str, dict[str, Any]]:
        """Layer -> its row of the bill."""
        rows = mapping(self.bill.get("rows"))
        return {readable(layer): mapping(row) for layer, row in rows.items() if layer not in ("input", "total")}

    def measured(self, in_result: str, in_bill: str) -> float | None:
        """A final quantity: from result.json, or from the total of bill.json."""
        value = number(self.result.get(in_result))
        total = mapping(mapping(self.bill.get("rows")).get("total"))
        return number({**self.bill, **total}.get(in_bill)) if value is None else value


def find_runs(paths: list[Path]) -> list[Path]:
    """Run folders: those named themselves, and the seeds in those that hold seeds; each once, in order.

    Raises:
        UserError: if a path is neither.
    """
    found: dict[Path, Path] = {}
    for path in paths:
        if not path.is_dir():
            raise UserError(f"{path}: no such folder. Name a run folder: runs/<experiment>/seed<k>.")
        seeds = [child for child in path.iterdir() if _SEED.fullmatch(child.name) and _is_run(child)]
        if not _is_run(path) and not seeds:
            raise UserError(
                f"{path}: no run folder: it holds no config.yaml, result.json, bill.json or TensorBoard events, and no "
                "seed<k> that does. Name a run folder: runs/<experiment>/seed<k>."
            )
        of_path = [path] if _is_run(path) else sorted(seeds, key=lambda seed: int(seed.name.removeprefix("seed")))
        for folder in of_path:
            found.setdefault(folder.resolve(), folder)
    return list(found.values())


def _is_run(folder: Path) -> bool:
    files = ("config.yaml", "result.json", "bill.json")
    return any((folder / name).is_file() for name in files) or any(folder.glob(_EVENTS))


def read_run(folder: Path) -> Run:
    """Read all that a run folder has."""
    missing: list[str] = []
    config = _read(
        folder / "config.yaml",
        lambda text: load_yaml(text, "settings"),
        "its settings are unknown; copy the file there",
        missing,
    )
    how = f"its training is not finished, or it was never tested: spikesparse test --ckpt_path {folder}/checkpoints/"
    result = _read(folder / "result.json", json.loads, f"{how}best.ckpt writes it", missing)
    bill = _read(folder / "bill.json", json.loads, f"{how}best.ckpt writes it", missing)
    events = _read_events(folder)
    curves = {} if events is None else _curves(events)
    seconds = number(_read(folder / "run.json", json.loads, "", []).get("fit_seconds"))
    if seconds is None and events is not None:  # result.json of earlier versions may have up to twice of it
        seconds = _training_seconds(events)
    if not curves:
        missing.append(f"{folder}: no TensorBoard events of whole epochs: it has no curves; copy {_EVENTS} there")
    return Run(folder, flat(config), result, bill, curves, seconds, missing)


def _read(path: Path, parse: Callable[[str], Any], without: str, missing: list[str]) -> dict[str, Any]:
    try:
        if path.exists():
            check_regular(path, path.name)
        whole = parse(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        missing.append(f"{path}: no such file: {without}")
        return {}
    except (OSError, ValueError, RecursionError) as error:
        missing.append(f"{path}: cannot be read ({' '.join(str(error).split())[:200]}): {without}")
        return {}
    if not isinstance(whole, dict):
        missing.append(f"{path}: holds no mapping: {without}")
    return mapping(whole)


def _read_events(folder: Path) -> EventAccumulator | None:
    """TensorBoard's scalars of a run; None if there are none."""
    if not any(os.path.getsize(file) for file in folder.glob(_EVENTS)):
        return None
    logging.getLogger("tensorboard").setLevel(logging.ERROR)  # it tells of cut-off files, which a running run has
    kept = {"scalars": 0, "images": 1, "audio": 1, "histograms": 1, "compressedHistograms": 1, "tensors": 1}
    with tempfile.TemporaryDirectory() as place:
        link = Path(place, "run")  # TensorBoard opens no folder whose name is not UTF-8
        link.symlink_to(folder.resolve(), target_is_directory=True)
        events = EventAccumulator(str(link if readable(str(folder)) != str(folder) else folder), size_guidance=kept)
        events.Reload()
    return events


def _curves(events: EventAccumulator) -> dict[str, tuple[list[float], list[float]]]:
    """Every scalar of a run with a value for each epoch.

    A step belongs to the first epoch that was logged with it: the test at the end repeats the last step. An epoch that
    was logged again, after a resume, shows its last value.
    """
    tags = events.Tags()["scalars"]
    epoch_of_step: dict[int, float] = {}
    for event in events.Scalars("epoch") if "epoch" in tags else ():
        epoch_of_step.setdefault(event.step, event.value + 1)
    curves = {}
    for tag in tags:
        values = {epoch_of_step[e.step]: e.value for e in events.Scalars(tag) if e.step in epoch_of_step}
        if values:
            epochs = sorted(values)
            curves[tag] = (epochs, [values[epoch] for epoch in epochs])
    return curves


def _training_seconds(events: EventAccumulator) -> float | None:
    """Of every sitting, from its first batch to the end of its last epoch; None if unknown."""
    started, ended = "schedule/global_batch_size", "accuracy/train"  # the former is said at each start
    if not {started, ended} <= set(events.Tags()["scalars"]):
        return None
    moments: list[tuple[float, str]] = sorted(
        (event.wall_time, tag) for tag in (started, ended) for event in events.Scalars(tag)
    )
    return sum(now - before for (before, _), (now, tag) in pairwise(moments) if tag == ended)
