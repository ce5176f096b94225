"""Early exit, and a loss that makes early logits worth something."""

import csv
import json
import math
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from fitting import Losses, fit
from refusals import refused_with
from spikesparse import SpikingClassifier, SpikingVGG
from spikesparse.commands.cli import SpikeCLI
from spikesparse.commands.exits.curve import ExitCurve
from spikesparse.commands.main import main
from spikesparse.data.loading import Batch
from spikesparse.metrics import EnergyConstants
from spikesparse.nn.early_exit import EarlyExit
from spikesparse.runs.load import load_run
from spikesparse.training.distillation import Distillation

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's advice on tiny runs is not what is tested here
T = 5


def network(**settings):
    torch.manual_seed(3)
    net = SpikingVGG("6-P-F30", input_shape=(3, 8, 8), timesteps=T, num_classes=4, **settings)
    with torch.no_grad():
        for _ in range(40):  # statistics for its BatchNorm
            net.train()(2 * torch.rand(64, 3, 8, 8))
        net.layers["classifier"].weights.weight.mul_(5)  # so that it is sure of some images and not of others
    return net.eval()


def inputs(kind):
    torch.manual_seed(4)
    return 2 * torch.rand(30, 3, 8, 8) if kind == "constant" else (torch.rand(T, 30, 3, 8, 8) < 0.6).float()


def stopped_after(net, x, t, image):
    """The network run on one image, for t steps."""
    with torch.no_grad():
        return net(x[image, None], timesteps=t) if x.dim() == 4 else net(x[:t, image, None])


@pytest.mark.parametrize("kind", ["constant", "spikes"])
@pytest.mark.parametrize("settings", [{}, {"readout": "leaky", "decay": 0.7, "threshold": 0.8}], ids=["mean", "leaky"])
def test_step_logits_are_those_of_a_network_that_stops_there(kind, settings):
    net, x = network(**settings), inputs(kind)
    with torch.no_grad():
        output = net(x)
    assert torch.equal(output.step_logits[-1], output.logits)
    for t in range(1, T + 1):
        alone = torch.cat([stopped_after(net, x, t, image).logits for image in range(30)])
        assert torch.allclose(output.step_logits[t - 1], alone, rtol=1e-4, atol=1e-5)


def odd_inputs():
    """Spikes of which some images' later steps, and some images' first, are currents after all."""
    x = inputs("spikes")
    x[3:, :8] *= 0.7
    x[0, 8:12] *= 0.7
    return x


@pytest.mark.parametrize("kind", ["constant", "spikes", "odd"])
@pytest.mark.parametrize("pooling", ["max", "average", "spiking_average"])
def test_bill_after_each_step_is_that_of_a_network_that_stops_there(kind, pooling):
    net, x = network(pooling=pooling), odd_inputs() if kind == "odd" else inputs(kind)
    with torch.no_grad():
        whole, output = net(x).tally, net(x, record="steps")
        alone = [net(x, timesteps=t) if kind == "constant" else net(x[:t]) for t in range(1, T + 1)]
    assert len(output.tally.after) == T
    for t, (bill, expected) in enumerate(zip(output.tally.after, (each.tally for each in alone), strict=True), 1):
        assert bill.timesteps == t
        for counts in ("spikes", "synops", "macs", "input_spikes", "pooling_spikes"):
            assert torch.equal(getattr(bill, counts), getattr(expected, counts))
            assert t < T or torch.equal(getattr(output.tally, counts), getattr(whole, counts))
    some = output.tally.of(torch.tensor([2, 5]))
    assert some.after == () == whole.after
    assert torch.equal(some.macs, whole.macs[[2, 5]])


def test_an_image_is_done_after_the_first_step_that_is_sure():
    """Of two classes a logit d above the other has the probability 1 / (1 + exp(-d)): 0.88 for 2, 0.73 for 1."""
    ahead = torch.tensor([[0.0, 2.0, 1.0], [1.0, 0.0, -2.0], [3.0, 0.0, 0.0]])  # step, image
    step_logits = torch.stack([ahead, torch.zeros_like(ahead)], 2)
    assert EarlyExit(0.85).steps(step_logits).tolist() == [3, 1, 2]
    assert EarlyExit(0.7).steps(step_logits).tolist() == [2, 1, 1]
    assert EarlyExit(0.99).steps(step_logits).tolist() == [3, 3, 3]
    assert EarlyExit(0.5).steps(step_logits).tolist() == [1, 1, 1]


