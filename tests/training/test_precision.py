"""bfloat16 beside float32: a short run on the digits, within the bounds that docs/safety.md states."""

import pytest
import torch
from pytorch_lightning import Trainer

from spikesparse import CIFAR10DataModule, SparsityAnnealing, SpikingClassifier, SpikingVGG
from spikesparse.commands.quiet import quiet

EPOCHS = 4
TAGS = {"accuracy": "accuracy/val", "spikes": "efficiency/spikes_per_image/val", "loss": "loss/task/val"}
#: Of validation: points of accuracy, and relative differences of spikes per image and task loss. The largest of ten
#: seeds were 2.1 points, 2.0 % and 0.04 % before training, 2.8 points, 17 % and 23 % after it: the same weights compute
#: nearly the same, but in training two roundings part as two seeds do.
BEFORE = {"accuracy": 0.03, "spikes": 0.03, "loss": 0.001}
AFTER = {"accuracy": 0.05, "spikes": 0.25, "loss": 0.35}


def measured(precision, seed, epochs=EPOCHS):
    """What validation measures after a short run with a rising lambda, or before it."""
    torch.manual_seed(seed)
    net = SpikingVGG("8-P-16-P", timesteps=4)
    model = SpikingClassifier(net, lambda parameters: torch.optim.AdamW(parameters, lr=4e-3))
    data = CIFAR10DataModule(source="digits", batch_size=64, draw_seed=seed, crop_padding=2, flip=False)
    off = dict.fromkeys(("logger", "enable_progress_bar", "enable_checkpointing", "enable_model_summary"), False)
    annealing = SparsityAnnealing(end_value=1.0, start_epoch=1, end_epoch=3)
    trainer = Trainer(accelerator="cpu", precision=precision, max_epochs=epochs, callbacks=[annealing], **off)
    if epochs:
        trainer.fit(model, data)
    else:
        trainer.validate(model, data, verbose=False)
    return {name: model.measured[tag] for name, tag in TAGS.items()}


def differences(seed, epochs=EPOCHS):
    """Of bfloat16 from float32, and what float32 measured."""
    exact, rounded = (measured(precision, seed, epochs) for precision in ("32-true", "bf16-mixed"))
    relative = {name: rounded[name] / exact[name] - 1 for name in ("spikes", "loss")}
    return {"accuracy": rounded["accuracy"] - exact["accuracy"], **relative}, exact


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("epochs", "bounds"), [(0, BEFORE), (EPOCHS, AFTER)], ids=["before", "after"])
def test_bfloat16_agrees_with_float32_within_the_stated_bounds(epochs, bounds):
    quiet()
    found, exact = differences(0, epochs)
    assert exact["accuracy"] > 0.8 or not epochs  # there is something to lose
    for name, bound in bounds.items():
        assert abs(found[name]) <= bound, (name, found)
    assert any(found.values())  # the two did not compute the same
