"""The warm-up and cosine schedule against lightning-bolts' own, and the bridge that loads lightning-bolts."""

import math
import sys
import warnings

import pytest
import torch

from refusals import refused_with
from spikesparse.commands.flags import with_flags
from spikesparse.errors import UserError
from spikesparse.settings.bolts import load_bolts
from spikesparse.training.lr_schedulers import LinearWarmupCosineAnnealingLR

LR = 0.1


def curve(scheduler_class, epochs, **settings):
    """Learning rates of epochs 0, 1, ..., ``epochs``."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=LR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # lightning-bolts calls itself "under review"
        scheduler = scheduler_class(optimizer, **settings)
    rates = []
    for _ in range(epochs + 1):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def test_curve_by_hand():
    rates = curve(LinearWarmupCosineAnnealingLR, 10, warmup_epochs=3, max_epochs=10)
    expected = [0, 0.05, 0.1, 0.1, 0.09505, 0.08117, 0.06113, 0.03887, 0.01883, 0.00495, 0]
    assert rates == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    "settings",
    [
        {"warmup_epochs": 3, "max_epochs": 10},
        {"warmup_epochs": 2, "max_epochs": 5},
        {"warmup_epochs": 10, "max_epochs": 40, "warmup_start_lr": 0.01},
        {"warmup_epochs": 5, "max_epochs": 150, "eta_min": 0.001},
        {"warmup_epochs": 4, "max_epochs": 9, "warmup_start_lr": 0.2, "eta_min": 0.05},
    ],
)
def test_equals_lightning_bolts(settings):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bolts = load_bolts("pl_bolts.optimizers.lr_scheduler")
    if bolts is None:
        pytest.skip("lightning-bolts 0.7.0 is not installed or cannot be imported here")
    theirs = bolts.LinearWarmupCosineAnnealingLR
    assert theirs is not LinearWarmupCosineAnnealingLR
    epochs = settings["max_epochs"]
    ours = curve(LinearWarmupCosineAnnealingLR, epochs, **settings)
    assert ours == pytest.approx(curve(theirs, epochs, **settings), abs=1e-9)


def test_one_epoch_of_warmup_has_the_full_rate():
    rates = curve(LinearWarmupCosineAnnealingLR, 3, warmup_epochs=1, max_epochs=3, warmup_start_lr=0.02)
    assert rates == pytest.approx([0.1, 0.1, 0.05, 0])


def test_no_warmup():
    rates = curve(LinearWarmupCosineAnnealingLR, 4, warmup_epochs=0, max_epochs=4, warmup_start_lr=0.02)
    assert rates == pytest.approx([0.05 * (1 + math.cos(math.pi * epoch / 4)) for epoch in range(5)])


def test_stays_at_its_end_value_after_the_last_epoch():
    rates = curve(LinearWarmupCosineAnnealingLR, 8, warmup_epochs=1, max_epochs=4, eta_min=0.01)
    assert rates[4:] == pytest.approx([0.01] * 5)


def test_every_parameter_group_has_its_own_curve():
    groups = [{"params": [torch.zeros(1, requires_grad=True)], "lr": lr} for lr in (0.1, 0.4)]
    optimizer = torch.optim.SGD(groups)
    scheduler = LinearWarmupCosineAnnealingLR(optimizer, warmup_epochs=3, max_epochs=9)
    optimizer.step()
    scheduler.step()
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.05, 0.2])


def test_a_resumed_run_continues_the_curve():
    settings = {"warmup_epochs": 3, "max_epochs": 10}
    whole = curve(LinearWarmupCosineAnnealingLR, 10, **settings)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=LR)
    first = LinearWarmupCosineAnnealingLR(optimizer, **settings)
    for _ in range(4):
        optimizer.step()
        first.step()
    resumed_optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=LR)
    resumed = LinearWarmupCosineAnnealingLR(resumed_optimizer, **settings)
    resumed.load_state_dict(first.state_dict())
    resumed_optimizer.load_state_dict(optimizer.state_dict())
    resumed_optimizer.step()
    resumed.step()
    assert resumed_optimizer.param_groups[0]["lr"] == pytest.approx(whole[5])


@pytest.mark.parametrize(("warmup", "most"), [(10, 10), (11, 10), (-1, 10), (0, 0)])
def test_a_warmup_that_does_not_end_before_training_is_refused(warmup, most):
    with pytest.raises(UserError) as error:
        curve(LinearWarmupCosineAnnealingLR, 1, warmup_epochs=warmup, max_epochs=most)
    for word in (f"--model.scheduler.warmup_epochs={warmup}", f"--trainer.max_epochs={most}"):
        assert word in with_flags(error.value)


def test_max_epochs_must_be_given():
    with refused_with("max_epochs"):
        curve(LinearWarmupCosineAnnealingLR, 1, warmup_epochs=1)


def test_a_module_that_does_not_exist_is_none_and_leaves_the_warning_filters():
    before = list(warnings.filters)
    assert load_bolts("pl_bolts_that_does_not_exist") is None
    assert warnings.filters == before


def test_a_module_that_fails_to_import_is_none(tmp_path, monkeypatch):
    (tmp_path / "broken_bolts.py").write_text("import warnings\nwarnings.simplefilter('always')\n1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    before = list(warnings.filters)
    assert load_bolts("broken_bolts") is None
    assert warnings.filters == before


@pytest.mark.parametrize("action", ["default", "error"])
def test_a_module_that_warns_on_import_is_loaded_in_silence(tmp_path, monkeypatch, action):
    """As lightning-bolts does, which has filters of its own; ``python -W error`` and pytest make errors of warnings."""
    name = f"warning_bolts_{action}"
    code = ["import warnings", "warnings.warn('one')", "warnings.simplefilter('always')", "warnings.warn('two')"]
    (tmp_path / f"{name}.py").write_text("\n".join(code))
    monkeypatch.syspath_prepend(tmp_path)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter(action)
        before = list(warnings.filters)
        module = load_bolts(name)
        after = list(warnings.filters)
    sys.modules.pop(name, None)
    assert module is not None
    assert after == before
    assert not seen
