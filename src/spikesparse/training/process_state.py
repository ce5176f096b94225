"""What a checkpoint must hold besides Lightning's own, to go on exactly: also from the middle of an epoch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.trainer import call
from torch import Tensor

from spikesparse.data.loading import ResumableLoader
from spikesparse.errors import UserError
from spikesparse.metrics.split import SplitMetrics


class ProcessState(Callback):
    """Keeps torch's random state and the epoch's training metrics, of every process, and takes an epoch up midway.

    Dropout draws from torch's generator; all other randomness is a function of (seed, epoch, sample) and has no state.
    Lightning resumes within an epoch by counting its batches, but starts the loader at its first one, does not call
    ``on_train_epoch_start`` again, which sets lambda, and forgets what has been measured.
    """

    def __init__(self) -> None:
        self._loaded: dict[str, Any] | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse to begin where some processes would go on from a checkpoint that others do not see.

        Raises:
            UserError: in all of them; they would wait for each other otherwise.
        """
        if stage != "fit" or trainer.world_size == 1 or not torch.distributed.is_initialized():
            return
        name = Path(str(trainer.ckpt_path)).name if trainer.ckpt_path else "the beginning"
        names: list[Any] = [name] * trainer.world_size
        torch.distributed.all_gather_object(names, name)
        if len(set(names)) > 1:
            raise UserError(
                f"the processes would start from different places ({', '.join(sorted(set(names)))}): the run folder "
                "must lie on a file system that all machines share."
            )

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Gather the states; every process takes part."""
        own: dict[str, Any] = {"cpu": torch.get_rng_state(), "metrics": _training_metrics(pl_module)}
        own["batches"] = _batches(trainer)
        if pl_module.device.type == "cuda":
            own["cuda"] = torch.cuda.get_rng_state(pl_module.device)
        states: list[Any] = [own]
        if trainer.world_size > 1:
            states = [None] * trainer.world_size
            torch.distributed.all_gather_object(states, own)
        checkpoint["processes"] = states

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keep the states until training starts: numbers that are drawn before then do not count."""
        if trainer.state.fn != "fit":  # a checkpoint that is only tested: a training after it goes on from elsewhere
            return
        self._loaded = {"processes": checkpoint.get("processes"), "measured": checkpoint.get("measured", {})}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put this process's state back; within an epoch, go to the place in it."""
        loaded, self._loaded = self._loaded, None
        if loaded is None:
            return
        _put_measured_back(trainer, pl_module, loaded["measured"])
        states = loaded["processes"]
        own = states[trainer.global_rank] if states is not None and len(states) == trainer.world_size else None
        if trainer.fit_loop.restarted_mid_epoch:
            _take_up(trainer, pl_module, own)
        if own is not None:
            torch.set_rng_state(own["cpu"].cpu())
            if "cuda" in own and pl_module.device.type == "cuda":
                torch.cuda.set_rng_state(own["cuda"].cpu(), pl_module.device)


def _take_up(trainer: Trainer, pl_module: LightningModule, own: dict[str, Any] | None) -> None:
    """Go to the middle of the epoch in which the checkpoint was written.

    Raises:
        UserError: if the batches of that epoch were others.
    """
    batches = trainer.fit_loop.epoch_loop.batch_progress.current.ready
    metrics = _metrics_by_name(pl_module)
    if own is None or own["batches"] != _batches(trainer) or own["metrics"].keys() != metrics.keys():
        raise UserError(
            f"--ckpt_path={trainer.ckpt_path}: it was written within an epoch whose batches were others: another "
            "number of processes, batch size or training set, or by another version of spikesparse. Take those, or "
            "last.ckpt, of the end of an epoch."
        )
    for loader in _loaders(trainer):
        loader.skip(batches)
    for name, state in own["metrics"].items():
        metric = metrics[name]
        for key, value in state.items():
            setattr(metric, key, value.to(pl_module.device))
        metric._update_count = 1  # torchmetrics warns of a metric that is asked for its value unused
    # Whoever does something at the start of an epoch has not done it in this process.
    call._call_callback_hooks(trainer, "on_train_epoch_start")
    call._call_lightning_module_hook(trainer, "on_train_epoch_start")


def _loaders(trainer: Trainer) -> list[ResumableLoader]:
    combined = trainer.fit_loop._combined_loader
    loaders = combined.flattened if combined is not None else []
    return [loader for loader in loaders if isinstance(loader, ResumableLoader)]


def _batches(trainer: Trainer) -> list[list[int]]:
    """What decides an epoch's batches, for each loader."""
    return [[rows.size, rows.batch_size, rows.num_replicas] for rows in (each.sampler for each in _loaders(trainer))]


def _put_measured_back(trainer: Trainer, pl_module: LightningModule, measured: dict[str, float]) -> None:
    """The values of the last validation: an epoch without a validation uses them."""
    known: Any = getattr(pl_module, "measured", None)
    if known is not None:
        known.update(measured)
        trainer.callback_metrics.update({k: torch.tensor(v) for k, v in measured.items() if k.endswith("/val")})


def _metrics_by_name(pl_module: LightningModule) -> dict[str, Any]:
    metrics = getattr(pl_module, "split_metrics", None)
    split = metrics["train_"] if metrics is not None else None
    return dict(split.named_children()) if isinstance(split, SplitMetrics) else {}


def _training_metrics(pl_module: LightningModule) -> dict[str, dict[str, Tensor]]:
    """This process's own sums of the epoch so far, by metric and state."""
    return {
        name: {key: getattr(metric, key).detach().cpu().clone() for key in metric._defaults}
        for name, metric in _metrics_by_name(pl_module).items()
    }
