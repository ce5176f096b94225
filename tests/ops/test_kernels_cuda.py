"""The Triton kernels on a CUDA device, against the definition there."""

from itertools import product

import pytest
import torch

from spikesparse.ops import reference
from spikesparse.ops.backends import backend_for
from spikesparse.ops.fire import Normalization, fire
from spikesparse.ops.problem import Scan, SpikeGradients, Wanted
from spikesparse.ops.spec import NeuronSpec
from spikesparse.ops.surrogate import SURROGATES, surrogate

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
SHAPES = [(3, 9, 7, 37), (2, 16, 16, 64), (64, 1, 1, 1000), (1, 5, 5, 640)]


@pytest.fixture(scope="module")
def kernels():
    backend = backend_for(torch.device("cuda"), torch.float32)
    assert backend.__name__ == "spikesparse.ops.triton_kernels"
    return backend


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator("cuda").manual_seed(seed), device="cuda")


def scan_of(timesteps, shape, pool, spec, dtype=torch.float32, constant=False, scaled=True):
    y = (2 * random(1 if constant else timesteps, *shape)).to(dtype)
    scale, shift = 0.5 + random(shape[-1], seed=1).abs(), 0.3 * random(shape[-1], seed=2)
    *numbers, initial = (torch.tensor(value, device="cuda") for value in (0.9, 0.8, 0.3))
    return Scan(y, *((scale, shift) if scaled else (None, None)), *numbers, spec, timesteps, pool, initial)


def doubled(value):
    if isinstance(value, torch.Tensor):
        return value.double()
    if isinstance(value, tuple):
        return type(value)(*(doubled(each) for each in value))
    if isinstance(value, Scan):
        return Scan(*(doubled(value.__dict__[name]) for name in Scan.__dataclass_fields__))
    return value


def check(kernels, scan, wanted=Wanted(True, True, True)):  # noqa: B008 a named tuple
    """Spikes, bits and counts to the bit; gradients against float64 where it fires the same spikes."""
    ours, expected = kernels.forward(scan, True, True), reference.forward(scan, True, True)
    for name, a, b in zip(ours._fields, ours, expected, strict=True):
        assert a.dtype == b.dtype, name
        assert torch.equal(a, b), (name, (a != b).sum())
    assert expected.dense.any()
    exact = doubled(scan)
    same = torch.equal(reference.forward(exact, False, False).dense.to(ours.dense.dtype), ours.dense)
    exact = exact if same else scan  # among many neurons, one is within rounding of its threshold
    channels = scan.y.shape[-1]
    gradients = SpikeGradients(
        random(*scan.out_shape, seed=3).to(scan.y.dtype),
        random(scan.y.shape[1], *scan.windows, seed=4),
        random(*scan.out_shape[1:4], seed=5) if scan.pool else None,
    )
    center, coefficients = random(channels, seed=6), random(3, channels, seed=7)
    ours = kernels.backward(scan, gradients, wanted, center, coefficients)
    given = (doubled(each) for each in (gradients, wanted, center, coefficients)) if same else None
    expected = reference.backward(exact, *(given or (gradients, wanted, center, coefficients)))
    for name, a, b in zip(ours._fields, ours, expected, strict=True):
        assert (a is None) == (b is None), name
        if a is not None:
            rtol = 2 * torch.finfo(scan.y.dtype).eps if name == "y" and scan.y.dtype != torch.float32 else 2e-5
            torch.testing.assert_close(a.double(), b.double(), rtol=rtol, atol=rtol * b.double().abs().max().item())


@pytest.mark.parametrize("pool", [False, True], ids=["", "pool"])
@pytest.mark.parametrize("detach", [True, False], ids=["detached", "through_reset"])
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
@pytest.mark.parametrize("name", SURROGATES)
def test_every_surrogate_and_reset(kernels, name, soft, detach, pool):
    for constant, dtype in ((False, torch.float32), (True, torch.bfloat16)):
        spec = NeuronSpec(surrogate(name), soft, detach)
        check(kernels, scan_of(4, (3, 9, 7, 37), pool, spec, dtype, constant))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("pool", [False, True], ids=["", "pool"])
