"""The tables that close a run."""

from __future__ import annotations

import json
import platform
import subprocess
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, get_type_hints

import torch

from spikesparse.errors import UserError
from spikesparse.files.version import __version__
from spikesparse.files.whole_files import replace_file


@dataclass(frozen=True)
class RunResult:
    """What a run measured on a split; counts are per image.

    Attributes:
        split: "val" or "test".
        accuracy: share of images classified right.
        spikes: spikes of the hidden neurons.
        rate: spikes per hidden neuron and step.
        synops: synaptic operations.
        energy_uj: arithmetic energy in microjoules.
        ann_energy_uj: that of the same network without spikes.
        timesteps: steps run: T, or fewer where early exit ended some images sooner.
    """

    split: str
    accuracy: float
    spikes: float
    rate: float
    synops: float
    energy_uj: float
    ann_energy_uj: float
    timesteps: float


def run_result(split: str, accuracy: float, timesteps: float, rows: dict[str, dict[str, Any]]) -> RunResult:
    """From accuracy and steps, and the rows of a :class:`spikesparse.metrics.SpikeBill`."""
    total = rows["total"]
    return RunResult(
        split,
        accuracy,
        total["spikes_per_image"],
        total["spike_rate"],
        total["synops_per_image"],
        total["energy_uj_per_image"],
        total["ann_energy_uj_per_image"],
        timesteps,
    )


def machine() -> dict[str, Any]:
    """What a result was measured on: processor or GPU, threads, versions, and in a checkout the commit."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else _processor()
    versions = {name: metadata.version(name) for name in ("torch", "pytorch-lightning")}
    return {
        "hardware": device,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "spikesparse": __version__,  # its own word: a checkout on PYTHONPATH is installed nowhere
        **versions,
        "commit": _commit(),
    }


def _commit() -> str:
    """The commit of the checkout that the code runs from, "-dirty" if it was changed since; "" elsewhere.

    Rows that a run adds to results/ do not count: the next run is of the same code.
    """
    git = ["git", "-C", str(Path(__file__).parent)]
    try:  # an installed package may lie in somebody's checkout, which says nothing of its code
        subprocess.run([*git, "ls-files", "--error-unmatch", Path(__file__).name], capture_output=True, check=True)
        commit = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
        changed = subprocess.run(
            [*git, "diff", "--quiet", "HEAD", "--", ":(top)", ":(top,exclude)results"], capture_output=True, check=False
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return commit.stdout.strip() + ("-dirty" if changed.returncode else "")


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def save_result(result: RunResult, path: Path, about: dict[str, Any]) -> None:
    """Write the result as JSON."""
    replace_file(path, json.dumps({**about, **asdict(result)}, indent=2) + "\n")


def read_result(path: Path) -> dict[str, Any]:
    """All that :func:`save_result`'s file says.

    Raises:
        UserError: if there is no such file, or it is damaged.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise ValueError("it holds no mapping")
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read ({' '.join(str(error).split())[:200]}).") from error
    return values


def load_result(path: Path) -> RunResult:
    """Read :func:`save_result`'s file.

    Raises:
        UserError: if there is no such file, or it is damaged.
    """
    values = read_result(path)
    for name, kind in get_type_hints(RunResult).items():
        if not isinstance(values.get(name), str if kind is str else int | float):
            raise UserError(f"{path}: it has no {name}; `spikesparse test` of the checkpoint writes it anew.")
    return RunResult(**{field: values[field] for field in RunResult.__dataclass_fields__})
