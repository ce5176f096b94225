"""Checkpoints, and the callbacks that guard a run."""

import csv
import os
import re
import shutil
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader

from refusals import refused_with
from spikesparse import LIF, CIFAR10DataModule, SparsityAnnealing, SpikingClassifier, SpikingVGG
from spikesparse.commands.flags import with_flags
from spikesparse.errors import UserError
from spikesparse.files.checkpoint import check_state_dict, read_checkpoint
from spikesparse.runs.checkpoints import BestCheckpoint
from spikesparse.runs.saving import LastCheckpoint
from spikesparse.training.predict import PredictionWriter
from spikesparse.training.process_state import ProcessState
from spikesparse.training.silent_layers import SilentLayers

trains = pytest.mark.filterwarnings(
    r"ignore:The '\w+' does not have many workers",
    r"ignore:The number of training batches \(\d+\) is smaller",
    r"ignore:`isinstance\(treespec, LeafSpec\)` is deprecated",
    "ignore:GPU available but not used",
    "ignore:Checkpoint directory .* exists and is not empty",
)


def make_trainer(path, epochs, *callbacks, **arguments):
    quiet = {name: False for name in ("logger", "enable_progress_bar", "enable_model_summary")}
    return Trainer(
        accelerator="cpu", max_epochs=epochs, callbacks=list(callbacks), default_root_dir=path, **quiet | arguments
    )


def kept(path, name):
    return torch.load(path / "checkpoints" / f"{name}.ckpt", weights_only=True)


