"""The LightningModule."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule
from pytorch_lightning.cli import LRSchedulerCallable, OptimizerCallable
from pytorch_lightning.utilities.rank_zero import rank_zero_info
from torch import Tensor, nn
from torch.nn import functional as F

from spikesparse.data import CIFAR10DataModule
from spikesparse.data.loading import Batch
from spikesparse.errors import UserError, choose, path_of
from spikesparse.files.checkpoint import check_state_dict, read_checkpoint
from spikesparse.metrics import EnergyConstants, SpikeBill
from spikesparse.metrics.split import SplitMetrics
from spikesparse.nn import SpikingNetwork, SpikingOutput
from spikesparse.nn.early_exit import EarlyExit
from spikesparse.nn.hooks import hooked
from spikesparse.nn.network import output_of, takes
from spikesparse.settings.build import arguments_of
from spikesparse.settings.build_errors import SettingsErrors
from spikesparse.sparsity import Penalty, SpikePenalty
from spikesparse.sparsity.penalty import penalty_of
from spikesparse.training.distillation import Distillation
from spikesparse.training.interruption import Interruption
from spikesparse.training.nonfinite_guard import NonFiniteGuard
from spikesparse.training.process_state import ProcessState
from spikesparse.training.progress import TrainingTime
from spikesparse.training.silent_layers import SilentLayers
from spikesparse.training.single_values import refuse_single_values
from spikesparse.training.sync_batchnorm import honour_sync_batchnorm
from spikesparse.training.teacher import load_teacher, logits_of
from spikesparse.training.weight_averaging import average_before_validation, forget_averages

LOSSES = ("cross_entropy", "squared_error")
#: How the network is compiled for training: not at all, or in one of torch.compile's modes.
COMPILE = ("off", "default", "reduce-overhead", "max-autotune")

# So that a checkpoint whose save_hyperparameters() kept them can be read: they are numbers and names, and run no code.
torch.serialization.add_safe_globals([EnergyConstants, Distillation, EarlyExit])


def _default_optimizer(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=1e-3, weight_decay=1e-2)


class SpikingClassifier(LightningModule):
    """Trains a spiking network to classify, and to spend few spikes.

    The loss is task loss + lambda * penalty. Lambda is :attr:`sparsity_weight`: 0 unless a callback such as
    :class:`spikesparse.SparsityAnnealing` sets it.

    Args:
        net: the network; any module whose forward returns a :class:`spikesparse.SpikingOutput`.
        optimizer: parameters -> optimizer; AdamW at rate 1e-3 with weight decay 1e-2 unless given.
        scheduler: optimizer -> learning-rate scheduler, stepped once per epoch; None keeps the rate.
        decay_weights_only: the optimizer's weight decay holds convolutions and linear layers alone. BatchNorm's scales
            are left out then: decay makes currents smaller through them, so the network quieter.
        loss: "cross_entropy", or "squared_error": against one-hot targets, summed over classes (Lee et al. 2020 sum
            it over the batch as well; here it is the mean, so that the learning rate does not depend on the batch).
        label_smoothing: of the cross-entropy.
        step_loss: share, in [0, 1], of the mean of the losses after 1, 2, ..., T steps; the rest is that after T. It
            makes early answers worth something (after Deng et al. 2022, arXiv 2202.11946, who take each step's output
            by itself). In training only.
        penalty: what a spike costs, any module that makes a scalar of a tally; None is
            :class:`spikesparse.SpikePenalty` by spikes.
        energy: what an accumulate and a multiply-accumulate cost, for the energy that is reported.
        distillation: learn from a trained network's logits too.
        early_exit: when evaluation stops for an image; the default runs all T steps.
        init_from: a checkpoint whose weights to start from; nothing else of it is used.
        compile: compile the network's training pass by torch.compile in that mode; "reduce-overhead" records CUDA
            graphs. "off" is the same training without the minute that it takes, and with other masks of dropout.

    Attributes:
        sparsity_weight: lambda.
        learning_rate: in place of the optimizer's own, unless it is None; Lightning's ``Tuner`` sets it.

    Raises:
        UserError: for an unknown loss or mode, an ``init_from`` of another architecture, or a network that lacks what
            ``step_loss`` or ``early_exit`` needs.
    """

    sparsity_weight: float

    def __init__(
        self,
        net: SpikingNetwork,
        optimizer: OptimizerCallable = _default_optimizer,  # no lambda: it could not be pickled
        scheduler: LRSchedulerCallable | None = None,
        decay_weights_only: bool = False,
        loss: str = "cross_entropy",
        label_smoothing: float = 0.0,
        step_loss: float = 0.0,
        penalty: Penalty | None = None,
        energy: EnergyConstants = EnergyConstants(),  # noqa: B008 (frozen)
        distillation: Distillation = Distillation(),  # noqa: B008 (frozen)
        early_exit: EarlyExit = EarlyExit(),  # noqa: B008 (frozen)
        init_from: str | None = None,
        compile: str = "off",
    ) -> None:
        super().__init__()
        self.net = net
        self.optimizer, self.scheduler, self.decay_weights_only = optimizer, scheduler, decay_weights_only
        self.loss = choose("loss", loss, LOSSES, "--model.loss")
        if not 0.0 <= label_smoothing < 1.0:
            raise UserError(f"--model.label_smoothing={label_smoothing}: it must lie in [0, 1); 0 is none.")
        self.label_smoothing = label_smoothing
        if not 0.0 <= step_loss <= 1.0:
            raise UserError(f"--model.step_loss={step_loss}: it must lie in [0, 1]; 0.5 is usual, 0 is off.")
        self.step_loss = step_loss
        self.compile_mode = choose("mode", compile, COMPILE, "--model.compile")
        self._trained_forward: Callable[..., Any] | None = None  # compiled, while fitting
        self.penalty = penalty or SpikePenalty()
        self.sparsity_weight = 0.0
        self.learning_rate: float | None = None
        self.energy = energy
        self.distillation, self.early_exit = distillation, early_exit
        self._teacher: list[nn.Module] = []  # in a list, so that no checkpoint and no optimizer holds its weights
        self.measured: dict[str, float] = {}  # the newest logged values in full precision, for the tables
        self.bills: dict[str, SpikeBill] = {}  # the newest of each split
        self.split_metrics = nn.ModuleDict({f"{split}_": SplitMetrics(energy) for split in ("train", "val", "test")})
        self._records = takes(net, "record")
        if init_from:
            weights = read_checkpoint(init_from, "--model.init_from")["state_dict"]
            check_state_dict(weights, self.state_dict(), f"--model.init_from={init_from}")
            self.load_state_dict(weights)

    def forward(self, x: Tensor, record: str | None = None) -> SpikingOutput:
        """Input (T, B, C, H, W), or a constant current (B, C, H, W) -> logits and spike tally.

        ``record`` as in :class:`spikesparse.SpikingNetwork`; a network whose forward does not have it keeps none.
        """
        x = x.to(self.dtype)  # encoded in float32 whatever the precision; under bf16-true the weights are not
        if self.training and self._trained_forward is not None and not hooked(self.net):  # which is not compiled
            return output_of(self._trained_forward, x)
        return output_of(self.net, x, record=record) if self._records else output_of(self.net, x)

    def setup(self, stage: str) -> None:
        """Refuse what cannot be trained; compile; fetch a teacher; honour sync_batchnorm.

        Raises:
            UserError: for a launch of one model per process by mistake, or a batch of one image that a BatchNorm of the
                network cannot take.
        """
        if stage == "fit" and self.compile_mode != "off":
            self._trained_forward = torch.compile(self.net.forward, mode=self.compile_mode)
        if stage == "fit" and self.distillation.teacher:
            self._teacher = [load_teacher(self.distillation.teacher, self.trainer.datamodule)]  # type: ignore[attr-defined]
        honour_sync_batchnorm(self.trainer)
        data = getattr(self.trainer, "datamodule", None)
        if stage == "fit" and isinstance(data, CIFAR10DataModule):
            refuse_single_values(self.trainer, self.net, data)
        processes = int(os.environ.get("WORLD_SIZE", "1")) if "TORCHELASTIC_RUN_ID" in os.environ else 1
        if processes > 1 and self.trainer.world_size != processes:
            raise UserError(
                f"torchrun started {processes} processes, but each of them would train a model of its own (world size "
                f"{self.trainer.world_size}). Add --trainer.strategy=ddp --trainer.devices=<processes per node>."
            )

    def teardown(self, stage: str) -> None:
        """Forget what was compiled, and the teacher: the module can be copied and pickled again."""
        self._trained_forward = None
        self._teacher = []
        forget_averages(self.trainer)

    def configure_callbacks(self) -> list[Callback]:
        """What accompanies every training run, unless it is there already."""
        present = {type(callback) for callback in self.trainer.callbacks}  # type: ignore[attr-defined]
        always = (NonFiniteGuard, SilentLayers, ProcessState, Interruption, TrainingTime)
        return [each() for each in always if each not in present]

    def configure_optimizers(self) -> Any:
        """Optimizer, and scheduler stepped once per epoch."""
        with SettingsErrors():  # both are built only now: a negative rate, say, is seen here
            optimizer = self.optimizer(self._decayed() if self.decay_weights_only else self.parameters())
            for group in optimizer.param_groups if self.learning_rate is not None else ():
                group["lr"] = self.learning_rate
            scheduler = None if self.scheduler is None else self.scheduler(optimizer)
        if scheduler is None:
            return optimizer
        config: dict[str, Any] = {"scheduler": scheduler, "interval": "epoch"}
        if isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
            config["monitor"] = getattr(scheduler, "monitor", "loss/task/val")
        return {"optimizer": optimizer, "lr_scheduler": config}

    def on_fit_start(self) -> None:
        """Bring the teacher to where the student is."""
        self._teacher = [teacher.to(self.device).to(self.dtype) for teacher in self._teacher]

    def on_train_start(self) -> None:
        """Say and log the global batch."""
        per_process = getattr(getattr(self.trainer, "datamodule", None), "batch_size", None)
        if per_process is not None:
            world, accumulated = self.trainer.world_size, self.trainer.accumulate_grad_batches
            total = per_process * world * accumulated
            for logger in self.loggers:
                logger.log_metrics({"schedule/global_batch_size": total}, step=self.global_step)
            if world * accumulated > 1:
                rank_zero_info(f"global batch: {per_process} x {world} processes x {accumulated} accumulated = {total}")

    def on_train_epoch_start(self) -> None:
        """Log the learning rate of the epoch."""
        rate = self.trainer.optimizers[0].param_groups[0]["lr"]
        self.log("schedule/learning_rate", float(rate), on_step=False, on_epoch=True)

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """Loss of a batch."""
        output = self(batch.images)
        task, sparsity = self._trained_loss(batch, output), penalty_of(self.penalty, output.tally)
        self._metrics("train").update(output, batch.labels, task, sparsity)
        # At lambda 0 the penalty is only watched: no gradient of zeros is sent through the network.
        weighted = self.sparsity_weight * sparsity.to(task.dtype) if self.sparsity_weight else 0.0
        return {"loss": task + weighted, "tally": output.tally.detach()}

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Measure a batch; returns its task loss."""
        return {"loss": self._measured(batch, "val")[1]}

    def test_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Measure a batch; returns what :meth:`predict_step` does."""
        return self._measured(batch, "test")[0]

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Index, label, predicted class, confidence (its softmax probability), spikes and steps of every image."""
        return self._measured(batch, None)[0]

    def on_train_epoch_end(self) -> None:
        """Log the training split."""
        self._log("train")

    def on_validation_start(self) -> None:
        """Validate the averaged weights that the epoch's checkpoints are to keep."""
        average_before_validation(self.trainer, self)

    def on_validation_epoch_end(self) -> None:
        """Log the validation split."""
        self._log("val")

    def on_test_epoch_end(self) -> None:
        """Log the test split."""
        self._log("test")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what was last measured of these weights: accuracy, spikes and the rest, by tag."""
        checkpoint["measured"] = dict(self.measured)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse another architecture's weights before anything is loaded."""
        translated = any(module._load_state_dict_pre_hooks for module in self.modules())  # by hooks of the user's own
        if self._trainer is not None and self.strict_loading and not translated:
            check_state_dict(checkpoint["state_dict"], self.state_dict(), f"--ckpt_path={self.trainer.ckpt_path}")

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Lightning's. Of a run of the command line no ``net`` need be named: its checkpoints keep their settings.

        Raises:
            UserError: as :func:`spikesparse.load_run`, where the settings are used.
        """
        lacking = "net" in inspect.signature(cls).parameters and "net" not in kwargs
        if lacking and kwargs.get("weights_only") is not False and Path(str(checkpoint_path)).is_file():
            settings = read_checkpoint(checkpoint_path, flag=None).get("settings")
            kwargs = (arguments_of(cls, settings, str(checkpoint_path)) if settings else {}) | kwargs
        return super().load_from_checkpoint(checkpoint_path, *args, **kwargs)

    def _decayed(self) -> list[dict[str, Any]]:
        """The parameters as two groups: with the optimizer's weight decay, and with none."""
        weights = [each for each in self.parameters() if each.dim() > 1]
        others = [each for each in self.parameters() if each.dim() <= 1]
        return [{"params": weights}, {"params": others, "weight_decay": 0.0}]

    def _trained_loss(self, batch: Batch, output: SpikingOutput) -> Tensor:
        taught = logits_of(self._teacher[0], batch.images.to(self.dtype)) if self._teacher else None
        last = self._taught_loss(output.logits, batch.labels, taught)
        if not self.step_loss:
            return last
        if output.step_logits is None:
            raise UserError(
                f"--model.step_loss={self.step_loss}: {path_of(self.net)} returns no step_logits; see "
                "docs/own_network.md."
            )
        steps = len(output.step_logits)
        taught = None if taught is None else taught.repeat(steps, 1)
        each = self._taught_loss(output.step_logits.flatten(0, 1), batch.labels.repeat(steps), taught)
        return (1.0 - self.step_loss) * last + self.step_loss * each

    def _taught_loss(self, logits: Tensor, labels: Tensor, taught: Tensor | None) -> Tensor:
        task = self._task_loss(logits, labels)
        return task if taught is None else self.distillation.loss(task, logits, taught)

    def _task_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        if self.loss == "cross_entropy":
            return F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
        target = F.one_hot(labels, logits.shape[1]).to(logits.dtype)
        return (logits - target).square().sum(1).mean()

    def _measured(self, batch: Batch, split: str | None) -> tuple[dict[str, Tensor], Tensor]:
        """Evaluate a batch; count it in a split's metrics, if one is named.

        Returns:
            What came of each image, in the batch's order, and their mean task loss (0 if no split is named).
        """
        record = {"record": "neurons"} if split and self._records else {}
        order, rows, loss = [], [], torch.zeros((), device=self.device)
        for of, output in self.early_exit.answers(self.net, batch.images.to(self.dtype), **record):
            labels, indices = batch.labels[of], batch.indices[of]
            if split:
                task, sparsity = self._task_loss(output.logits, labels), penalty_of(self.penalty, output.tally)
                self._metrics(split).update(output, labels, task, sparsity)
                loss = loss + task * (len(of) / max(1, len(batch.labels)))
            order.append(of)
            rows.append(_predictions(labels, indices, output))
        places = torch.cat(order).argsort()
        return {name: torch.cat([row[name] for row in rows])[places] for name in rows[0]}, loss

    def _metrics(self, split: str) -> SplitMetrics:
        metrics = self.split_metrics[f"{split}_"]  # ModuleDict has a method "train" already
        assert isinstance(metrics, SplitMetrics)
        return metrics

    def _log(self, split: str) -> None:
        # Values, not Metric objects: a per-layer metric is a dict, which Lightning cannot take. They are summed over
        # the processes already, so no sync_dist.
        values, self.bills[split] = self._metrics(split).compute(split)
        self.log_dict(values, prog_bar=False)
        self.measured |= values


def _predictions(labels: Tensor, indices: Tensor, output: SpikingOutput) -> dict[str, Tensor]:
    confidence, predicted = output.logits.softmax(1).max(1)
    return {
        "index": indices,
        "label": labels,
        "predicted": predicted,
        "confidence": confidence,
        "spikes": output.tally.spikes.sum(0).to(torch.int64),
        "steps": torch.full_like(predicted, output.tally.timesteps),
    }
