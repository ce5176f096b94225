"""Accumulated gradients train what the whole batch trains, if no layer looks at the batch as a whole."""

import pytest
import torch

from float64_run import network, save_images, train

STEPS = 20


def trained(path, norm, accumulated, encoder="direct"):
    """Weights after 20 steps."""
    net = network(norm=norm)
    steps = {"max_epochs": -1, "max_steps": STEPS, "accumulate_grad_batches": accumulated}
    assert train(net, path, steps, accumulated, encoder=encoder).global_step == STEPS
    return net.state_dict()


@pytest.fixture
def images(tmp_path):
    return save_images(tmp_path)


@pytest.mark.filterwarnings("ignore:Trying to infer the `batch_size` from an ambiguous collection")
@pytest.mark.parametrize("encoder", ["direct", pytest.param("poisson", marks=pytest.mark.slow)])
def test_without_batch_norm_three_small_batches_are_one_large_one(images, encoder):
    whole, parts = (trained(images, "none", accumulated, encoder) for accumulated in (1, 3))
    assert list(whole) == list(parts)
    for name, expected in whole.items():
        torch.testing.assert_close(parts[name], expected, rtol=1e-9, atol=1e-12, msg=name)
    before = network(norm="none").double().state_dict()
    moved = {name for name in whole if (whole[name] - before[name]).abs().max() > 1e-2}
    assert moved >= {f"layers.{name}.weights.weight" for name in ("conv1", "fc1", "classifier")}  # all have learned


def test_with_batch_norm_they_are_not(images):
    whole, parts = (trained(images, "batch", accumulated) for accumulated in (1, 3))
    assert any((parts[name] - whole[name]).abs().max() > 1e-4 for name in whole if "weight" in name)