@pytest.fixture
def data(tmp_path):
    """36 training images of 8x8 pixels in 2 batches, 4 validation images."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (44, 8, 8, 3), dtype=np.uint8)
    labels = np.arange(44) % 2
    np.savez(tmp_path / "data.npz", x_train=pixels[:40], y_train=labels[:40], x_test=pixels[40:], y_test=labels[40:])
    return CIFAR10DataModule(str(tmp_path / "data.npz"), "npz", batch_size=18, timesteps=2)


def make_model(architecture="2-P", **arguments):
    torch.manual_seed(0)
    net = SpikingVGG(architecture, num_classes=2, input_shape=(3, 8, 8), timesteps=2, **arguments)
    return SpikingClassifier(net)


# reading checkpoints


def refused(path, *words, flag="--model.init_from"):
    with pytest.raises(UserError) as error:
        read_checkpoint(path, flag)
    for word in [f"{flag}={path}", *words]:
        assert word in with_flags(error.value)


def test_read_checkpoint_gives_what_was_saved(tmp_path):
    torch.save({"state_dict": {"w": torch.arange(3)}, "epoch": 4}, tmp_path / "good.ckpt")
    checkpoint = read_checkpoint(tmp_path / "good.ckpt")
    assert checkpoint["epoch"] == 4
    assert checkpoint["state_dict"]["w"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("flag", ["--ckpt_path", "--model.init_from"])
def test_missing_checkpoint_is_refused(tmp_path, flag):
    refused(tmp_path / "none.ckpt", "no such file", flag=flag)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_truncated_checkpoint_is_refused(tmp_path, share):
    path = tmp_path / "part.ckpt"
    torch.save({"state_dict": {"w": torch.zeros(100)}}, path)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    refused(path, "not a whole checkpoint")


@pytest.mark.parametrize("content", [b"not a checkpoint", b"PK\x03\x04 not a zip"])
def test_file_that_is_no_checkpoint_is_refused(tmp_path, content):
    (tmp_path / "text.ckpt").write_bytes(content)
    refused(tmp_path / "text.ckpt", "not a whole checkpoint")


def test_folder_in_place_of_a_checkpoint_is_refused(tmp_path):
    refused(tmp_path, "it is a folder; name a regular file")


def test_zip_that_is_no_checkpoint_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "other.ckpt", "w") as other:
        other.writestr("readme.txt", "hello")
    refused(tmp_path / "other.ckpt", "not a whole checkpoint")


class Payload:
    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return (os.system, (self.command,))


@pytest.mark.parametrize("zipped", [True, False])
def test_checkpoint_with_a_payload_is_refused_and_not_run(tmp_path, zipped):
    path, trace = tmp_path / "evil.ckpt", tmp_path / "it_ran"
    torch.save({"state_dict": {}, "x": Payload(f"touch {trace}")}, path, _use_new_zipfile_serialization=zipped)
    refused(path, "not a whole checkpoint")
    assert not trace.exists()
    torch.load(path, weights_only=False)
    assert trace.exists()  # so it would have run


@pytest.mark.parametrize("content", [{}, {"weights": 1}, {"state_dict": 3}, [1, 2], torch.zeros(2)])
def test_checkpoint_without_state_dict_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "other.ckpt")
    refused(tmp_path / "other.ckpt", "no state_dict")


# architectures


def test_state_dicts_of_one_architecture_fit():
    check_state_dict(make_model().state_dict(), make_model().state_dict(), "--ckpt_path")


@pytest.mark.parametrize(
    ("theirs", "words"),
    [
        ({"a": (2,), "b": (3, 1), "c": (1,)}, "b is (3, 1) there, (2, 2) here"),
        ({"a": (2,), "c": (1,)}, "b is missing there, (2, 2) here"),
        ({"a": (2,), "b": (2, 2), "c": (1,), "d": (4,)}, "d is (4,) there, missing here"),
    ],
)
def test_first_weight_that_differs_is_named(theirs, words):
    ours = {"a": (2,), "b": (2, 2), "c": (5,)} if "d" not in theirs else {"a": (2,), "b": (2, 2), "c": (1,)}
    tensors = [{name: torch.zeros(shape) for name, shape in d.items()} for d in (theirs, ours)]
    with pytest.raises(UserError) as error:
        check_state_dict(*tensors, "--ckpt_path=a.ckpt")
    assert with_flags(error.value).startswith("--ckpt_path=a.ckpt: a checkpoint of another architecture")
    assert words in with_flags(error.value)


# which epochs are kept


class Scripted(LightningModule):
    """Its validation accuracy is given, epoch by epoch; its one weight is the epoch."""

    def __init__(self, accuracies):
        super().__init__()
        self.accuracies = accuracies
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)

    def training_step(self, batch, batch_idx):
        return self.weight.sum()

    def validation_step(self, batch, batch_idx):
        self.log("accuracy/val", self.accuracies[self.current_epoch])


def fit_scripted(path, accuracies, *callbacks, resume=None, **arguments):
    loaders = [DataLoader(torch.zeros(1, 1)) for _ in range(2)]
    trainer = make_trainer(path, len(accuracies), BestCheckpoint(), LastCheckpoint(), *callbacks, **arguments)
    trainer.fit(Scripted(accuracies), *loaders, ckpt_path=resume, weights_only=True)
    return trainer


@trains
@pytest.mark.parametrize(
    ("end_epoch", "best"),
    [(0, 0), (2, 3), (3, 3), (4, 4)],
)
def test_best_epoch_is_chosen_where_lambda_has_its_end_value(tmp_path, end_epoch, best):
    annealing = SparsityAnnealing(end_value=1.0, end_epoch=end_epoch)
    fit_scripted(tmp_path, [0.9, 0.8, 0.2, 0.6, 0.5], annealing)
    assert kept(tmp_path, "best")["epoch"] == best
    assert kept(tmp_path, "last")["epoch"] == 4


@trains
def test_best_epoch_of_the_twin_is_chosen_in_the_same_window(tmp_path):
    fit_scripted(tmp_path, [0.9, 0.8, 0.2, 0.6, 0.5], SparsityAnnealing(end_value=0.0))  # half of 5 epochs: 2
    assert kept(tmp_path, "best")["epoch"] == 3


@trains
def test_without_annealing_every_epoch_counts(tmp_path):
    fit_scripted(tmp_path, [0.4, 0.8, 0.2])
    assert kept(tmp_path, "best")["epoch"] == 1


@trains
def test_ramp_that_never_ends_gives_a_warning_and_no_best_checkpoint(tmp_path):
    with pytest.warns(UserWarning, match=r"end value in epoch 5, but training ends after 2 epochs"):
        fit_scripted(tmp_path, [0.4, 0.8], SparsityAnnealing(end_value=1.0, end_epoch=5))
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"last.ckpt", "previous.ckpt"}


@trains
def test_best_epoch_is_not_chosen_by_an_accuracy_of_before_the_window(tmp_path):
    annealing = SparsityAnnealing(end_value=1.0, end_epoch=2)
    fit_scripted(tmp_path, [0.9, 0.9, 0.1, 0.5], annealing, check_val_every_n_epoch=2)  # measured in epochs 1 and 3
    assert kept(tmp_path, "best")["epoch"] == 3


@pytest.mark.parametrize(("epoch", "considered"), [(3, True), (4, False)])
def test_a_validation_before_a_stop_counts_at_the_end_of_its_epoch(monkeypatch, epoch, considered):
    seen = []
    monkeypatch.setattr(ModelCheckpoint, "on_train_epoch_end", lambda *_: seen.append(epoch))
    first, resumed = BestCheckpoint(), BestCheckpoint()
    first.on_validation_end(SimpleNamespace(sanity_checking=False, current_epoch=3), None)
    resumed.load_state_dict(first.state_dict())
    resumed.on_train_epoch_end(SimpleNamespace(current_epoch=epoch, callbacks=[]), None)
    assert bool(seen) is considered


def test_the_sanity_check_is_not_the_first_epoch_s_validation(monkeypatch):
    seen = []
    monkeypatch.setattr(ModelCheckpoint, "on_train_epoch_end", lambda *_: seen.append(1))
    best = BestCheckpoint()
    best.on_validation_end(SimpleNamespace(sanity_checking=True, current_epoch=0), None)
    best.on_train_epoch_end(SimpleNamespace(current_epoch=0, callbacks=[]), None)
    assert seen == []
    best.on_validation_end(SimpleNamespace(sanity_checking=False, current_epoch=0), None)
    best.on_train_epoch_end(SimpleNamespace(current_epoch=0, callbacks=[]), None)
    assert seen == [1]


@trains
@pytest.mark.parametrize(("left_behind", "best"), [((), 0), (("best.ckpt",), 2)])
def test_a_moved_run_knows_its_best_epoch_unless_its_file_was_left_behind(tmp_path, left_behind, best):
    fit_scripted(tmp_path / "before", [0.9, 0.4])
    shutil.copytree(tmp_path / "before", tmp_path / "after", ignore=shutil.ignore_patterns(*left_behind))
    last = tmp_path / "after/checkpoints/last.ckpt"
    trainer = fit_scripted(tmp_path / "after", [0.9, 0.4, 0.6, 0.5], resume=last)
    assert kept(tmp_path / "after", "best")["epoch"] == best
    chosen = trainer.checkpoint_callback
    assert chosen.best_model_path == str(last.with_name("best.ckpt"))
    assert list(chosen.best_k_models) == [chosen.best_model_path]
    assert float(chosen.best_model_score) == pytest.approx([0.9, 0.4, 0.6][best])


# numbers that are not finite


class Poison(Callback):
    """Makes a weight NaN before a batch."""

    def __init__(self, epoch, batch):
        self.when = (epoch, batch)

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if (trainer.current_epoch, batch_idx) == self.when:
            next(pl_module.parameters()).data.fill_(float("nan"))


@trains
@pytest.mark.parametrize("batch", [0, 1])
def test_nan_stops_the_run_and_the_last_good_checkpoints_stay(tmp_path, data, batch):
    callbacks = [LastCheckpoint(), BestCheckpoint(), Poison(2, batch), SparsityAnnealing(end_value=0.25, end_epoch=0)]
    with refused_with("not finite") as error:
        make_trainer(tmp_path, 4, *callbacks).fit(make_model(), datamodule=data)
    for word in (f"step {2 * 2 + batch}, epoch 2", "learning rate 0.001", "lambda 0.25", "--model.optimizer.lr"):
        assert word in with_flags(error.value)
    assert kept(tmp_path, "last")["epoch"] == 1
    assert kept(tmp_path, "best")["epoch"] <= 1
    for name in ("last", "best"):
        assert all(weight.isfinite().all() for weight in kept(tmp_path, name)["state_dict"].values())


class Overflow(Callback):
    """An infinite learning rate in the last step of epoch 1: the gradient is finite, the weights no longer."""

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        if trainer.global_step == 3:
            optimizer.param_groups[0]["lr"] = float("inf")


@trains
def test_weights_that_overflow_in_the_last_step_of_an_epoch_are_not_kept(tmp_path, data):
    with refused_with("not finite"):
        make_trainer(tmp_path, 3, LastCheckpoint(), Overflow()).fit(make_model(), datamodule=data)
    assert all(weight.isfinite().all() for weight in kept(tmp_path, "last")["state_dict"].values())


@trains
def test_finite_run_is_not_stopped(tmp_path, data):
    make_trainer(tmp_path, 2, LastCheckpoint()).fit(make_model(), datamodule=data)
    assert kept(tmp_path, "last")["epoch"] == 1


# silent layers


def silence_warnings(record):
    return [str(warning.message) for warning in record if "fallen silent" in str(warning.message)]


@trains
def test_silent_layer_is_named_once_with_what_to_change(tmp_path, data):
    model = make_model("2-P-2")
    model.net.layers["conv2"].neuron = LIF(threshold=1e9)
    with pytest.warns(UserWarning, match="layer conv2 has fallen silent") as record:
        make_trainer(tmp_path, 3, log_every_n_steps=1, enable_checkpointing=False).fit(model, datamodule=data)
    messages = silence_warnings(record)
    assert len(messages) == 1
    for flag in ("--sparsity.end_value", "--sparsity.start_epoch", "--model.net.threshold", "--model.net.norm=batch"):
        assert flag in messages[0]


def test_layer_that_falls_silent_again_is_named_again(recwarn):
    guard, names = SilentLayers(), {"conv1": 10, "conv2": 10}
    one_process = SimpleNamespace(reduce=lambda spikes, reduce_op: spikes)
    trainer = SimpleNamespace(
        log_every_n_steps=2, is_last_batch=False, global_step=0, current_epoch=0, strategy=one_process
    )
    second_layer = [5, 0, 0, 7, 0, 0, 0, 0, 3, 3, 0, 0]  # spikes, batch by batch; looked at every second batch
    for batch, spikes in enumerate(second_layer):
        tally = SimpleNamespace(spikes=torch.tensor([[1.0, 2.0], [spikes, 0.0]]), layers=SimpleNamespace(neurons=names))
        guard.on_train_batch_end(trainer, None, {"loss": None, "tally": tally}, None, batch)
        trainer.global_step += 1
    steps = [re.search(r"layer (\w+) .*step (\d+)", message).groups() for message in silence_warnings(recwarn)]
    assert steps == [("conv2", "5"), ("conv2", "11")]


# a network of the user's own


class Plain(torch.nn.Module):
    """Counts what it does, but keeps no record: its forward takes the input alone."""

    def __init__(self):
        super().__init__()
        self.inside = SpikingVGG("2-P", num_classes=2, input_shape=(3, 8, 8), timesteps=2)

    def forward(self, x):
        return self.inside(x)


@trains
def test_a_network_without_records_trains_and_its_bill_says_what_it_does_not_know(tmp_path, data):
    model = SpikingClassifier(Plain())
    make_trainer(tmp_path, 1, log_every_n_steps=1, enable_checkpointing=False).fit(model, datamodule=data)
    bill = model.bills["val"]
    assert bill.images == 4
    assert bill.neuron_spikes is None
    assert bill.nonzero_synops is None
    assert not [tag for tag in model.measured if tag.startswith("health/")]
    assert model.measured["efficiency/synops_per_image/val"] == sum(bill.synops.values()) / 4


# random state


class Draws(LightningModule):
    """Draws from torch's generator in every step, as dropout does."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.drawn = []

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)

    def training_step(self, batch, batch_idx):
        self.drawn.append(torch.rand(1).item())
        return self.weight.sum()