def test_by_its_margin_an_image_is_done_once_the_likeliest_class_is_far_ahead_of_the_second():
    """Logits log(p) have the softmax p: margins of 0.1, 0.18 and 0.35; the likeliest loses from first to second."""
    step_logits = torch.tensor([[[0.5, 0.4, 0.1]], [[0.46, 0.26, 0.28]], [[0.6, 0.25, 0.15]]]).log()
    assert EarlyExit(0.15, "margin").steps(step_logits).tolist() == [2]
    assert EarlyExit([0.05, 0.9], "margin").steps(step_logits).tolist() == [1]
    assert EarlyExit(0.25, "margin").steps(step_logits).tolist() == [3]
    assert EarlyExit(0.48).steps(step_logits).tolist() == [1]
    with refused_with(r"--model\.early_exit\.measure='entropy'.*There are: probability, margin"):
        EarlyExit(0.5, "entropy")


@pytest.mark.parametrize("kind", ["constant", "spikes"])
def test_answers_and_bill_are_those_of_each_image_run_step_by_step(kind):
    net, x = network(), inputs(kind)
    with torch.no_grad():
        sure = net(x).step_logits.softmax(2).amax(2)
        confidence = float(sure[1].quantile(0.7)) + 1e-4  # at no image's own, which rounding might put on either side
        parts = EarlyExit(confidence).answers(net, x, record="neurons")
    assert sorted(torch.cat([of for of, _ in parts]).tolist()) == list(range(30))
    assert len(parts) > 2  # images of several numbers of steps
    for of, output in parts:
        for place, image in enumerate(of.tolist()):
            for t in range(1, T + 1):
                alone = stopped_after(net, x, t, image)
                if alone.logits.softmax(1).max() >= confidence:
                    break
            assert output.tally.timesteps == t
            assert torch.allclose(output.logits[place], alone.logits[0], rtol=1e-4, atol=1e-5)
            for counts in ("spikes", "synops"):
                assert torch.equal(getattr(output.tally, counts)[:, place], getattr(alone.tally, counts)[:, 0])
            for counts in ("macs", "input_spikes"):
                assert getattr(output.tally, counts)[place] == getattr(alone.tally, counts)[0]
        assert sum(int(neurons.sum()) for neurons in output.tally.record.neurons.values()) == output.tally.spikes.sum()


def test_without_confidence_or_images_the_network_runs_once():
    net = network()
    for exit, images in ((EarlyExit(), 3), (EarlyExit(0.5), 0)):
        with torch.no_grad():
            ((of, output),) = exit.answers(net, inputs("constant")[:images])
        assert of.tolist() == list(range(images))
        assert (len(output.logits), output.tally.timesteps) == (images, T)


