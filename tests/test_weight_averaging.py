"""Averaged weights (EMA, SWA): they count as any others do, and what is reported is of the weights that are kept."""

import copy

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_avg_fn, get_ema_multi_avg_fn

from spikesparse import SpikingVGG


def conv_fanout(side, channels):
    """Synapses of an event at each place of a 3x3 convolution with padding 1, by counting."""
    rows = [sum(0 <= row + tap < side for tap in (-1, 0, 1)) for row in range(side)]
    return torch.tensor([[channels * up * across for across in rows] for up in rows])


def assert_counts_as_built(net):
    """The fan-out of "4-P-6-F8" on 8x8 pixels, by hand."""
    expected = {"conv1": conv_fanout(8, 4), "conv2": conv_fanout(4, 6), "fc1": torch.full((4, 4), 8)}
    for name, fanout in expected.items():
        assert torch.equal(net.layers[name].fanout, fanout), name
    assert net.layers["classifier"].fanout.item() == 10


def network():
    torch.manual_seed(0)
    return SpikingVGG("4-P-6-F8", input_shape=(3, 8, 8), timesteps=2)


@pytest.mark.parametrize(
    "average", [{"avg_fn": get_ema_avg_fn(0.9)}, {"multi_avg_fn": get_ema_multi_avg_fn(0.992)}, {}]
)
def test_averaging_with_buffers_leaves_the_counts_alone(average):
    net = network().eval()
    averaged = AveragedModel(net, use_buffers=True, **average)
    for _ in range(4):
        averaged.update_parameters(net)
    assert_counts_as_built(averaged.module)
    images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1)) * 3
    with torch.no_grad():
        ours, theirs = (each(images).tally for each in (net, averaged.module))
    torch.testing.assert_close(ours.synops, theirs.synops, rtol=0, atol=0)
    assert ours.synops.sum() > 0


@pytest.mark.parametrize(
    "change",
    [
        lambda net: net.to(torch.bfloat16),
        lambda net: net.half().float(),
        lambda net: net.to("meta").to_empty(device="cpu"),
        lambda net: net.apply(lambda part: [buffer.zero_() for buffer in part.buffers()]),
        copy.deepcopy,
    ],
    ids=["bfloat16", "half", "meta", "buffers", "deepcopy"],
)
def test_nothing_done_to_parameters_and_buffers_reaches_the_fan_out(change):
    assert_counts_as_built(change(network()))


def test_the_only_buffers_are_batch_norms_statistics():
    net = network()
    of_norms = {
        id(b) for part in net.modules() if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d) for b in part.buffers()
    }
    assert {id(buffer) for buffer in net.buffers()} == of_norms


def test_a_network_that_was_built_without_memory_counts_once_it_has_weights():
    with torch.device("meta"):
        net = network()
    whole = network()
    net.to_empty(device="cpu").load_state_dict(whole.state_dict())
    assert_counts_as_built(net)
    images = torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(net.eval()(images).logits, whole.eval()(images).logits, rtol=0, atol=0)