@trains
@pytest.mark.parametrize(("callbacks", "restored"), [([ProcessState], True), ([], False)])
def test_resumed_run_draws_on_where_the_first_one_stopped(tmp_path, callbacks, restored):
    def drawn(folder, seed, epochs, resume=False):
        torch.manual_seed(seed)
        model = Draws()
        trainer = make_trainer(tmp_path / folder, epochs, LastCheckpoint(), *(callback() for callback in callbacks))
        loader = DataLoader(torch.zeros(3, 1), generator=torch.Generator())
        last = tmp_path / folder / "checkpoints/last.ckpt"
        trainer.fit(model, loader, ckpt_path=last if resume else None, weights_only=True)
        return model.drawn

    whole = drawn("whole", seed=1, epochs=4)
    first, second = drawn("parts", seed=1, epochs=2), drawn("parts", seed=999, epochs=4, resume=True)
    assert (len(whole), len(first), len(second)) == (12, 6, 6)
    assert whole[:6] == first
    assert (whole[6:] == second) is restored


def test_what_was_measured_is_kept_and_put_back():
    """All of it in the module; of the newest validation also where the callbacks that go by a metric look."""
    module, checkpoint = make_model(), {}
    module.measured = {"accuracy/val": 0.75, "accuracy/train": 0.5}
    module.on_save_checkpoint(checkpoint)
    module.measured["accuracy/val"] = 0.25
    assert checkpoint["measured"] == {"accuracy/val": 0.75, "accuracy/train": 0.5}
    trainer = SimpleNamespace(
        callback_metrics={},
        world_size=1,
        fit_loop=SimpleNamespace(restarted_mid_epoch=False),
        state=SimpleNamespace(fn="fit"),
    )
    state, resumed = ProcessState(), make_model()
    state.on_load_checkpoint(trainer, resumed, checkpoint)
    assert resumed.measured == {}  # not before training: a sanity check comes in between
    resumed.measured = {"accuracy/val": 0.1, "loss/task/val": 2.0}
    state.on_train_start(trainer, resumed)
    assert resumed.measured == {"accuracy/val": 0.75, "accuracy/train": 0.5, "loss/task/val": 2.0}
    assert trainer.callback_metrics == {"accuracy/val": torch.tensor(0.75)}
    resumed.measured["accuracy/val"] = 0.1
    state.on_train_start(trainer, resumed)  # once only
    assert resumed.measured["accuracy/val"] == 0.1


