"""A command line, read before it is parsed: its flags, config files and what they set."""

from __future__ import annotations

import hashlib
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from spikesparse.errors import UserError
from spikesparse.files.checkpoint import CHOICES, read_checkpoint
from spikesparse.files.paths import CONFIGS
from spikesparse.files.run_folder import folder_of_checkpoint, trained_precision
from spikesparse.files.safe_yaml import load_value, load_yaml, read_yaml
from spikesparse.settings.plain import BUDGETS, flat, is_file

# Settings that change what is shown and written, and how images are fetched: no bit of the weights hangs on them.
_SHOWN = (
    r"(dashboard|predictions)(\.|$)|data\.(num_workers|pin_memory|resident)$|"
    r"trainer\.(log_every_n_steps|profiler|default_root_dir|num_sanity_val_steps)(\.|$)"
)


# Until they were put here, they made another experiment: runs of then have a name that tells them apart.
_ONCE_AN_OVERRIDE = re.compile(rf"--({_SHOWN})")


# Settings that change where and how a run is computed, not what it is: they do not make another experiment.
_NOT_AN_OVERRIDE = re.compile(
    r"--(seed_everything|ckpt_path|weights_only|data\.data_dir|data\.predict_on|trainer\.enable_|trainer\.logger|"
    rf"print_config|verbose|checkpoint\.|allow-import|{_SHOWN})"
)


# More of them, which a run folder's name has told apart from the beginning.
_WHERE = re.compile(r"--(trainer\.(accelerator|devices|num_nodes|strategy)|data\.batch_size)")


# Values with several settings in them: a later one leaves standing what it does not name.
_SECTION = re.compile(r"^\s*\{|\.(yaml|yml|json)$")


def _settings(args: list[str]) -> list[tuple[str, str]]:
    """Command-line flags as (flag, value) pairs, in order."""
    pairs: list[tuple[str, str]] = []
    waiting = list(args)
    while waiting:
        flag = waiting.pop(0)
        if not flag.startswith("-"):
            continue
        if "=" in flag:
            flag, value = flag.split("=", 1)
        else:
            value = waiting.pop(0) if waiting and not waiting[0].startswith("--") else ""
        pairs.append(("--config" if flag == "-c" else flag, value))
    return pairs


def flag_value(args: list[str], flag: str) -> str | None:
    """The last value of a flag on a command line."""
    return next((value for name, value in reversed(_settings(args)) if name == flag), None)


def experiments(args: list[str]) -> list[str]:
    """The names of the config files on a command line."""
    return [Path(value).stem for flag, value in _settings(args) if flag == "--config"]


def config_digest(args: list[str]) -> str:
    """SHA-256 of base.yaml, the config files on a command line and the user's own files that these name.

    The same flags over an edited file differ.
    """
    files = [CONFIGS / "base.yaml", *(Path(value) for flag, value in _settings(args) if flag == "--config")]
    texts = [file.read_text() for file in files if file.is_file()]
    texts += [file.read_text() for file in own_files("\n".join([*texts, *args]))]
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()


def file_digests(args: list[str]) -> dict[str, str]:
    """SHA-256 of the files that flags name, settings or weights, by flag and path; --config's are another matter."""
    files = {f"{flag}={value}": Path(value) for flag, value in _overrides(args) if is_file(value)}
    return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()}


def without_shown(args: list[str]) -> list[str]:
    """A command line without the flags that only change what is shown and written."""
    kept: list[str] = []
    waiting = list(args)
    while waiting:
        arg = waiting.pop(0)
        if not _ONCE_AN_OVERRIDE.match(arg.partition("=")[0]):
            kept.append(arg)
        elif "=" not in arg and waiting and not waiting[0].startswith("--"):
            waiting.pop(0)
    return kept


def _overrides(args: list[str], earlier: bool = False) -> list[tuple[str, str]]:
    return [
        (flag, value)
        for flag, value in _settings(args)
        if flag != "--config" and (not _NOT_AN_OVERRIDE.match(flag) or (earlier and _ONCE_AN_OVERRIDE.match(flag)))
    ]


def run_name(args: list[str], earlier: bool = False) -> str:
    """<experiment>, after its config files, and a hash of the flags that make another experiment of it.

    In whatever order they come: of a flag that comes several times its last value counts, where it takes the place of
    the others.

    Args:
        args: a command line.
        earlier: the name that it had while flags that only show something counted too.
    """
    experiment = "+".join(experiments(args)) or "base"
    given: dict[str, list[str]] = {}
    for flag, value in _overrides(args, earlier):
        given.setdefault(flag, []).append(value)
    lists = [flag.removesuffix("+") for flag in given if flag.endswith("+")]
    for flag, values in given.items():
        adds = any(flag.removesuffix("+") == name or flag.startswith(f"{name}.") for name in lists)
        if not adds and not any(_SECTION.search(value) for value in values):
            del values[:-1]
    overrides = sorted(f"{flag}={chr(0).join(values)}" for flag, values in given.items())
    if not overrides:
        return experiment
    return f"{experiment}-{hashlib.sha256(chr(0).join(overrides).encode()).hexdigest()[:8]}"


