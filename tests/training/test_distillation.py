"""Distillation from a trained network."""

import shutil
import sys
from pathlib import Path

import pytest
import torch

from fitting import Losses, fit
from refusals import refused_with
from spikesparse import CIFAR10DataModule, SpikingVGG, load_run
from spikesparse.commands.main import main
from spikesparse.settings.build import build_encoder
from spikesparse.settings.class_paths import limited_imports
from spikesparse.sparsity.asked import told_by
from spikesparse.training.distillation import Distillation
from spikesparse.training.teacher import load_teacher, logits_of

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's advice on tiny runs is not what is tested here


def divergence(student, teacher, t):
    """KL(teacher || student) of two rows of logits, by its definition in plain Python numbers."""

    def softened(row):
        powers = [torch.tensor(v / t, dtype=torch.float64).exp().item() for v in row]
        return [p / sum(powers) for p in powers]

    total = 0.0
    for s_row, t_row in zip(student, teacher, strict=True):
        for p, q in zip(softened(t_row), softened(s_row), strict=True):
            total += p * torch.tensor(p / q, dtype=torch.float64).log().item()
    return total / len(student)


@pytest.mark.parametrize(("weight", "t"), [(0.5, 4.0), (1.0, 1.0), (0.2, 3.0)])
def test_loss_is_the_formula(weight, t):
    student, teacher = [[1.0, -2.0, 0.5], [0.0, 0.25, 3.0]], [[2.0, -1.0, 0.0], [-0.5, 1.5, 1.0]]
    loss = Distillation("x", weight, t).loss(torch.tensor(0.7), torch.tensor(student), torch.tensor(teacher))
    assert loss.item() == pytest.approx((1 - weight) * 0.7 + weight * t * t * divergence(student, teacher, t), rel=1e-5)


def test_a_student_that_is_its_teacher_learns_nothing_from_it():
    logits = torch.randn(3, 5, requires_grad=True)
    Distillation("x", 1.0, 2.0).loss(torch.tensor(0.0), logits, logits.detach()).backward()
    assert logits.grad.abs().max() < 1e-6


@pytest.mark.parametrize("settings", [{"weight": 0.0}, {"weight": 1.5}, {"temperature": 0.0}])
def test_settings_that_cannot_be_are_refused(settings):
    with refused_with(rf"--model\.distillation\.{next(iter(settings))}="):
        Distillation(**settings)


@pytest.fixture
def teacher(tiny_args):
    """The checkpoint of a wider network."""
    cli = fit([*tiny_args, "--model.net.architecture=8-P-F6"])
    return cli.run_folder / "checkpoints" / "last.ckpt"


@pytest.mark.slow
def test_teacher_is_the_trained_network_and_stays_out_of_the_students_checkpoint(tiny_args, teacher, tmp_path):
    module, data = load_run(teacher.parent.parent, "last")
    data.setup("fit")
    batch = data.encode(next(iter(data.val_dataloader())))
    taught = logits_of(load_teacher(str(teacher), data), batch.images)
    assert torch.equal(taught, module(batch.images).logits)

    plain, distilled = Losses(), Losses()
    fit(tiny_args, plain)
    student = fit([*tiny_args, f"--model.distillation.teacher={teacher}"], distilled)
    assert plain.values[0] != distilled.values[0]
    checkpoint = student.run_folder / "checkpoints" / "last.ckpt"
    assert set(torch.load(checkpoint, weights_only=True)["state_dict"]) == set(student.model.state_dict())
    assert not any(weights.shape[0] == 8 for weights in student.model.state_dict().values() if weights.dim() == 4)

    shutil.rmtree(teacher.parent)  # whoever tests a student needs no teacher
    assert main(["test", f"--ckpt_path={checkpoint}", "--trainer.accelerator=cpu"]) == 0


@pytest.mark.slow
def test_first_loss_is_made_of_labels_and_teacher(tiny_args, teacher):
    """The mixed loss of the first batch, from two runs that know only one of the two."""
    values = []
    for weight in (0.25, 0.5, 1.0):
        losses = Losses()
        fit([*tiny_args, f"--model.distillation.teacher={teacher}", f"--model.distillation.weight={weight}"], losses)
        values.append(losses.values[0])
    plain = Losses()
    fit(tiny_args, plain)
    for weight, value in zip((0.25, 0.5), values[:2], strict=True):
        assert value == pytest.approx((1 - weight) * plain.values[0] + weight * values[2], rel=1e-5)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--model.distillation.teacher=nowhere.ckpt"], "nowhere.ckpt: there is no such file"),
        (["--data.encoder=direct"], "Name a checkpoint of the same encoding"),
        (["--data.normalize=false"], "was trained with --data.normalize=true"),
    ],
)
def test_a_teacher_that_cannot_teach_is_refused(flags, said, tiny_args, teacher, capsys):
    args = [*tiny_args, f"--model.distillation.teacher={teacher}", *flags]
    assert main(["fit", *args]) == 2
    assert said in capsys.readouterr().err