@trains
def test_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(tmp_path, data):
    def trained(folder, epochs, resume=False):
        model = make_model(dropout=0.5)
        last = tmp_path / folder / "checkpoints/last.ckpt"
        make_trainer(tmp_path / folder, epochs, LastCheckpoint()).fit(
            model, datamodule=data, ckpt_path=last if resume else None, weights_only=True
        )
        return model.state_dict()

    whole = trained("whole", 3)
    first, resumed = trained("parts", 1), trained("parts", 3, resume=True)
    name = "net.layers.conv1.weights.weight"
    assert not torch.equal(first[name], whole[name])
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


# weights of another kind


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda w: w.to(torch.int8), "torch.int8 (integer) there, torch.float32 (floating point) here"),
        (lambda w: w.to(torch.complex64), "torch.complex64 (complex) there"),
        (lambda w: w.to_sparse(), "(sparse floating point) there"),
        (lambda w: w.to(torch.bfloat16), None),
        (lambda w: w.double(), None),
    ],
)
def test_weights_of_another_kind_of_number_are_refused(change, words):
    ours = make_model().state_dict()
    name = next(key for key, value in ours.items() if value.is_floating_point() and value.dim() == 4)
    theirs = {**ours, name: change(ours[name])}
    if words is None:
        check_state_dict(theirs, ours, "--ckpt_path=a.ckpt")
        return
    with pytest.raises(UserError) as error:
        check_state_dict(theirs, ours, "--ckpt_path=a.ckpt")
    assert with_flags(error.value).startswith(f"--ckpt_path=a.ckpt: {name} is ")
    assert words in with_flags(error.value)