def test_a_run_reports_what_was_spent_up_to_the_exits(tiny_args):
    args = [*tiny_args, "--model.early_exit.confidence=0.42", "--data.encoder=direct"]
    assert main(["train", *args]) == 0
    (folder,) = Path("runs").glob("*/seed0")
    result, bill = (json.loads((folder / name).read_text()) for name in ("result.json", "bill.json"))
    with (folder / "predictions_test.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["index"]) for row in rows] == list(range(12))
    steps = [int(row["steps"]) for row in rows]
    assert 1 <= min(steps) < max(steps) <= 3
    assert all(float(row["confidence"]) >= 0.42 or row["steps"] == "3" for row in rows)
    assert result["timesteps"] == bill["timesteps"] == pytest.approx(sum(steps) / 12)
    total = bill["rows"]["total"]
    assert total["spikes"] == sum(int(row["spikes"]) for row in rows)
    assert result["accuracy"] == pytest.approx(sum(row["label"] == row["predicted"] for row in rows) / 12)
    assert total["spike_rate"] == pytest.approx(total["spikes"] / (total["neurons"] * sum(steps)))
    checkpoint = folder / "checkpoints/last.ckpt"
    values = torch.load(checkpoint, weights_only=True)["measured"]
    assert 1 <= values["efficiency/timesteps/val"] < 3
    assert values["efficiency/timesteps/train"] == 3
    # A flag stands above the checkpoint's setting.
    assert main(["test", f"--ckpt_path={checkpoint}", "--model.early_exit.confidence=null"]) == 0
    assert json.loads((folder / "result.json").read_text())["timesteps"] == 3


def test_a_margin_wants_two_classes():
    logits = torch.zeros(T, 4, 1)
    assert EarlyExit(0.9).steps(logits).tolist() == [1] * 4  # one class is certain
    with refused_with(r"--model\.early_exit\.measure=margin: the network has one class"):
        EarlyExit(0.9, "margin").steps(logits)


@pytest.mark.parametrize("loss", ["cross_entropy", "squared_error"])
def test_validation_loss_is_the_mean_over_images_whatever_steps_they_run(loss):
    """Each image's own loss at its own last step, by hand; of a batch that runs in parts of several sizes."""
    net, x, labels = network(), inputs("constant"), torch.arange(30) % 4
    with torch.no_grad():
        step_logits = net(x).step_logits.double()
    sure = step_logits.softmax(2).amax(2)
    confidence = float(sure[1].quantile(0.7)) + 1e-4
    last = [next(t for t in range(T) if t == T - 1 or sure[t, image] >= confidence) for image in range(30)]
    sizes = [last.count(t) for t in set(last)]
    assert len(sizes) > 2
    assert len(set(sizes)) > 1
    logits = step_logits[last, range(30)]
    of_each = {
        "cross_entropy": -logits.log_softmax(1)[range(30), labels],
        "squared_error": (logits - F.one_hot(labels, 4)).square().sum(1),
    }[loss]
    module = SpikingClassifier(net, loss=loss, early_exit=EarlyExit(confidence)).eval()
    with torch.no_grad():
        found = module.validation_step(Batch(x, labels, torch.arange(30)), 0)["loss"]
    assert found.item() == pytest.approx(of_each.mean().item(), rel=1e-5)
    logged, bill = module.split_metrics["val_"].compute("val")
    assert logged["loss/task/val"] == pytest.approx(of_each.mean().item(), rel=1e-5)
    assert logged["accuracy/val"] == pytest.approx((logits.argmax(1) == labels).double().mean().item())
    assert bill.steps == sum(last) + 30


def test_predictions_keep_the_order_of_the_images():
    module = SpikingClassifier(network(), early_exit=EarlyExit(0.7))
    batch = Batch(inputs("constant"), torch.arange(30) % 4, torch.arange(100, 130))
    with torch.no_grad():
        rows = module.predict_step(batch, 0)
    assert rows["index"].tolist() == list(range(100, 130))
    assert rows["label"].tolist() == [i % 4 for i in range(30)]
    assert len(rows["steps"].unique()) > 2


def test_each_step_may_have_a_confidence_of_its_own():
    ahead = torch.tensor([[0.0, 2.0, 1.0], [1.0, 0.0, -2.0], [3.0, 0.0, 0.0]])  # as above
    step_logits = torch.stack([ahead, torch.zeros_like(ahead)], 2)
    assert EarlyExit([0.85, 0.7]).steps(step_logits).tolist() == [2, 1, 2]
    assert EarlyExit([0.7, 0.99]).steps(step_logits).tolist() == [3, 1, 1]
    assert EarlyExit([]).steps(step_logits[:1]).tolist() == [1, 1, 1]
    assert EarlyExit(None).steps(step_logits).tolist() == [3, 3, 3]


@pytest.mark.parametrize("confidences", [[0.5], [0.5, 0.6, 0.7], []])
def test_as_many_confidences_as_do_not_go_with_the_steps_are_refused(confidences):
    with refused_with(r"--model\.early_exit\.confidence=.*T=3 steps; one number is needed, or 2"):
        EarlyExit(confidences).steps(torch.zeros(3, 1, 2))


def test_confidences_of_each_step_come_from_the_command_line_and_back_from_a_checkpoint(tiny_args):
    assert main(["fit", *tiny_args, "--model.early_exit.confidence=[0.5,0.4]"]) == 0
    (folder,) = Path("runs").glob("*/seed0")
    module, _ = load_run(folder)
    assert module.early_exit == EarlyExit([0.5, 0.4])


@pytest.mark.parametrize("confidence", [0.0, -1.0, 1.5, math.nan, [0.9, 0.0], [1.1]])
def test_a_confidence_that_cannot_be_is_refused(confidence):
    with refused_with(r"--model\.early_exit\.confidence="):
        EarlyExit(confidence)


# A loss of each step


@pytest.mark.parametrize("share", [0.3, 1.0])
@pytest.mark.parametrize("loss", ["cross_entropy", "squared_error"])
def test_loss_is_made_of_the_last_step_and_the_mean_of_all(loss, share):
    module, labels = SpikingClassifier(network(), loss=loss, step_loss=share).train(), torch.arange(30) % 4
    output = module.training_step(Batch(inputs("constant"), labels, torch.arange(30)), 0)
    with torch.no_grad():
        step_logits = network().train()(inputs("constant")).step_logits.double()
    if loss == "cross_entropy":
        of_each = -step_logits.log_softmax(2)[:, torch.arange(30), labels].mean(1)
    else:
        of_each = (step_logits - F.one_hot(labels, 4)).square().sum(2).mean(1)
    expected = (1 - share) * of_each[-1] + share * of_each.mean()
    assert output["loss"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_each_step_learns_from_the_teacher_too():
    labels, x = torch.arange(30) % 4, inputs("constant")
    teacher = network(decay=0.9)
    module = SpikingClassifier(network(), step_loss=1.0, distillation=Distillation("x", 0.3, 2.0)).train()
    module._teacher = [teacher]
    loss = module.training_step(Batch(x, labels, torch.arange(30)), 0)["loss"].item()
    with torch.no_grad():
        taught, step_logits = teacher(x).logits, network().train()(x).step_logits
    of_each = [
        Distillation("x", 0.3, 2.0).loss(F.cross_entropy(logits, labels), logits, taught) for logits in step_logits
    ]
    assert loss == pytest.approx(sum(each.item() for each in of_each) / T, rel=1e-5)


def test_loss_of_the_one_step_is_the_last(tiny_args):
    traces = []
    for share in (0.5, 0.0):
        losses = Losses()
        fit([*tiny_args, "--data.timesteps=1", "--trainer.max_epochs=2", f"--model.step_loss={share}"], losses)
        traces.append(losses.values)
    assert traces[0] == traces[1]
    assert len(traces[0]) > 2


def test_a_share_that_cannot_be_names_the_flag(tiny_args, capsys):
    assert main(["fit", *tiny_args, "--model.step_loss=1.5"]) == 2
    assert "--model.step_loss=1.5" in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--model.step_loss=0.5", "--model.early_exit.confidence=0.5"])
def test_a_network_that_does_not_say_its_step_logits_is_refused(flag, tiny_args, capsys):
    Path("silent_net.py").write_text(
        "import spikesparse\n"
        "class Silent(spikesparse.SpikingVGG):\n"
        "    def __init__(self, num_classes, input_shape, timesteps):\n"
        "        super().__init__('4', num_classes=num_classes, input_shape=input_shape, timesteps=timesteps)\n"
        "    def forward(self, x):\n"
        "        output = super().forward(x)\n"
        "        return spikesparse.SpikingOutput(output.logits, output.tally)\n"
    )
    args = [arg for arg in tiny_args if "model.net" not in arg]
    assert main(["fit", *args, "--allow-import=silent_net", "--model.net=silent_net.Silent", flag]) == 2
    error = capsys.readouterr().err
    assert flag.split("=")[0] in error
    assert "silent_net.Silent" in error
    assert "step_logits" in error


# The curve of confidences


@pytest.mark.parametrize(
    ("measure", "confidences"),
    [
        ("probability", ("0.42", "0.38")),
        pytest.param("margin", ("0.12", "0.08"), marks=pytest.mark.slow),
    ],
)
def test_curve_has_what_validation_says_at_each_confidence(measure, confidences, tiny_args, capsys):
    fit([*tiny_args, "--data.encoder=direct"])
    (folder,) = Path("runs").glob("*/seed0")
    assert main(["exits", str(folder), "--measure", measure, "--confidence", *confidences]) == 0
    with (folder / "exits_val.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["confidence"] for row in rows[:3]] == [*reversed(confidences), ""]
    assert {row["measure"] for row in rows} == {measure}
    assert all(row["confidence"].count(",") == 1 for row in rows[3:])  # after the first step of three and the second
    assert any(float(each["spikes"]) <= float(rows[0]["spikes"]) for each in rows[3:])
    for row in rows:
        flags = [f"--model.early_exit.{name}={row[name] or 'null'}" for name in ("confidence", "measure")]
        cli = SpikeCLI(["validate", f"--ckpt_path={folder}/checkpoints/best.ckpt", *flags, "--trainer.accelerator=cpu"])
        for column, tag in (
            ("accuracy", "accuracy"),
            ("timesteps", "efficiency/timesteps"),
            ("spikes", "efficiency/spikes_per_image"),
            ("synops", "efficiency/synops_per_image"),
            ("energy_uj", "efficiency/energy_uj_per_image"),
        ):
            assert float(row[column]) == pytest.approx(cli.model.measured[f"{tag}/val"], rel=1e-12)
    assert float(rows[0]["timesteps"]) < float(rows[2]["timesteps"]) == 3
    assert (folder / "exits_val.png").read_bytes().startswith(b"\x89PNG")
    # What one asks for
    target = sum(float(rows[row]["synops"]) for row in (0, 2)) / 2
    capsys.readouterr()
    asked = ["exits", str(folder), "--measure", measure]
    assert main([*asked, "--by", "synops", "--target", str(target)]) == 0
    with (folder / "exits_val.csv").open() as file:
        *_, found = csv.DictReader(file)
    assert float(found["synops"]) <= target
    flags = f"--model.early_exit.confidence={found['confidence']} --model.early_exit.measure={measure}"
    assert flags in capsys.readouterr().out
    assert main([*asked, "--target", "1"]) == 2
    assert "1 spikes per image were asked for; one step spends" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("by", ["spikes", "synops"])
def test_what_is_to_be_spent_may_be_a_share_of_what_another_run_spends(by, tiny_args, capsys):
    """The twin's own count, halved by hand; both targets are sought."""
    twin = fit([*tiny_args, "--data.encoder=direct", "--sparsity.end_value=0"])
    fit([*tiny_args, "--data.encoder=direct"])
    baseline = twin.run_folder / "checkpoints/best.ckpt"
    folder = next(each for each in Path("runs").glob("*/seed0") if each != twin.run_folder)
    spends = torch.load(baseline, weights_only=True)["measured"][f"efficiency/{by}_per_image/val"]
    shares = ["--reduction", "0.5", "0.3", "--baseline", str(baseline)]
    assert main(["exits", str(folder), "--by", by, *shares]) == 0
    with (folder / "exits_val.csv").open() as file:
        by_share = [row for row in csv.DictReader(file) if "," in row["confidence"]]
    assert main(["exits", str(folder), "--by", by, "--target", str(0.5 * spends), str(0.7 * spends)]) == 0
    with (folder / "exits_val.csv").open() as file:
        by_target = [row for row in csv.DictReader(file) if "," in row["confidence"]]
    assert by_share == by_target
    assert float(by_share[0][by]) <= 0.5 * spends
    capsys.readouterr()
    for wrong, words in (
        (["--reduction", "0.5"], "--reduction and --baseline, a checkpoint, go together"),
        (["--reduction", "70", "--baseline", str(baseline)], "--reduction=70.0: a fraction"),
        (["--reduction", "0.99999", "--by", by, "--baseline", str(baseline)], "were asked for; one step spends"),
        (["--reduction", "0.7", "--baseline", "gone.ckpt"], "--baseline=gone.ckpt: there is no such file"),
    ):
        assert main(["exits", str(folder), *wrong]) == 2
        assert words in capsys.readouterr().err


def test_curve_of_a_network_that_keeps_no_record_is_the_same():
    """Its steps are run one number of them after the other."""
    net, seen = network(), []

    class Plain(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, x, timesteps=T):
            seen.append(timesteps)
            return self.net(x, timesteps=timesteps)

    batch = Batch(inputs("constant"), torch.arange(30) % 4, torch.arange(30))
    curves = [ExitCurve(each, T, EnergyConstants()) for each in (net, Plain())]
    with torch.no_grad():
        for curve in curves:
            curve.validation_step(batch, 0)
    assert seen == [1, 2, 3, 4, 5]
    for confidence in (0.3, 0.45, 0.6, None):
        one, other = (curve.row(EarlyExit(confidence)) for curve in curves)
        assert one == other
    assert 1 < curves[0].row(EarlyExit(0.45)).timesteps < T


def test_curve_of_no_run_is_refused(capsys):
    assert main(["exits", "nowhere"]) == 2
    assert "exits nowhere: no run folder" in capsys.readouterr().err
