"""The LightningCLI: fit, validate, test and predict."""

from __future__ import annotations

from typing import Any

from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO
from pytorch_lightning import Trainer
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI

from spikesparse.bolts import load_bolts
from spikesparse.checkpoints import refuse_unsafe_reading
from spikesparse.dashboard import Dashboard
from spikesparse.data import CIFAR10DataModule
from spikesparse.imports import check_settings, limited_imports, split_allowed
from spikesparse.load import link_data_to_network
from spikesparse.module import SpikingClassifier
from spikesparse.own import check_network
from spikesparse.paths import CONFIGS
from spikesparse.predict import PredictionWriter
from spikesparse.resume import prepare_folder
from spikesparse.runs import (
    RunConfig,
    named_settings,
    place_logger,
    refuse_spawning,
    run_folder,
    with_checkpoint_settings,
)
from spikesparse.saving import LastCheckpoint, WholeFileIO
from spikesparse.settings_errors import SettingsErrors
from spikesparse.sparsity import SparsityAnnealing, SpikeBudget
from spikesparse.trainer_flags import read_counts_as_counts
from spikesparse.yaml_files import checked_parser


class SpikeCLI(LightningCLI):
    """Layers, from low to high: code, configs/base.yaml, a checkpoint's settings, --config files, flags.

    What these may import is limited; see :mod:`spikesparse.imports`.

    Args:
        args: the command line.
        fresh: begin a run anew; otherwise ``fit`` goes on with an unfinished one of the same command.

    Raises:
        Finished: if the run to fit is there already.
    """

    def __init__(self, args: list[str], fresh: bool = True) -> None:
        load_bolts()  # so that a config may name its classes
        read_counts_as_counts()
        self.args, self.fresh = args, fresh
        given, prefixes = split_allowed(args)
        whole = with_checkpoint_settings(given)
        with limited_imports(prefixes), checked_parser(), SettingsErrors() as self._building:
            check_settings(named_settings(whole, read_values=True))
            self._parse_and_run(whole)

    def _parse_and_run(self, args: list[str]) -> None:
        super().__init__(
            SpikingClassifier,
            CIFAR10DataModule,
            save_config_callback=RunConfig,
            save_config_kwargs={"overwrite": True},
            seed_everything_default=0,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            parser_kwargs={"exit_on_error": False}
            | {
                name: {"default_config_files": [str(CONFIGS / "base.yaml")], "exit_on_error": False}
                for name in ("fit", "validate", "test", "predict")
            },
            args=args,
        )

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

    def instantiate_classes(self) -> None:
        """Build module, data and trainer; from then on, what fails is no longer the fault of settings or checkpoint."""
        super().instantiate_classes()
        assert self.subcommand is not None
        if not self.config[self.subcommand].get("ckpt_path"):
            self._building.over = True
        else:
            self.trainer.callbacks.append(self._building)  # type: ignore[attr-defined]

    def _parse_ckpt_path(self) -> None:
        """Not Lightning's way, which sets a checkpoint's settings above the user's flags."""

    def before_instantiate_classes(self) -> None:
        """Settle the run folder, and the horizon of a scheduler that asks for one."""
        assert self.subcommand is not None
        config = self.config[self.subcommand]
        refuse_spawning(config.trainer.strategy)
        refuse_unsafe_reading(config)
        check_network(config.model.net.class_path)
        init = getattr(config.model.scheduler, "init_args", None)
        if init is not None and init.get("max_epochs", 0) is None:  # cannot be a link: the scheduler is a callable
            init.max_epochs = config.trainer.max_epochs
        self.run_folder = run_folder(config, self.args)
        if self.run_folder is not None:
            if self.subcommand == "fit" and not config.get("ckpt_path") and not config.trainer.fast_dev_run:
                found = prepare_folder(self.run_folder, self.args, self.fresh)
                config.ckpt_path = None if found is None else str(found)
            place_logger(config, self.run_folder)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """The trainer, whose checkpoints are written whole, unless it has a way of its own."""
        trainer = super().instantiate_trainer(**kwargs)
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = WholeFileIO()
        return trainer
