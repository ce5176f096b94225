"""The callback that stops a run at the first NaN or infinity, and says where it came from."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import Any, cast

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.utils.data import DataLoader

from spikesparse.data.loading import Batch
from spikesparse.errors import UserError
from spikesparse.files.finite import bad_value
from spikesparse.training.nonfinite import bad_image, bad_output, bad_weight, layer_of

Finding = tuple[int, str]  # how far from the cause, and what is not finite
_OF_TRAINING = ("training", "gradient")  # how the names of what is seen in a training step begin
_LOADERS = {"validation": "val_dataloaders", "test": "test_dataloaders", "prediction": "predict_dataloaders"}


class _First:
    """The first time that something was not finite, and what: kept on the device, so that nothing waits for it."""

    def __init__(self, device: torch.device) -> None:
        self.when = torch.full((), -1, dtype=torch.int64, device=device)
        self.what: Tensor | None = None

    def note(self, bad: Tensor, when: int, what: Tensor | None = None) -> None:
        """Keep when, and what, unless there was something before."""
        first = bad & (self.when < 0)
        self.when = torch.where(first, when, self.when)
        if what is not None:
            self.what = what if self.what is None else torch.where(first, what, self.what)

    def seen(self) -> bool:
        """Whether there was anything; waits for the device."""
        return bool(self.when >= 0)


class NonFiniteGuard(Callback):
    """Stops a run with an input, weight, loss or gradient that is not finite, before a checkpoint is written.

    A validation, test or prediction by itself stops likewise, before anything is reported: its weights are looked at
    before the first batch, the inputs and what comes of them with each.

    The gradient is looked at before every optimizer step: behind the all-reduce, so that every process sees the same.
    The verdict stays on the device and is read every ``log_every_n_steps`` steps (every step on a CPU, where reading is
    free), after each validation and at the epoch's end, ahead of the checkpoints. Only when something was found is the
    batch run once more, with hooks that tell the layer. What a process sees alone, its inputs and its loss, it tells
    the others after the validation or epoch: all stop with the same words.
    """

    def __init__(self) -> None:
        self._first: dict[str, _First] = {}
        self._batch: Any = None
        self._norms: Tensor | None = None  # of the epoch's gradients: their sum, and how many

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Forget what an earlier run of this trainer met."""
        self._first = {}

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Look at the input."""
        self._batch = batch
        self._note_images("training", batch, trainer.global_step, pl_module)

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Look at the loss."""
        self._of("training loss", pl_module).note(~loss.detach().isfinite(), trainer.global_step)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        """Look at the gradient, and read the verdict if it is time to."""
        if getattr(trainer.precision_plugin, "scaler", None) is None:
            # float16's loss scaling makes infinite gradients on purpose and skips those steps
            gradients = [gradient for _, gradient in _gradients(pl_module)]
            if not gradients:  # in the last epoch of SWA, which only measures BatchNorm's statistics
                return
            norms = torch.stack(torch._foreach_norm(gradients))
            norm = torch.linalg.vector_norm(norms)
            one = torch.stack([norm.float(), norm.new_ones((), dtype=torch.float32)])  # bfloat16 counts to 256
            self._norms = one if self._norms is None else self._norms.to(one) + one
            self._of("gradient", pl_module).note(~norm.isfinite(), trainer.global_step, ~norms.isfinite())
        if pl_module.device.type == "cpu" or trainer.global_step % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            common = "gradient" if trainer.world_size > 1 else ""  # what all processes see
            if self._any_seen(common):
                self._stop(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look once more, and at the weights themselves: checkpoints are written after this. Log the norm."""
        self._batch = None
        if self._norms is not None:
            pl_module.log("health/gradient_norm", self._norms[0] / self._norms[1], on_step=False, on_epoch=True)
            self._norms = None
        if trainer.world_size > 1 or self._any_seen() or bad_weight(pl_module) is not None:
            self._stop(trainer, pl_module)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Refuse to keep weights that are not finite, whenever that is; averaged ones may have taken their place."""
        averaged = checkpoint["state_dict"] if "current_model_state" in checkpoint else {}
        if bad_weight(pl_module) is not None or bad_value(averaged) is not None:
            self._stop(trainer, pl_module, averaged)

    def state_dict(self) -> dict[str, Any]:
        """The norms of an epoch that is under way; every process has the same."""
        return {} if self._norms is None else {"norms": self._norms.cpu()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with them."""
        self._norms = state_dict.get("norms")

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at the weights of a network that is only measured; of one in training others do."""
        if not _trains(trainer) and (trainer.world_size > 1 or bad_weight(pl_module) is not None):
            self._stop(trainer, pl_module)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """As :meth:`on_validation_start`."""
        self.on_validation_start(trainer, pl_module)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """As :meth:`on_validation_start`."""
        self.on_validation_start(trainer, pl_module)

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Look at the input."""
        self._note_images(_split(trainer), batch, batch_idx, pl_module)

    def on_test_batch_start(self, *args: Any, **kwargs: Any) -> None:
        """As :meth:`on_validation_batch_start`."""
        self.on_validation_batch_start(*args, **kwargs)

    def on_predict_batch_start(self, *args: Any, **kwargs: Any) -> None:
        """As :meth:`on_validation_batch_start`."""
        self.on_validation_batch_start(*args, **kwargs)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Look at the loss, or the other outputs of a batch."""
        values = outputs.values() if isinstance(outputs, dict) else []
        values = [value for value in values if isinstance(value, Tensor) and value.is_floating_point()]
        if values and len(batch.labels):  # a process without images has an empty batch, and no loss
            bad = torch.stack([~value.isfinite().all() for value in values]).any()
            self._of(f"{_split(trainer)} output", pl_module).note(bad, batch_idx)
        # Before predictions are written, at the end; these are read with each batch, so that nothing waits for it.
        read = pl_module.device.type == "cpu" or not trainer.validating
        if not _trains(trainer) and read and trainer.world_size == 1 and self._any_seen(_split(trainer)):
            self._stop(trainer, pl_module)

    def on_test_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """As :meth:`on_validation_batch_end`."""
        self.on_validation_batch_end(*args, **kwargs)

    def on_predict_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """As :meth:`on_validation_batch_end`."""
        self.on_validation_batch_end(*args, **kwargs)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Read the verdict."""
        if trainer.world_size > 1 or self._any_seen(_split(trainer)):
            self._stop(trainer, pl_module)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """As :meth:`on_validation_epoch_end`."""
        self.on_validation_epoch_end(trainer, pl_module)

    def on_predict_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """As :meth:`on_validation_epoch_end`."""
        self.on_validation_epoch_end(trainer, pl_module)

    def _of(self, kind: str, pl_module: LightningModule) -> _First:
        return self._first.setdefault(kind, _First(pl_module.device))

    def _note_images(self, split: str, batch: Any, when: int, pl_module: LightningModule) -> None:
        if isinstance(batch, Batch):
            image = bad_image(batch.images, batch.indices)
            self._of(f"{split} input", pl_module).note(image >= 0, when, image)

    def _any_seen(self, kind: str = "") -> bool:
        return any(first.seen() for name, first in self._first.items() if kind in name)

    def _stop(self, trainer: Trainer, pl_module: LightningModule, averaged: Mapping[str, Tensor] | None = None) -> None:
        """End the run, if any process found anything, with what is nearest to the cause.

        Args:
            trainer: of the run.
            pl_module: that is trained or measured.
            averaged: weights that are about to be kept in place of the module's own.

        Raises:
            UserError: what was not finite, in which layer or image, with step, epoch, learning rate and lambda.
        """
        findings: list[Any] = [self._find(trainer, pl_module, averaged or {})]
        if trainer.world_size > 1:
            findings *= trainer.world_size
            torch.distributed.all_gather_object(findings, findings[0])
        found = min((finding for finding in findings if finding is not None), default=None)
        if found is None:
            return
        if not _trains(trainer):
            mend = "Mend that image, or --data.encoder." if found[0] == 0 else "Name another checkpoint, or train anew."
            raise UserError(f"{found[1]}: nothing is reported of what would mean nothing. {mend}")
        rate = trainer.optimizers[0].param_groups[0]["lr"] if trainer.optimizers else 0.0
        mend = "Lower --model.optimizer.lr, or set --trainer.gradient_clip_val=1."
        raise UserError(
            f"{found[1]}, epoch {trainer.current_epoch}: learning rate {rate:.3g}, lambda "
            f"{getattr(pl_module, 'sparsity_weight', 0.0):.3g}. Training stopped; checkpoints of earlier epochs are "
            f"kept. {'Mend that image, or --data.encoder.' if found[0] == 0 else mend}"
        )

    def _find(self, trainer: Trainer, pl_module: LightningModule, averaged: Mapping[str, Tensor]) -> Finding | None:
        """What this process can say."""
        seen = {kind: first for kind, first in self._first.items() if first.seen()}
        training = [int(first.when) for kind, first in seen.items() if kind.startswith(_OF_TRAINING)]
        step = min(training, default=trainer.global_step)
        # On a GPU steps may lie between: by then, what began anywhere has reached every weight.
        now = step == trainer.global_step
        weight = (bad_weight(pl_module) or bad_value(averaged)) if now else None
        # Run again by all processes or by none: layers that share their statistics wait for each other.
        ran = now and weight is None and ("gradient" in seen or (trainer.world_size == 1 and bool(training)))
        output = self._run_again(trainer, pl_module, self._batch) if ran else None
        at = f"not finite (NaN or infinity){f' at step {step}' if _trains(trainer) else ''}"
        if "training input" in seen:
            return 0, f"the input of the network, training image {_value(seen['training input'])}, is {at}"
        if weight is not None:
            return 1, f"a weight of layer {layer_of(weight)} ({weight}) is {at}"
        if output is not None:
            return 2, f"the output of layer {layer_of(output)} ({output}) is {at}"
        if "training loss" in seen:
            return 3, f"the loss{', with finite outputs of every layer,' if ran else ''} is {at}"
        if "gradient" in seen:
            names = [name for name, _ in _gradients(pl_module)]
            flags = cast(Tensor, seen["gradient"].what).tolist()
            name = [name for name, bad in zip(names, flags, strict=True) if bad][-1]  # the nearest to the loss
            return 4, f"the gradient of layer {layer_of(name)} ({name}) is {at}"
        return self._find_in_evaluation(trainer, pl_module, seen)

    def _find_in_evaluation(
        self, trainer: Trainer, pl_module: LightningModule, seen: dict[str, _First]
    ) -> Finding | None:
        at = f"not finite (NaN or infinity){f' at step {trainer.global_step}' if _trains(trainer) else ''}"
        split = next((split for split in _LOADERS if any(kind.startswith(split) for kind in seen)), "")
        if f"{split} input" in seen:
            image = _value(seen[f"{split} input"])
            return 0, f"the input of the network, image {image} of {split}, is {at}"
        if f"{split} output" not in seen:
            return None
        number, loaders = int(seen[f"{split} output"].when), getattr(trainer, _LOADERS[split])
        batch = next(islice(loaders, number, None)) if isinstance(loaders, DataLoader) else None
        output = self._run_again(trainer, pl_module, trainer.strategy.batch_to_device(batch))
        if output is not None:
            return 2, f"the output of layer {layer_of(output)} ({output}) in {split} batch {number} is {at}"
        what = "validation loss of" if _trains(trainer) else f"output of the network in {split}"
        return 3, f"the {what} batch {number} is {at}"

    def _run_again(self, trainer: Trainer, pl_module: LightningModule, batch: Any) -> str | None:
        net = getattr(pl_module, "net", None)  # itself, not what is compiled or wrapped, where hooks are not called
        if not isinstance(net, nn.Module) or not isinstance(batch, Batch):
            return None
        with trainer.precision_plugin.forward_context():
            name = bad_output(net, lambda: net(batch.images.to(pl_module.dtype)))
        return None if name is None else f"net.{name}"


def _trains(trainer: Trainer) -> bool:
    return trainer.state.fn == TrainerFn.FITTING


def _split(trainer: Trainer) -> str:
    return "test" if trainer.testing else "prediction" if trainer.predicting else "validation"


def _value(first: _First) -> int:
    return int(cast(Tensor, first.what))


def _gradients(module: nn.Module) -> list[tuple[str, Tensor]]:
    return [(name, weight.grad) for name, weight in module.named_parameters() if weight.grad is not None]
