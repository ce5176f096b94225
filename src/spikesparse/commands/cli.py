"""LightningCLI, as this project wants it: limited imports, clear errors, run folders, whole checkpoints."""

from __future__ import annotations

import argparse
from typing import Any

from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.cli import ArgsType, LightningArgumentParser, LightningCLI

from spikesparse.commands.help import unread_flags
from spikesparse.data import CIFAR10DataModule
from spikesparse.files.checkpoint import refuse_unsafe_reading
from spikesparse.files.paths import CONFIGS
from spikesparse.runs.config import RunConfig
from spikesparse.runs.folder import place_logger, run_folder
from spikesparse.runs.launch import refuse_a_crowd, refuse_spawning
from spikesparse.runs.peers import check_nodes, is_first_process
from spikesparse.runs.resume import begin_folder, folder_of_command, refuse_nothing, settle_folder
from spikesparse.runs.saving import LastCheckpoint, WholeFileIO
from spikesparse.settings.bolts import load_bolts
from spikesparse.settings.build import link_data_to_network, refuse_linked
from spikesparse.settings.build_errors import SettingsErrors
from spikesparse.settings.class_paths import check_settings, limited_imports
from spikesparse.settings.command_line import CommandLine
from spikesparse.settings.parser import checked_parser, read_counts_as_counts
from spikesparse.settings.parts import check_built, check_network, check_parts
from spikesparse.settings.words import Refused
from spikesparse.sparsity import SparsityAnnealing, SpikeBudget
from spikesparse.training.dashboard import Dashboard
from spikesparse.training.loggers import LoggersFailForThemselves
from spikesparse.training.memory import check_memory
from spikesparse.training.module import SpikingClassifier
from spikesparse.training.predict import PredictionWriter
from spikesparse.training.single_values import refuse_single_values


class SpikeCLI(LightningCLI):
    """The command line of a run. Layers, from low to high: code, base.yaml, a checkpoint's settings, --config, flags.

    Args:
        args: the command line.
        fresh: begin a run anew; otherwise ``fit`` goes on with an unfinished one of the same command.

    Raises:
        Finished: if the run to fit is there already.
        NothingToTrain: if it is a run of no epochs.
        UserError: for settings that cannot be used, or if another process trains in the run's folder.
    """

    def __init__(self, args: list[str], fresh: bool = True) -> None:
        load_bolts()  # so that a config may name its classes
        read_counts_as_counts()
        self.line, self.fresh = CommandLine(args), fresh
        self.companions: list[Callback] = []  # of the trainer, beside those that settings name
        whole = self.line.without_allowed.with_checkpoint_settings()
        # No flags cut short: what is looked through before parsing (--weights_only, --config) goes by whole names.
        strict = {"exit_on_error": False, "allow_abbrev": False}
        with checked_parser(), SettingsErrors() as self._building, limited_imports(self.line.allowed):
            settings = whole.settings(read_values=True)
            check_settings(settings)
            refuse_linked(settings)
            check_parts([each for _, each in settings])
            super().__init__(
                SpikingClassifier,
                CIFAR10DataModule,
                save_config_callback=RunConfig,
                save_config_kwargs={"overwrite": True},
                seed_everything_default=0,
                auto_configure_optimizers=False,
                load_from_checkpoint_support=False,
                parser_kwargs=strict
                | {
                    name: strict | {"default_config_files": [str(CONFIGS / "base.yaml")]} for name in self.subcommands()
                },
                args=whole.for_parser(),
            )

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """The one that is asked for: to prepare a parser takes a quarter of a second."""
        known = LightningCLI.subcommands()
        return {name: known[name] for name in self.line.words[:1] if name in known} or known

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add our callbacks, and what follows from something else."""
        parser.add_lightning_class_args(SparsityAnnealing, "sparsity")
        parser.add_lightning_class_args(SpikeBudget, "budget")
        for name in ("schedule", "start_epoch", "end_epoch"):  # one ramp, whatever sets lambda
            parser.link_arguments(f"sparsity.{name}", f"budget.{name}")
        parser.add_lightning_class_args(PredictionWriter, "predictions")
        parser.add_lightning_class_args(Dashboard, "dashboard")
        parser.add_lightning_class_args(LastCheckpoint, "checkpoint")
        parser.link_arguments("seed_everything", "data.draw_seed", compute_fn=int)
        link_data_to_network(parser)

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse; an error knows which flags there are."""
        try:
            super().parse_arguments(parser, args)
        except argparse.ArgumentError as error:
            parsers = self._subcommand_parsers.values()
            raise Refused(error, (flag for each in parsers for flag in each._option_string_actions)) from error
        check_built(self.config[self.config.subcommand])
        if self.config.subcommand == "fit" and is_first_process():
            for line in unread_flags(self.line, self.config.fit):
                print(line, flush=True)

    def _parse_ckpt_path(self) -> None:
        """Not Lightning's way, which sets a checkpoint's settings above the user's flags."""

    def before_instantiate_classes(self) -> None:
        """Settle the run folder, and the horizon of a scheduler that asks for one."""
        assert self.subcommand is not None
        config = self.config[self.subcommand]
        refuse_spawning(config.trainer.strategy)
        refuse_a_crowd(config.trainer)
        refuse_unsafe_reading(config)
        check_network(config.model.net.class_path)
        init = getattr(config.model.scheduler, "init_args", None)
        if init is not None and init.get("max_epochs", 0) is None:  # cannot be a link: the scheduler is a callable
            init.max_epochs = config.trainer.max_epochs
            self.save_config_kwargs["horizon_filled_in"] = True
        self.run_folder = run_folder(config, self.line)
        if self.run_folder is not None:
            if self.subcommand == "fit":
                if not config.get("ckpt_path"):
                    self.run_folder = folder_of_command(self.run_folder, self.line)
                self.companions += settle_folder(self.run_folder, config, self.line, self.fresh)
            place_logger(config, self.run_folder)

    def instantiate_classes(self) -> None:
        """Build module, data and trainer; from then on, what fails is no longer the fault of settings or checkpoint."""
        super().instantiate_classes()
        assert self.subcommand is not None
        check_memory(self.subcommand, self.model.net, self.datamodule, self.trainer)
        self._building.over = not self.config[self.subcommand].get("ckpt_path")
        if not self._building.over:
            self.trainer.callbacks.append(self._building)  # type: ignore[attr-defined]

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """The trainer, whose checkpoints are written whole, unless it has a way of its own."""
        trainer = super().instantiate_trainer(**kwargs)
        # Neither Slurm nor torchrun.
        if isinstance(trainer._accelerator_connector.cluster_environment, LightningEnvironment):
            check_nodes(trainer.num_nodes)
        trainer.callbacks += [*self.companions, LoggersFailForThemselves()]  # type: ignore[attr-defined]
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = WholeFileIO()
        return trainer

    def before_fit(self) -> None:
        """Begin the run in its folder, if there is anything to train and no batch is known to be refused."""
        refuse_nothing(self.trainer)
        if is_first_process():
            refuse_single_values(self.trainer, self.model.net, self.datamodule)
        begin_folder(self.run_folder, self.config["fit"], self.line, self.datamodule)


def validate(args: list[str]) -> None:
    """Lightning's ``validate``, with its command line."""
    SpikeCLI(["validate", *args])


def predict(args: list[str]) -> None:
    """Lightning's ``predict``, with its command line."""
    SpikeCLI(["predict", *args])