POISSON = "spikesparse.PoissonEncoder"
OWN = """
import torch
from spikesparse import Encoder, PoissonEncoder
class Kept(Encoder):
    def __init__(self, rates=(0.5,), scale=1.0):
        self.rates, self.scale = torch.tensor(rates), scale
        self.of = lambda pixel: pixel * scale
    def __repr__(self): return "Kept()"  # whatever it keeps
class Mine(PoissonEncoder): pass
"""


def by_path(path, **init_args):
    return {"class_path": path, "init_args": init_args}


@pytest.mark.parametrize(
    ("theirs", "ours", "same"),
    [
        ("poisson", "direct", False),
        (by_path(POISSON, signed=True), "direct", False),
        (by_path("spikesparse.data.encoding.DirectEncoder"), "direct", True),
        ("direct", by_path("spikesparse.DirectEncoder"), True),
        (by_path(POISSON), "poisson", True),
        ("poisson", by_path(POISSON, signed=True, gain=1.0), True),
        (by_path(POISSON, signed=False), "poisson", False),
        (by_path(POISSON, signed=False), "poisson_unsigned", True),
        (by_path(POISSON, gain=2.0), "poisson", False),
        (by_path(POISSON, gain=2.0), by_path(POISSON, gain=2.0), True),
        (by_path("mine_encoder.Mine"), "poisson", False),
        (by_path("mine_encoder.Kept"), "direct", False),
        (by_path("mine_encoder.Kept"), by_path("mine_encoder.Kept"), True),
        (by_path("mine_encoder.Kept", rates=[0.5, 0.25]), by_path("mine_encoder.Kept"), False),
        (by_path("mine_encoder.Kept", scale=2.0), by_path("mine_encoder.Kept"), False),
    ],
)
def test_encoders_are_compared_as_they_are_built_whatever_named_them(theirs, ours, same, tiny_npz, monkeypatch):
    Path("mine_encoder.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(Path.cwd()))
    net = SpikingVGG("4-P", input_shape=(3, 8, 8), num_classes=3)
    weights = {f"net.{name}": value for name, value in net.state_dict().items()}
    settings = {
        "data": {"encoder": theirs, "timesteps": 4, "normalize": True, "source": "npz"},
        "model": {"net": {"class_path": "spikesparse.SpikingVGG", "init_args": {"architecture": "4-P"}}},
    }
    torch.save({"state_dict": weights, "settings": settings}, "teacher.ckpt")
    with limited_imports(("mine_encoder",)):
        student = CIFAR10DataModule(str(tiny_npz), "npz", encoder=build_encoder(ours))
        if same:
            assert isinstance(load_teacher("teacher.ckpt", student), SpikingVGG)
        else:
            with refused_with(r"teacher\.ckpt: that network reads what .* makes; --data.encoder is"):
                load_teacher("teacher.ckpt", student)
    sys.modules.pop("mine_encoder", None)


def test_a_teachers_encoder_is_imported_only_if_it_may_be(tiny_npz):
    settings = {"data": {"encoder": by_path("os.system")}, "model": {"net": by_path("spikesparse.SpikingVGG")}}
    torch.save({"state_dict": {}, "settings": settings}, "teacher.ckpt")
    with refused_with(r"settings: data.encoder.class_path: os.system: not imported"):
        load_teacher("teacher.ckpt", CIFAR10DataModule(str(tiny_npz), "npz"))


def test_a_teacher_of_other_images_is_refused():
    """Both have ten classes and 32x32 pixels."""
    settings = {"data": {"encoder": "direct", "source": "cifar10"}, "model": {"net": {}}}
    torch.save({"state_dict": {}, "settings": settings}, "teacher.ckpt")
    with refused_with(r"was trained on cifar10; here it is --data.source=digits"):
        load_teacher("teacher.ckpt", CIFAR10DataModule(source="digits"))


@pytest.mark.parametrize("flag", ["--budget.baseline", "--baseline"])
def test_a_baseline_of_other_images_is_refused(flag):
    measured = {"accuracy/val": 0.5}
    torch.save({"state_dict": {}, "settings": {"data": {"source": "cifar10"}}, "measured": measured}, "base.ckpt")
    with refused_with(rf"{flag}=base\.ckpt: that network was trained on cifar10; here it is"):
        told_by("base.ckpt", "accuracy/val", CIFAR10DataModule(source="digits"), flag)
    for data in (CIFAR10DataModule(), CIFAR10DataModule(source="npz"), None):
        assert told_by("base.ckpt", "accuracy/val", data, flag) == 0.5
