"""LightningCLI, as this project wants it: limited imports, clear errors, whole checkpoints."""

from __future__ import annotations

import argparse
from typing import Any

from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.cli import ArgsType, LightningArgumentParser, LightningCLI

from spikesparse.commands.help import unread_flags
from spikesparse.data import CIFAR10DataModule
from spikesparse.files.paths import CONFIGS
from spikesparse.runs.config import RunConfig
from spikesparse.runs.peers import check_nodes, is_first_process
from spikesparse.runs.saving import WholeFileIO
from spikesparse.settings.bolts import load_bolts
from spikesparse.settings.build import refuse_linked
from spikesparse.settings.build_errors import SettingsErrors
from spikesparse.settings.class_paths import check_settings, limited_imports
from spikesparse.settings.command_line import CommandLine
from spikesparse.settings.parser import checked_parser, read_counts_as_counts
from spikesparse.settings.parts import refuse_unbuilt
from spikesparse.settings.words import Refused
from spikesparse.training.loggers import LoggersFailForThemselves
from spikesparse.training.memory import check_memory
from spikesparse.training.module import SpikingClassifier


class GuardedCLI(LightningCLI):
    """Layers, from low to high: code, configs/base.yaml, a checkpoint's settings, --config files, flags.

    What these may import is limited; see :mod:`spikesparse.settings.class_paths`.

    Args:
        args: the command line.
    """

    def __init__(self, args: list[str]) -> None:
        load_bolts()  # so that a config may name its classes
        read_counts_as_counts()
        self.line = CommandLine(args)
        self.companions: list[Callback] = []  # of the trainer, beside those that settings name
        whole = self.line.without_allowed.with_checkpoint_settings()
        with checked_parser(), SettingsErrors() as self._building, limited_imports(self.line.allowed):
            settings = whole.settings(read_values=True)
            check_settings(settings)
            refuse_linked(settings)
            self._parse_and_run(whole.for_parser())

    def _parse_and_run(self, args: list[str]) -> None:
        # No flags cut short: what is looked through before parsing (--weights_only, --config) goes by whole names.
        strict = {"exit_on_error": False, "allow_abbrev": False}
        super().__init__(
            SpikingClassifier,
            CIFAR10DataModule,
            save_config_callback=RunConfig,
            save_config_kwargs={"overwrite": True},
            seed_everything_default=0,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            parser_kwargs=strict
            | {name: {"default_config_files": [str(CONFIGS / "base.yaml")], **strict} for name in self.subcommands()},
            args=args,
        )

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """The one that is asked for: to prepare a parser takes a quarter of a second."""
        known = LightningCLI.subcommands()
        return {name: known[name] for name in self.line.words[:1] if name in known} or known

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse; an error knows which flags there are."""
        try:
            super().parse_arguments(parser, args)
        except argparse.ArgumentError as error:
            parsers = self._subcommand_parsers.values()
            raise Refused(error, (flag for each in parsers for flag in each._option_string_actions)) from error
        refuse_unbuilt(self.config[self.config.subcommand])
        if self.config.subcommand == "fit" and is_first_process():
            for line in unread_flags(self.line, self.config.fit):
                print(line, flush=True)

    def _parse_ckpt_path(self) -> None:
        """Not Lightning's way, which sets a checkpoint's settings above the user's flags."""

    def instantiate_classes(self) -> None:
        """Build module, data and trainer; from then on, what fails is no longer the fault of settings or checkpoint."""
        super().instantiate_classes()
        assert self.subcommand is not None
        check_memory(self.subcommand, self.model.net, self.datamodule, self.trainer)
        if not self.config[self.subcommand].get("ckpt_path"):
            self._building.over = True
        else:
            self.trainer.callbacks.append(self._building)  # type: ignore[attr-defined]

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """The trainer, whose checkpoints are written whole, unless it has a way of its own."""
        trainer = super().instantiate_trainer(**kwargs)
        if isinstance(
            trainer._accelerator_connector.cluster_environment, LightningEnvironment
        ):  # no Slurm, no torchrun
            check_nodes(trainer.num_nodes)
        trainer.callbacks += [*self.companions, LoggersFailForThemselves()]  # type: ignore[attr-defined]
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = WholeFileIO()
        return trainer
