"""Likely slips from Python end with a sentence, and outputs print in one line."""

import re

import pytest
import torch

from spikesparse import Energy, SpikePenalty, SpikeRate, SpikingOutput, SpikingVGG, SynapticOperations


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return SpikingVGG("4-P-F6", input_shape=(3, 8, 8), num_classes=5, timesteps=3).eval()


@pytest.fixture(scope="module")
def output(net):
    return net(torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 3)


@pytest.mark.parametrize("metric", [SpikeRate, SynapticOperations, Energy])
def test_a_metric_wants_the_tally(metric, output):
    with pytest.raises(ValueError, match=r"hand on output\.tally"):
        metric().update(output)
    with pytest.raises(ValueError, match="a SpikeTally is needed, not Tensor"):
        metric().update(output.logits)
    metric().update(output.tally)


def test_the_penalty_wants_the_tally(output):
    with pytest.raises(ValueError, match=r"hand on output\.tally"):
        SpikePenalty()(output)
    assert 0 < SpikePenalty()(output.tally) < 1


def test_pixels_are_no_currents(net):
    with pytest.raises(ValueError, match=r"x must be floating-point, not torch\.uint8; pixels: x\.float\(\) / 255"):
        net(torch.zeros(2, 3, 8, 8, dtype=torch.uint8))


@pytest.mark.parametrize("timesteps", ["4", 0, 2.5, True])
def test_timesteps_are_a_whole_number(timesteps):
    with pytest.raises(ValueError, match=f"timesteps must be a whole number, at least 1, not {timesteps!r}"):
        SpikingVGG("4-P", input_shape=(3, 8, 8), timesteps=timesteps)


def test_outputs_print_in_one_line(output):
    spikes, synops = output.tally.spikes.sum() / 2, output.tally.synops.sum() / 2
    assert spikes > 0
    assert repr(output.tally) == (
        f"SpikeTally(images=2, T=3, layers=['conv1', 'fc1'], spikes/image={spikes:.1f}, SynOps/image={synops:.1f})"
    )
    assert repr(output) == f"SpikingOutput(logits=(2, 5) torch.float32, tally={output.tally!r})"


def test_an_empty_batch_and_one_without_memory_print_too(net, output):
    empty = net(torch.zeros(0, 3, 8, 8))
    assert "images=0" in repr(empty)
    assert "spikes/image=0.0" in repr(empty)
    tally = output.tally.of(torch.tensor([0]))
    unknown = type(tally)(**{**vars(tally), "spikes": tally.spikes.to("meta"), "synops": tally.synops.to("meta")})
    printed = repr(SpikingOutput(output.logits, unknown))
    assert re.fullmatch(r"SpikingOutput\(.*spikes/image=\?, SynOps/image=\?\)\)", printed)
