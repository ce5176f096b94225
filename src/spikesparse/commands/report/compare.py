"""What a report says of several runs: which is the baseline, what they are called, where their settings differ."""

from __future__ import annotations

import json
from typing import Any

from spikesparse.commands.report.runs import Run
from spikesparse.files.paths import CONFIGS
from spikesparse.files.safe_yaml import read_yaml
from spikesparse.settings.plain import flat

# Where a run was written, what it went on from and what it printed: not what it is.
_NO_MATTER = (
    *(f"trainer.logger.init_args.{name}" for name in ("save_dir", "name", "version")),
    *(f"trainer.enable_{name}" for name in ("progress_bar", "model_summary")),
    "ckpt_path",
)
#: Stands where a run does not have a setting at all.
ABSENT = "\N{EN DASH}"
_LONGEST_LABEL = 60


def baseline_first(runs: list[Run]) -> list[Run]:
    """The runs in their order, but the one of the smallest final lambda, if any run tells its own, in front."""
    told = [run for run in runs if run.final_lambda is not None]
    baseline = min(told or runs[:1], key=lambda run: run.final_lambda or 0.0)
    return [baseline, *(run for run in runs if run is not baseline)]


def labels(runs: list[Run]) -> list[str]:
    """A short name for each run, no two alike: without the seed where the rest tells them apart, and with lambda."""
    names = [run.name.rsplit("/", 1)[0] for run in runs]
    if len(set(names)) < len(names):
        names = [run.name for run in runs]
    short = [
        n if len(n) <= _LONGEST_LABEL else f"{n[: _LONGEST_LABEL // 2]}…{n[-_LONGEST_LABEL // 2 :]}" for n in names
    ]
    short = [name if short.count(name) == 1 else f"{name} #{place}" for place, name in enumerate(short, 1)]
    lambdas = [run.final_lambda for run in runs]
    return [n if end is None else f"{n} (λ → {end:g})" for n, end in zip(short, lambdas, strict=True)]


def shown(value: Any) -> str:
    """A setting as text."""
    return value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)


def differences(configs: list[dict[str, Any]]) -> dict[str, list[str]]:
    """Setting -> its value in each configuration, for those that are not the same in all."""
    names = dict.fromkeys(name for config in configs for name in config if name not in _NO_MATTER)
    values = {name: [shown(c[name]) if name in c else ABSENT for c in configs] for name in names}
    return {name: each for name, each in values.items() if len(set(each)) > 1}


def differences_from_base(config: dict[str, Any]) -> dict[str, list[str]]:
    """Setting -> its values in configs/base.yaml and in this run, for those of base.yaml that the run changed."""
    base = flat(read_yaml(CONFIGS / "base.yaml", "base.yaml"))
    return differences([base, {name: config[name] for name in base if name in config}])


def common(configs: list[dict[str, Any]]) -> dict[str, str]:
    """Setting -> value, for those that are the same in all configurations."""
    return {
        name: shown(value)
        for name, value in configs[0].items()
        if name not in _NO_MATTER and all(name in c and shown(c[name]) == shown(value) for c in configs)
    }
