"""Two processes on the CPU (gloo)."""

import csv
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from pytorch_lightning import Callback, Trainer
from torch import nn

from float64_run import network, save_images, train
from refusals import refused_with
from spikesparse import CIFAR10DataModule, SpikingClassifier, SpikingVGG
from spikesparse.commands.quiet import quiet
from spikesparse.metrics import Energy, SpikeRate, SynapticOperations
from spikesparse.nn import LIF, LayerSizes, SpikeTally
from spikesparse.nn.early_exit import EarlyExit
from spikesparse.training.sync_batchnorm import SharedStatistics

SIZES = LayerSizes({"conv1": 20, "fc1": 5}, {"conv1": 40, "fc1": 100, "classifier": 50})


def tally_of(samples):
    """A tally with known counts for each sample number."""
    n = torch.tensor(samples, dtype=torch.float64)
    spikes = torch.stack([n % 37, n % 5])
    synops = torch.stack([0 * n, 7 * n, 3 * n + 2**33])  # beyond 2^31 already
    return SpikeTally(SIZES, 4, spikes, synops, 40 + 0 * n, 0 * n, spikes[:0])


def metrics():
    return [SpikeRate(), SpikeRate(per_layer=True), SynapticOperations(), SynapticOperations(per_layer=True), Energy()]