@pytest.mark.parametrize("timesteps", [1, 2, 3, 8, 16, 17, 33, 100])
def test_any_number_of_steps(kernels, timesteps, pool, dtype):
    check(kernels, scan_of(timesteps, (2, 9, 7, 64), pool, NeuronSpec(surrogate("atan"), pool, False), dtype))


@pytest.mark.parametrize("timesteps", [9, 18, 34])
def test_lee_and_constant_current_in_chunks(kernels, timesteps):
    for constant, pool in product([False, True], repeat=2):
        check(kernels, scan_of(timesteps, (3, 9, 7, 37), pool, NeuronSpec(surrogate("lee2020")), constant=constant))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("pool", [False, True], ids=["", "pool"])
def test_shapes(kernels, shape, pool):
    if pool and shape[1] == 1:
        pytest.skip("no window is whole")
    check(kernels, scan_of(4, shape, pool, NeuronSpec(surrogate("atan")), torch.bfloat16))
    check(kernels, scan_of(4, shape, pool, NeuronSpec(surrogate("atan")), scaled=False))


def test_more_tiles_than_programs(kernels):
    for timesteps, pool in product((4, 20), (False, True)):
        check(kernels, scan_of(timesteps, (64, 32, 32, 64), pool, NeuronSpec(surrogate("atan")), torch.bfloat16))


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("soft", [False, True])
def test_ties_at_the_threshold(kernels, soft, strict):
    y = torch.randint(0, 13, (8, 4, 16, 16, 64), device="cuda") / 8
    one = torch.tensor(1.0, device="cuda")
    for name in ("atan", "rectangle"):
        check(kernels, Scan(y, None, None, one / 2, one, NeuronSpec(surrogate(name), soft, False, strict), 8, True))