# predictions


@trains
def test_predictions_of_a_folder_are_one_csv_in_name_order(tmp_path, data):
    (tmp_path / "mine").mkdir()
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "mine" / f"{number}.png")
    data.predict_on, data.batch_size = str(tmp_path / "mine"), 2
    model = make_model()
    make_trainer(tmp_path, 1, PredictionWriter(str(tmp_path / "out/p.csv"))).predict(model, datamodule=data)
    with (tmp_path / "out/p.csv").open() as file:
        rows = list(csv.DictReader(file))
    images = torch.cat([data.encode(batch).images for batch in data.predict_dataloader()])
    output = model.eval()(images)
    probability = torch.exp(output.logits) / torch.exp(output.logits).sum(1, keepdim=True)
    assert [(row["index"], row["label"], row["file"]) for row in rows] == [
        (str(number), "", str(tmp_path / f"mine/{number}.png")) for number in range(3)
    ]
    assert [int(row["predicted"]) for row in rows] == output.logits.argmax(1).tolist()
    assert [row["class"] for row in rows] == [data.dataset.classes[int(row["predicted"])] for row in rows]
    assert [float(row["confidence"]) for row in rows] == pytest.approx(probability.amax(1).tolist(), abs=1e-6)
    assert [int(row["spikes"]) for row in rows] == output.tally.spikes.sum(0).tolist()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["p.csv"]


@trains
def test_a_test_of_loaders_alone_has_predictions_without_names(tmp_path, data):
    data.setup("test")
    batches = [data.encode(batch) for batch in data.test_dataloader()]
    loader = DataLoader(batches, batch_size=None)
    make_trainer(tmp_path, 1, PredictionWriter(str(tmp_path / "p.csv"))).test(make_model(), loader, verbose=False)
    with (tmp_path / "p.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["label"]) for row in rows] == data.dataset.test.labels.tolist()
    assert {row["class"] for row in rows} == {""}


@trains
@pytest.mark.parametrize("name", ["mine", "test"])
def test_predictions_of_a_folder_are_not_those_of_a_split(tmp_path, data, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).mkdir()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / name / "0.png")
    data.predict_on = f"{name}/."
    make_trainer(tmp_path, 1, PredictionWriter()).predict(make_model(), datamodule=data)
    (written,) = tmp_path.rglob("predictions_*.csv")
    assert written.name == {"mine": "predictions_mine.csv", "test": "predictions_test_folder.csv"}[name]