def on_rank(rank, folder, samples):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    dist.barrier()
    own = samples[: len(samples) // 3] if rank == 0 else samples[len(samples) // 3 :]  # unequal shares
    values = metrics()
    for metric in values:
        for start in range(0, max(1, len(own)), 8):  # a rank without samples gets one empty batch
            metric.update(tally_of(own[start : start + 8]))
    torch.save([metric.compute() for metric in values], f"{folder}/rank{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.parametrize("count", [100, 101, 2])
def test_metrics_of_two_processes_equal_those_of_one(tmp_path, count):
    samples = list(range(count))
    mp.start_processes(on_rank, (str(tmp_path), samples), nprocs=2, start_method="fork")
    alone = metrics()
    for metric in alone:
        metric.update(tally_of(samples))
    for rank in (0, 1):
        together = torch.load(tmp_path / f"rank{rank}.pt", weights_only=True)
        assert together == [metric.compute() for metric in alone]
    assert float(alone[0].compute()) == sum(n % 37 + n % 5 for n in samples) / (25 * 4 * count)


class KeepBill(Callback):
    """Every process writes the bill that it holds."""

    def __init__(self, folder):
        self.folder = folder

    def on_test_end(self, trainer, pl_module):
        whole = (pl_module.bills["test"], pl_module.measured["accuracy/test"])
        (self.folder / f"{trainer.world_size}-{trainer.global_rank}.pkl").write_bytes(pickle.dumps(whole))


@pytest.mark.parametrize(("count", "confidence"), [(101, None), (100, None), (1, None), (101, 0.64), (1, 0.64)])
def test_two_processes_count_what_one_counts(tmp_path, count, confidence):
    """An odd number is not padded; of one image, the second process gets none; some images exit early."""
    quiet()
    rng = np.random.default_rng(0)
    arrays = {}
    for split, number in (("train", 20), ("test", count)):
        arrays[f"x_{split}"] = rng.integers(0, 256, (number, 8, 8, 3), np.uint8)
        arrays[f"y_{split}"] = np.arange(number) % 2
    np.savez(tmp_path / "images.npz", **arrays)
    torch.manual_seed(0)
    net = SpikingVGG("4-P-F6", num_classes=2, timesteps=3, input_shape=(3, 8, 8), pooling="average", norm="none")
    with torch.no_grad():
        net.layers["fc1"].weights.weight[:, ::3] = 0
    for devices in (1, 2):
        data = CIFAR10DataModule(
            source="npz", data_dir=str(tmp_path / "images.npz"), batch_size=7, timesteps=3, encoder="poisson"
        )
        trainer = Trainer(
            accelerator="cpu",
            devices=devices,
            strategy="ddp_fork" if devices > 1 else "auto",
            callbacks=[KeepBill(tmp_path)],
            **dict.fromkeys(("logger", "enable_progress_bar", "enable_checkpointing", "enable_model_summary"), False),
        )
        trainer.test(SpikingClassifier(net, early_exit=EarlyExit(confidence)), data, verbose=False)
    one, *two = (pickle.loads((tmp_path / f"{name}.pkl").read_bytes()) for name in ("1-0", "2-0", "2-1"))
    assert two == [one, one]
    bill = one[0]
    assert bill.images == count
    if confidence is None:
        assert bill.steps == 3 * count
    elif count > 1:
        assert count < bill.steps < 3 * count
    assert bill.neuron_spikes is not None
    assert 0 < bill.nonzero_synops["fc1"] < bill.synops["fc1"]
    assert bill.input_spikes > 0


class OwnNeuron(LIF):
    """Not on the fast path: its layer normalises apart from its neurons."""

    def forward(self, current, timesteps=None):
        return super().forward(current, timesteps)


class KeepWeights(Callback):
    """The first process writes what it trained."""

    def __init__(self, path):
        self.path = path

    def on_train_end(self, trainer, pl_module):
        assert trainer.global_step == 21
        if trainer.is_global_zero:
            torch.save(pl_module.net.state_dict(), self.path)


@pytest.mark.filterwarnings("ignore:Trying to infer the `batch_size` from an ambiguous collection")
@pytest.mark.parametrize("neuron", [None, OwnNeuron], ids=["fused", "apart"])
@pytest.mark.parametrize("encoder", ["direct", "poisson"])
@pytest.mark.slow
def test_two_processes_with_synchronised_batch_norm_train_what_one_trains(tmp_path, encoder, neuron):
    """21 steps in float64 from the same global batches, with the penalty in the loss, on gloo and CPUs."""
    images = save_images(tmp_path)
    for name, devices, synchronised in (("one", 1, False), ("two", 2, True), ("apart", 2, False)):
        processes = {"devices": devices, "strategy": "ddp_fork" if devices > 1 else "auto"}
        settings = {"sync_batchnorm": synchronised, "use_distributed_sampler": False, "max_epochs": 7}
        keep = {"callbacks": [KeepWeights(tmp_path / name)]}
        train(network(neuron=neuron), images, {**processes, **settings, **keep}, devices, encoder=encoder)
    one, two, without = (torch.load(tmp_path / name, weights_only=True) for name in ("one", "two", "apart"))
    assert list(one) == list(two)
    for name, expected in one.items():
        torch.testing.assert_close(two[name], expected, rtol=1e-9, atol=1e-12, msg=name)
    assert any((without[name] - one[name]).abs().max() > 1e-4 for name in one if "weight" in name)


def test_a_batch_norm_that_cannot_be_synchronised_is_refused():
    module = nn.Sequential(SpikingVGG("4", input_shape=(3, 4, 4)), nn.BatchNorm1d(10))
    with refused_with(r"sync_batchnorm=true: torch cannot .* on a CPU \(Sequential\.1\)"):
        SharedStatistics().apply(module)


def test_synchronising_can_be_undone():
    net = SpikingVGG("4", input_shape=(3, 4, 4))
    for method, shared in (("apply", True), ("revert", False)):
        assert getattr(SharedStatistics(), method)(net) is net
        assert net.layers["conv1"].shares_statistics is shared
        assert type(net.layers["conv1"].norm) is nn.BatchNorm2d


def run(*args, check=True, **env):
    return subprocess.run(
        [sys.executable, "-m", *args],
        capture_output=True,
        text=True,
        check=check,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1", **env},
    )


def two_processes(args):
    return [*args, "--trainer.devices=2", "--trainer.strategy=ddp"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_ddp_trains_tests_and_predicts_every_image_once(tiny_args):
    trained = run("spikesparse", "train", *two_processes(tiny_args))
    assert "global batch: 8 x 2 processes x 1 accumulated = 16" in trained.stdout + trained.stderr
    folder = next(Path("runs").glob("base-*/seed0"))
    checkpoint = str(folder / "checkpoints" / "best.ckpt")
    result = json.loads((folder / "result.json").read_text())

    run("spikesparse", "predict", f"--ckpt_path={checkpoint}", "--data.predict_on=test", "--predictions.path=one.csv")
    distributed = ["predict", f"--ckpt_path={checkpoint}", "--data.predict_on=test", "--predictions.path=two.csv"]
    run("spikesparse", *two_processes(distributed))
    one, two = (list(csv.DictReader(Path(name).read_text().splitlines())) for name in ("one.csv", "two.csv"))
    assert [row["index"] for row in two] == [str(i) for i in range(12)]
    exact = ("index", "label", "predicted", "spikes")
    assert [[row[c] for c in exact] for row in one] == [[row[c] for c in exact] for row in two]
    assert result["spikes"] == pytest.approx(sum(int(row["spikes"]) for row in one) / 12, rel=1e-12)
    assert result["accuracy"] == pytest.approx(sum(row["label"] == row["predicted"] for row in one) / 12)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_torchrun_trains_one_model(tiny_args):
    launch = ["torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "spikesparse", "fit"]
    run(*launch, *two_processes(tiny_args))
    folders = list(Path("runs").glob("base-*/seed*"))
    assert [folder.name for folder in folders] == ["seed0"]
    kept = torch.load(folders[0] / "checkpoints" / "last.ckpt", weights_only=True)
    assert len(kept["processes"]) == 2  # the state of each
    assert kept["global_step"] == 4 * 3  # 36 images, 16 a step: two full, and 4 shared out


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_torchrun_that_would_train_two_models_is_refused(tiny_args):
    launch = ["torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "spikesparse", "fit"]
    ended = run(*launch, *tiny_args, check=False)
    assert ended.returncode != 0
    assert "would train a model of its own" in ended.stderr
    assert "--trainer.strategy=ddp" in ended.stderr
    assert not list(Path("runs").glob("**/last.ckpt"))
