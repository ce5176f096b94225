"""The LightningCLI: fit, validate, test and predict."""

from __future__ import annotations

from pytorch_lightning.cli import LightningArgumentParser

from spikesparse.commands.guarded_cli import GuardedCLI
from spikesparse.files.checkpoint import refuse_unsafe_reading
from spikesparse.runs.folder import place_logger, run_folder
from spikesparse.runs.launch import refuse_a_crowd, refuse_spawning
from spikesparse.runs.peers import is_first_process
from spikesparse.runs.resume import begin_folder, folder_of_command, refuse_nothing, settle_folder
from spikesparse.runs.saving import LastCheckpoint
from spikesparse.settings.build import link_data_to_network
from spikesparse.settings.parts import check_network
from spikesparse.sparsity import SparsityAnnealing, SpikeBudget
from spikesparse.training.dashboard import Dashboard
from spikesparse.training.predict import PredictionWriter
from spikesparse.training.single_values import refuse_single_values


class SpikeCLI(GuardedCLI):
    """The command line of a run.

    Args:
        args: the command line.
        fresh: begin a run anew; otherwise ``fit`` goes on with an unfinished one of the same command.

    Raises:
        Finished: if the run to fit is there already.
        NothingToTrain: if it is a run of no epochs.
        UserError: if another process trains in the run's folder.
    """

    def __init__(self, args: list[str], fresh: bool = True) -> None:
        self.fresh = fresh
        super().__init__(args)

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
