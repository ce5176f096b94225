"""A step's encoding, forward pass, loss and metrics neither read from the device nor copy to
it: Python would wait there until the device has done all it was asked to.

There is a device here though none is at hand: fake tensors have a shape, a dtype and a device, but no values. Autograd
would need a true one: the way back is left out.
"""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torchmetrics import Metric

import spikesparse
from spikesparse.data.loading import Batch
from spikesparse.metrics.means import ImageMeans
from spikesparse.nn import SpikingLayer

READS = {"_local_scalar_dense", "nonzero", "equal"}


class Waits(TorchDispatchMode):
    """Notes the operations for which Python and the device wait for each other."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name in READS:
            self.found.append(name)
        out = func(*args, **(kwargs or {}))
        devices = {each.device.type for each in tree_leaves((args, out)) if isinstance(each, torch.Tensor)}
        if name in ("_to_copy", "copy_") and len(devices) > 1:
            self.found.append(f"{name} between {' and '.join(sorted(devices))}")
        return out


def put_on_device(module):
    """As ``.to`` does, which does not replace true tensors by fake ones."""
    for part in module.modules():
        for tensors in (part._parameters, part._buffers):
            for name, tensor in tensors.items():
                if tensor is not None:
                    fake = torch.empty_like(tensor, device="cuda")
                    tensors[name] = torch.nn.Parameter(fake) if tensors is part._parameters else fake
        if isinstance(part, SpikingLayer):  # moved with the layer, though it is no buffer
            part.fanout = torch.empty_like(part.fanout, device="cuda")
        if isinstance(part, Metric):
            for name in part._defaults:
                setattr(part, name, torch.empty_like(getattr(part, name), device="cuda"))
            part._device = torch.device("cuda")


def train_twice(encoder="direct", **settings):
    """What waits in the second of two steps: the first may put constants in their place."""
    data = spikesparse.CIFAR10DataModule(source="digits", encoder=encoder, crop_padding=1)
    _ = data.pixel_statistics
    net = spikesparse.SpikingVGG("8-8-P-8-P-F16", input_shape=(3, 8, 8), **settings)
    module = spikesparse.SpikingClassifier(net, penalty=spikesparse.SpikePenalty(layer_weights=[1, 2, 3, 4]))
    module.sparsity_weight = 0.5
    with FakeTensorMode(allow_non_fake_inputs=True):
        put_on_device(module)
        images = torch.zeros(6, 3, 8, 8, dtype=torch.uint8, device="cuda")
        raw = Batch(images, *(torch.zeros(6, dtype=torch.int64, device="cuda") for _ in range(2)))
        for _ in range(2):
            with Waits() as waits:
                module.training_step(data.encode(raw, training=True, epoch=1), 0)
    return waits.found


@pytest.mark.parametrize("encoder", ["direct", "poisson"])
@pytest.mark.parametrize("settings", [{}, {"recompute": True}, {"learn_decay": True, "norm": "none"}])
def test_a_training_step_waits_for_nothing(encoder, settings):
    assert train_twice(encoder, **settings) == []


def test_waiting_would_be_seen():
    with FakeTensorMode(), Waits() as waits:
        torch.tensor(1.0, device="cuda")
        x = torch.ones(3, device="cuda")
        with pytest.raises(Exception, match="local_scalar_dense"):
            float(x.sum())
    assert waits.found == ["_to_copy between cpu and cuda", "_local_scalar_dense"]


def test_means_are_over_images_and_not_over_batches():
    means = ImageMeans(2).to(torch.bfloat16)
    for value, images in ((1.0, 100), (0.0, 300), (0.25, 4)):
        means.update(torch.tensor([value * images, 2 * value * images], dtype=torch.float64), images)
    assert means.compute().tolist() == [101 / 404, 202 / 404]  # float64: bfloat16 would count to 256