def changes_settings(command: list[str]) -> bool:
    """Whether a command line of ``test``, with its first word, gives a checkpoint other settings than its own."""
    return any(not _NOT_AN_OVERRIDE.match(f) and not _WHERE.match(f) for f, _ in _settings(command))


def configs_of(args: list[str]) -> list[dict[str, Any]]:
    """What a command line sets, by its flags, config files and checkpoint: nested, the last one counts."""
    return [config for _, config in named_settings(with_checkpoint_settings(args))]


def named_settings(args: list[str], read_values: bool = False) -> list[tuple[str, dict[str, Any]]]:
    """What each flag of a command line sets, nested, and what to call it in an error.

    Args:
        args: with a checkpoint's settings, if there are any.
        read_values: read flags' values as YAML, in which there may be more settings.

    Raises:
        UserError: for a config file that is no YAML, or larger than settings are.
    """
    configs: list[tuple[str, dict[str, Any]]] = []
    for flag, value in _settings(args):
        if flag == "--config":
            inline = "\n" in value or not _exists(value)
            name = "the checkpoint's settings" if "\n" in value else f"--config={value}"
            config = load_yaml(value, name) if inline else read_yaml(Path(value), name)
        else:
            name = f"{flag}={value}"
            config = _in_value(flag, value) if read_values else value
            for part in reversed(flag.removeprefix("--").split(".")):
                config = {part: config}
        configs += [(name, config)] if isinstance(config, dict) else []
    return configs


def _in_value(flag: str, value: str) -> Any:
    """The settings that a flag's value is, or names a file of; any other value as it is."""
    if value.endswith((".yaml", ".yml", ".json")) and is_file(value):
        with suppress(UserError):  # the parser reads it, if it wants settings there
            return read_yaml(Path(value), f"{flag}={value}")
    return load_value(value, flag) if re.search(r":\s|[\[{]", value) else value


def _exists(text: str) -> bool:
    try:
        return Path(text).exists()
    except (OSError, ValueError):
        return False


def asks_for_budget(args: list[str]) -> bool:
    """Whether a command line of ``fit``, without its first word, sets a budget, by flag or config file."""
    asked = asked_of(args, "budget")
    return any(asked.get(name) not in (None, "null") for name in BUDGETS)


def asks_for_no_penalty(args: list[str]) -> bool:
    """Whether such a command line sets a lambda of zero, and no budget."""
    end = asked_of(args, "sparsity").get("end_value")
    try:
        return end is not None and float(end) == 0 and not asks_for_budget(args)
    except (TypeError, ValueError):  # which the parser will refuse
        return False


def asked_of(args: list[str], section: str) -> dict[str, Any]:
    """What such a command line sets in a section, by flag or config file, the last one counting."""
    asked: dict[str, Any] = {}
    for _, config in named_settings(with_checkpoint_settings(["fit", *args]), read_values=True):
        part = config.get(section)
        asked |= part if isinstance(part, dict) else {}
    return asked


def with_checkpoint_settings(args: list[str]) -> list[str]:
    """Put the settings kept in ``--ckpt_path``'s checkpoint below all that the command line names.

    They stand above the defaults and base.yaml, as a first ``--config``. Who measures a network does so in the
    precision that it was trained in, where its run folder is at hand.

    Raises:
        UserError: if the checkpoint is missing or damaged.
    """
    path = flag_value(args, "--ckpt_path")
    if not path or path in CHOICES:
        return args
    settings = read_checkpoint(path).get("settings") or {}
    configs = [settings, *(config for _, config in named_settings(args, read_values=True))]
    if not any({"data", "data.source"} & flat(config).keys() for config in configs):  # `data` may be a file's name
        raise UserError(
            f"--ckpt_path={path}: the checkpoint keeps no settings: it was not written by this command line, and does "
            "not tell what it was trained on. Name that: --data.source and the rest, or a --config that does."
        )
    if not settings:
        return args
    folder = folder_of_checkpoint(path)
    precision = trained_precision(folder) if folder is not None and args[0] != "fit" else None
    if precision is not None:
        settings = {**settings, "trainer": {"precision": precision}}
    return [args[0], "--config", yaml.safe_dump(settings), *args[1:]]


def own_files(text: str) -> list[Path]:
    """The files in the current directory that class paths in ``text`` name."""
    modules = {match.rpartition(".")[0] for match in re.findall(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+", text)}
    return [path for module in sorted(modules) if (path := Path(*module.split(".")).with_suffix(".py")).is_file()]
