"""A command line, read before it is parsed: its flags, config files and what they set."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from spikesparse.errors import UserError
from spikesparse.files.checkpoint import CHOICES, read_checkpoint
from spikesparse.files.paths import CONFIGS
from spikesparse.files.run_folder import folder_of_checkpoint, trained_precision
from spikesparse.files.safe_yaml import load_value, load_yaml, read_yaml
from spikesparse.settings.class_paths import split_allowed
from spikesparse.settings.experiments import config_file
from spikesparse.settings.moved import as_before, moved
from spikesparse.settings.plain import BUDGETS, flat, is_file

# Settings that change what is shown and written, and how images are fetched: they change no bit of the weights.
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


@dataclass(frozen=True)
class CommandLine:
    """A command line, read once: its flags, its config files, and what they set.

    Args:
        words: all of it, with the subcommand first where a checkpoint's settings are asked for.
    """

    words: Sequence[str]

    def __post_init__(self) -> None:
        object.__setattr__(self, "words", tuple(self.words))

    @cached_property
    def flags(self) -> tuple[tuple[str, str], ...]:
        """(flag, value) pairs, in order; a flag without a value has an empty one."""
        pairs: list[tuple[str, str]] = []
        waiting = list(self.words)
        while waiting:
            flag, equals, value = (word := waiting.pop(0)).partition("=")
            if not word.startswith("-"):
                continue
            if not equals and waiting and not waiting[0].startswith("--"):
                value = waiting.pop(0)
            pairs.append(("--config", config_file(value)) if flag in ("-c", "--config") else (flag, value))
        return tuple(pairs)

    @cached_property
    def allowed(self) -> tuple[str, ...]:
        """The prefixes that ``--allow-import`` names.

        Raises:
            UserError: for what is no import path.
        """
        return split_allowed(list(self.words))[1]

    @cached_property
    def without_allowed(self) -> CommandLine:
        """The same without ``--allow-import``."""
        return CommandLine(split_allowed(list(self.words))[0])

    def for_parser(self) -> list[str]:
        """Its words as the parser takes them: files in place of the names of experiments, and present class paths."""
        words: list[str] = []
        for word in self.words:
            flag, equals, value = word.partition("=")
            if flag in ("-c", "--config") and equals:
                word = f"{flag}={config_file(value)}"
            elif words and words[-1] in ("-c", "--config"):
                word = config_file(word)
            words.append(moved(word))
        return words

    def value(self, flag: str) -> str | None:
        """The last value of a flag."""
        return next((value for name, value in reversed(self.flags) if name == flag), None)

    @property
    def experiments(self) -> list[str]:
        """The names of its config files."""
        return [Path(value).stem for flag, value in self.flags if flag == "--config"]

    @property
    def experiment(self) -> str:
        """All of these names as one; that of base.yaml without."""
        return "+".join(self.experiments) or "base"

    @property
    def seed(self) -> str:
        """As it is given."""
        return self.value("--seed_everything") or "0"

    def config_digest(self) -> str:
        """SHA-256 of base.yaml, the config files and the user's own files that these name.

        The same flags over an edited file differ.
        """
        files = [CONFIGS / "base.yaml", *(Path(value) for flag, value in self.flags if flag == "--config")]
        texts = [as_before(file.read_text()) for file in files if file.is_file()]
        texts += [file.read_text() for file in own_files("\n".join([*texts, *self.words]))]
        return hashlib.sha256("\0".join(texts).encode()).hexdigest()

    def file_digests(self) -> dict[str, str]:
        """SHA-256 of the files that flags name, settings or weights, by flag and path; without those of --config."""
        files = {f"{flag}={value}": Path(value) for flag, value in self.overrides() if is_file(value)}
        return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()}

    def without_shown(self) -> list[str]:
        """Its words without the flags that only change what is shown and written."""
        kept: list[str] = []
        waiting = list(self.words)
        while waiting:
            arg = waiting.pop(0)
            if not _ONCE_AN_OVERRIDE.match(arg.partition("=")[0]):
                kept.append(arg)
            elif "=" not in arg and waiting and not waiting[0].startswith("--"):
                waiting.pop(0)
        return kept

    def overrides(self, earlier: bool = False) -> list[tuple[str, str]]:
        """The flags that make another experiment of it; ``earlier`` as in :meth:`run_name`."""
        return [
            (flag, value)
            for flag, value in self.flags
            if flag != "--config" and (not _NOT_AN_OVERRIDE.match(flag) or (earlier and _ONCE_AN_OVERRIDE.match(flag)))
        ]

    def run_name(self, earlier: bool = False) -> str:
        """<experiment>, after its config files, and a hash of the flags that make another experiment of it.

        In whatever order they come: of a flag that comes several times its last value counts, where it takes the place
        of the others.

        Args:
            earlier: the name that it had while flags that only show something counted too.
        """
        given: dict[str, list[str]] = {}
        for flag, value in self.overrides(earlier):
            given.setdefault(flag, []).append(value)
        lists = [flag.removesuffix("+") for flag in given if flag.endswith("+")]
        for flag, values in given.items():
            adds = any(flag.removesuffix("+") == name or flag.startswith(f"{name}.") for name in lists)
            if not adds and not any(_SECTION.search(value) for value in values):
                del values[:-1]
        overrides = sorted(f"{flag}={chr(0).join(values)}" for flag, values in given.items())
        if not overrides:
            return self.experiment
        return f"{self.experiment}-{hashlib.sha256(chr(0).join(overrides).encode()).hexdigest()[:8]}"

    def changes_settings(self) -> bool:
        """Whether, as a command line of ``test``, it gives a checkpoint other settings than its own."""
        return any(not _NOT_AN_OVERRIDE.match(flag) and not _WHERE.match(flag) for flag, _ in self.flags)

    def settings(self, read_values: bool = False) -> list[tuple[str, dict[str, Any]]]:
        """What each flag sets, nested, and what to call it in an error.

        Args:
            read_values: read flags' values as YAML, in which there may be more settings.

        Raises:
            UserError: for a config file that is no YAML, or larger than settings are.
        """
        configs: list[tuple[str, dict[str, Any]]] = []
        for flag, value in self.flags:
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

    def asked_of(self, section: str) -> dict[str, Any]:
        """What it sets in a section, by flag, config file or checkpoint, the last one counting."""
        asked: dict[str, Any] = {}
        for _, config in self.with_checkpoint_settings().settings(read_values=True):
            part = config.get(section)
            asked |= part if isinstance(part, dict) else {}
        return asked

    def asks_for_budget(self) -> bool:
        """Whether it sets a budget, by flag or config file."""
        asked = self.asked_of("budget")
        return any(asked.get(name) not in (None, "null") for name in BUDGETS)

    def asks_for_no_penalty(self) -> bool:
        """Whether it sets a lambda of zero, and no budget."""
        end = self.asked_of("sparsity").get("end_value")
        try:
            return end is not None and float(end) == 0 and not self.asks_for_budget()
        except (TypeError, ValueError):  # which the parser will refuse
            return False

    def asks_for_text(self) -> bool:
        """Whether it asks for help or settings, and for no work."""
        return any(word in ("-h", "--help") or word.startswith("--print_config") for word in self.words)

    def with_checkpoint_settings(self) -> CommandLine:
        """With the settings kept in ``--ckpt_path``'s checkpoint below all that it names itself.

        They stand above the defaults and base.yaml, as a first ``--config``. A network is measured in the precision
        that it was trained in, where its run folder is there.

        Raises:
            UserError: if the checkpoint is missing or damaged.
        """
        path = self.value("--ckpt_path")
        if not path or path in CHOICES:
            return self
        settings = read_checkpoint(path).get("settings") or {}
        configs = [settings, *(config for _, config in self.settings(read_values=True))]
        if not any({"data", "data.source"} & flat(config).keys() for config in configs):  # `data` may be a file's name
            raise UserError(
                f"--ckpt_path={path}: the checkpoint keeps no settings: it was not written by this command line, and "
                "does not tell what it was trained on. Name that: --data.source and the rest, or a --config that does."
            )
        if not settings:
            return self
        folder = folder_of_checkpoint(path)
        precision = trained_precision(folder) if folder is not None and self.words[0] != "fit" else None
        if precision is not None:
            settings = {**settings, "trainer": {"precision": precision}}
        return CommandLine([self.words[0], "--config", yaml.safe_dump(settings), *self.words[1:]])


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


def own_files(text: str) -> list[Path]:
    """The files in the current directory that class paths in ``text`` name."""
    modules = {match.rpartition(".")[0] for match in re.findall(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+", text)}
    return [path for module in sorted(modules) if (path := Path(*module.split(".")).with_suffix(".py")).is_file()]
