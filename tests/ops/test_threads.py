"""One image on several threads, which share its only window: every count is the same, in every pass."""

import csv
from functools import cache

import pytest
import torch
from torch import nn

from oracle import Oracle
from spikesparse import LIF, SpikePenalty, SpikingLayer, SpikingStack
from spikesparse.commands.main import main
from spikesparse.ops import NeuronSpec, backends, cpu, reference
from spikesparse.ops.problem import Scan
from spikesparse.ops.surrogate import surrogate

pytestmark = pytest.mark.skipif(
    backends._unavailable("cpu") is not None, reason=f"no C++ kernels: {backends._unavailable('cpu')}"
)
# Layers are wide enough for ten tiles and more: threads that took no care of each other were wrong in every third pass.
PASSES = 20  # of a network; a kernel alone takes a tenth of the time
KINDS = ["fully connected", "last pool"]


def network(kind):
    """A layer of many neurons that fire often, and a classifier behind it."""
    torch.manual_seed(0)
    if kind == "last pool":
        first, pool, shape, features = nn.Conv2d(2, 1024, 3, padding=1, bias=False), nn.MaxPool2d(2), (2, 2, 2), 1024
    else:
        first, pool, shape, features = nn.Linear(12, 2048, bias=False), None, (3, 2, 2), 2048
    nn.init.uniform_(first.weight, 0, 1)
    layers = {"first": SpikingLayer(first, neuron=LIF(), pool=pool), "classifier": SpikingLayer(nn.Linear(features, 2))}
    return SpikingStack(layers, shape, timesteps=3), torch.rand(1, *shape)


@cache
def walked(kind):
    """Spikes of the first layer, and synaptic operations of the classifier, by the walk over their synapses."""
    with torch.no_grad():
        oracle = Oracle(*network(kind), 3)
    return oracle.spikes["first"][0], oracle.synops["classifier"][0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
def test_the_kernel_counts_one_window(kind, dtype, threads):
    pool = kind == "last pool"
    shape = (3, 1, 2, 2, 2048) if pool else (3, 1, 1, 1, 8192)
    y = 2 * torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    scan = Scan(y, None, None, torch.tensor(0.5), torch.tensor(1.0), NeuronSpec(surrogate("atan")), 3, pool)
    expected = reference.forward(scan, pack=True, count=True)
    assert expected.fired.sum() > 1000
    for _ in range(10 * PASSES):
        found = cpu.forward(scan, pack=True, count=True)
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
@pytest.mark.parametrize("kind", KINDS)
def test_spikes_and_synaptic_operations_are_those_of_the_walk_over_synapses(kind, training, threads):
    net, x = network(kind)
    net.train(training)
    assert walked(kind)[0] > 1000
    for _ in range(PASSES):
        with torch.set_grad_enabled(training):
            tally = net(x).tally
        assert (tally.spikes[0, 0].item(), tally.synops[1, 0].item()) == walked(kind)


@pytest.mark.parametrize("kind", KINDS)
def test_penalty_and_gradient_of_one_image(kind, threads, monkeypatch):
    """The penalty is counts over what they could be; its gradient is that of plain PyTorch."""
    net, x = network(kind)
    passes = []
    for backend, repeats in (("reference", 1), ("cpu", PASSES)):
        monkeypatch.setenv("SPIKESPARSE_BACKEND", backend)
        for _ in range(repeats):
            net.zero_grad()
            output = net(x)
            penalty = SpikePenalty("synops")(output.tally) + SpikePenalty("spikes")(output.tally)
            penalty.backward()
            passes.append((penalty.item(), net.layers["first"].weights.weight.grad))
    of_penalty, of_gradient = passes[0]
    assert of_gradient.abs().sum() > 0
    for penalty, gradient in passes[1:]:
        assert penalty == of_penalty
        torch.testing.assert_close(gradient, of_gradient, rtol=1e-4, atol=1e-9)
    assert all(torch.equal(gradient, passes[1][1]) for _, gradient in passes[2:])


@pytest.mark.parametrize("threads", [2, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 4))], indirect=True)
@pytest.mark.filterwarnings("ignore")  # Lightning's advice on tiny runs is not what is tested here
def test_predictions_of_single_images_are_the_same_twice(tiny_args, tmp_path, threads):
    torch.set_num_threads(1)
    wide = ["--model.net.architecture=4-P-F2048", "--model.net.threshold=0.05", "--model.net.norm=none"]
    short = ["--trainer.max_epochs=1", "--trainer.limit_val_batches=0", "--model.scheduler.warmup_epochs=0"]
    assert main(["fit", *tiny_args, *wide, *short, "--sparsity.end_epoch=1", "--sparsity.end_value=0"]) == 0
    torch.set_num_threads(threads)
    (checkpoint,) = tmp_path.rglob("last.ckpt")
    spikes = []
    for name in ("one.csv", "two.csv"):
        flags = ["--data.batch_size=1", "--data.predict_on=test", f"--predictions.path={name}"]
        assert main(["predict", f"--ckpt_path={checkpoint}", *flags]) == 0
        (written,) = tmp_path.rglob(name)
        with written.open() as file:
            spikes.append([int(row["spikes"]) for row in csv.DictReader(file)])
    assert len(spikes[0]) == 12
    assert min(spikes[0]) > 200
    assert spikes[0] == spikes[1]