def test_contraction_would_show(kernels):
    """Neurons whose membrane, with a fused multiply and add, would end on the other side of the threshold."""
    y = random(8, 1, 1, 1, 1 << 20)
    decay = torch.tensor(0.9, device="cuda")
    fused = (y[0].double() * decay.double() + y[1].double()).float()  # what a fused operation rounds to
    separate = y[0] * decay + y[1]
    differ = (fused != separate).flatten().nonzero().flatten()[:64]
    assert len(differ) == 64
    for i in differ.tolist():
        threshold = torch.maximum(fused[..., i], separate[..., i]).reshape(())
        spec = NeuronSpec(surrogate("atan"))
        scan = Scan(y[:2, ..., i : i + 1].contiguous(), None, None, decay, threshold, spec, 2)
        ours, expected = (each.forward(scan, False, False).dense for each in (kernels, reference))
        assert torch.equal(ours, expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_moments(kernels, dtype):
    for shape in ((8, 16, 32, 32, 64), (3, 5, 7, 5, 37), (4, 64, 1, 1, 1000), (1, 1, 1, 1, 3)):
        y = random(*shape)
        if dtype == torch.float32 and y.numel() > 1000:
            y[..., 1] += 1000
            y[..., 2] = 3 + 1e-4 * y[..., 2]
            y[..., 3], y[0, 0, 0, 0, 3] = 1, 1e6
            y[..., 4], y[-1, -1, -1, -1, 4] = 1000, 1001
            y[..., 5] = 7
        y = y.to(dtype)
        (mean, var), (exact_mean, exact_var) = kernels.moments(y), reference.moments(y)
        assert ((mean - exact_mean).abs() <= 1e-6 * exact_var.sqrt()).all()
        assert ((var - exact_var).abs() <= 1e-6 * exact_var).all()


def test_bits(kernels):
    for shape in ((7, 13), (1000, 64), (33, 1000)):
        x = (random(*shape) < 0).to(torch.bfloat16)
        bits = kernels.pack_bits(x)
        assert torch.equal(bits, reference.pack_bits(x))
        assert torch.equal(kernels.unpack_bits(bits, shape[1], torch.bfloat16), x)


def training_step(y, weight, bias, grad):
    spec = NeuronSpec(surrogate("atan"))
    out = fire(y, 0.9, 0.8, spec, len(y), Normalization(weight, bias, True, 1e-5), pool=True, pack=True, count=True)
    loss = (out.spikes * grad).sum() + 1e-3 * out.fired.sum() + 1e-3 * out.events.square().sum()
    return (*out, *torch.autograd.grad(loss, [y, weight, bias]))


def step_inputs(dtype):
    y = random(8, 16, 17, 16, 64).to(dtype).requires_grad_()
    weight, bias = (random(64, seed=i).abs().requires_grad_() for i in (1, 2))
    return y, weight, bias, random(8, 16, 8, 8, 64, seed=3).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_two_runs_are_equal(dtype):
    first, second = (training_step(*step_inputs(dtype)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("dtype", DTYPES)
def test_public_function_equals_the_reference(dtype, monkeypatch):
    """Given the statistics of each, one rounding apart: all but a few spikes, and what hangs on them."""
    ours = training_step(*step_inputs(dtype))
    monkeypatch.setenv("SPIKESPARSE_BACKEND", "reference")
    expected = training_step(*step_inputs(dtype))
    assert (ours[0] != expected[0]).double().mean() < 1e-5
    torch.testing.assert_close(ours[4], expected[4], rtol=1e-6, atol=1e-6)
    for a, b in zip(ours[5:], expected[5:], strict=True):
        assert (a - b).double().norm() < 0.01 * b.double().norm()


@pytest.mark.parametrize("dtype", DTYPES)
def test_cuda_graph(dtype):
    """Forward and backward are captured, so nothing waits for the device; and replayed on other numbers."""
    inputs = step_inputs(dtype)
    # Detached: a graph that lives on has the inputs' gradients wait for the stream that it was made on.
    expected = [each.detach().clone() for each in training_step(*inputs)]
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        training_step(*inputs)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = training_step(*inputs)
    kept = inputs[0].detach().clone()
    with torch.no_grad():
        inputs[0].neg_()
    graph.replay()
    assert not torch.equal(captured[0], expected[0])
    with torch.no_grad():
        inputs[0].copy_(kept)
    graph.replay()
    assert all(torch.equal(a, b) for a, b in zip(captured, expected, strict=True))


def test_more_elements_than_int32_holds(kernels):
    """The last channels of a current of 2**31 values and more; bfloat16: 4 GiB and as much again."""
    if torch.cuda.mem_get_info()[0] < 20 * 2**30:
        pytest.skip("needs 20 GiB")
    y = torch.zeros(2, 1, 1, 1 << 14, 1 << 16, dtype=torch.bfloat16, device="cuda")
    y = torch.cat([y, y[:1]])
    y[-1, ..., -1, -3:] = 2
    one = torch.tensor(1.0, device="cuda")
    scan = Scan(y, None, None, one, one, NeuronSpec(surrogate("atan")), 3)
    found = kernels.forward(scan, False, True)
    assert found.fired.sum() == found.fired[0, 0, -1] == 3
    assert found.dense[-1, ..., -1, -3:].all()


@pytest.mark.filterwarnings("ignore")  # Lightning's own
def test_early_exits_are_found_where_the_trainer_took_the_module_off_the_device():
    from pytorch_lightning import Trainer

    from spikesparse import CIFAR10DataModule, SpikingVGG
    from spikesparse.commands.exits.curve import ExitCurve
    from spikesparse.metrics import EnergyConstants
    from spikesparse.nn.early_exit import EarlyExit

    data = CIFAR10DataModule(source="digits", timesteps=2)
    net = SpikingVGG("8-P", input_shape=data.input_shape, timesteps=2)
    curve = ExitCurve(net, 2, EnergyConstants())
    trainer = Trainer(accelerator="gpu", devices=1, logger=False, enable_checkpointing=False, enable_progress_bar=False)
    trainer.validate(curve, data, verbose=False)
    one, both = curve.row(EarlyExit(0.01)), curve.row(EarlyExit())
    assert (one.timesteps, both.timesteps) == (1, 2)
    assert one.spikes < both.spikes
