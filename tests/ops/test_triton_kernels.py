"""What the Triton kernels compute, without a GPU: in Triton's interpreter, against the definition."""

import sys
from importlib import import_module

import pytest
import torch

from spikesparse.files.paths import PACKAGE
from spikesparse.ops import backends, reference
from spikesparse.ops.fire import Normalization, fire
from spikesparse.ops.problem import Scan, SpikeGradients, Wanted
from spikesparse.ops.spec import NeuronSpec
from spikesparse.ops.surrogate import SURROGATES, surrogate

triton = pytest.importorskip("triton")

MODULES = [f"spikesparse.ops.{path.stem}" for path in sorted((PACKAGE / "ops").glob("triton_*.py"))]


def keep_language(patch):
    """Have Triton's language put back as it is: its interpreter replaces parts of it, and leaves some replaced."""
    language = import_module("triton.language")
    for place in (language, language.core, language.math, language.tensor, language.dtype):
        for name, value in list(vars(place).items()):
            if callable(value) or isinstance(value, (staticmethod, property)):
                patch.setattr(place, name, value)


@pytest.fixture(scope="module")
def interpreted():
    """The backend as Triton's interpreter runs it: a copy of its modules, made while the interpreter is asked for."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        for name in MODULES:
            patch.delitem(sys.modules, name, raising=False)
        keep_language(patch)
        # Triton's own functions that are kernels themselves were made when Triton was imported, maybe without it.
        patch.setattr(triton.language, "sum", triton.jit(getattr(triton.language.sum, "fn", triton.language.sum)))
        yield import_module("spikesparse.ops.triton_kernels")
        for name in MODULES:
            sys.modules.pop(name, None)


@pytest.fixture
def kernels(interpreted, monkeypatch):
    """The same with small tiles, so that a few neurons fill several."""
    monkeypatch.setattr(interpreted, "THREADS", 32)
    return interpreted


def random_scan(
    timesteps, shape=(1, 3, 3, 11), pool=False, constant=False, scaled=True, dtype=torch.float32, **settings
):
    """A layer whose neurons fire now and then."""
    generator = torch.Generator().manual_seed(timesteps + 7 * pool)
    y = 2 * torch.randn(1 if constant else timesteps, *shape, generator=generator)
    scale, shift = 0.5 + torch.rand(shape[-1], generator=generator), 0.3 * torch.randn(shape[-1], generator=generator)
    settings = {"surrogate": surrogate("atan"), **settings}
    return Scan(
        y.to(dtype),
        *((scale, shift) if scaled else (None, None)),
        torch.tensor(0.9),
        torch.tensor(0.8),
        NeuronSpec(**settings),
        timesteps,
        pool,
        torch.tensor(0.3) if timesteps != 2 else None,
    )


def random_gradients(scan, counts=True):
    generator = torch.Generator().manual_seed(1)
    dense = torch.randn(scan.out_shape, generator=generator).to(scan.y.dtype)
    fired = torch.randn(scan.y.shape[1], *scan.windows, generator=generator) if counts else None
    events = torch.randn(scan.out_shape[1:4], generator=generator) if counts and scan.pool else None
    return SpikeGradients(dense, fired, events)


def doubled(value):
    """The same numbers in float64, of a tensor, a named tuple or a scan."""
    if isinstance(value, torch.Tensor):
        return value.double()
    if isinstance(value, tuple):
        return type(value)(*(doubled(each) for each in value))
    if isinstance(value, Scan):
        return Scan(*(doubled(value.__dict__[name]) for name in Scan.__dataclass_fields__))
    return value


def check_forward(kernels, scan):
    ours, expected = kernels.forward(scan, True, True), reference.forward(scan, True, True)
    for name, a, b in zip(ours._fields, ours, expected, strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype), name
        assert torch.equal(a, b), name
    return expected


def check_backward(kernels, scan, wanted=Wanted(True, True, True), full=True, rtol=1e-5):  # noqa: B008 a named tuple
    """Against the definition in float64, where that fires the same spikes."""
    assert torch.equal(
        reference.forward(scan, False, False).dense, reference.forward(doubled(scan), False, False).dense
    )
    gradients, center, coefficients = random_gradients(scan, full), None, None
    if full:
        generator, channels = torch.Generator().manual_seed(2), scan.y.shape[-1]
        center, coefficients = (torch.randn(*shape, channels, generator=generator) for shape in ((), (3,)))
    ours = kernels.backward(scan, gradients, wanted, center, coefficients)
    given = (doubled(each) for each in (scan, gradients, wanted, center, coefficients))
    expected = reference.backward(*given)
    for name, a, b, asked in zip(ours._fields, ours, expected, wanted, strict=True):
        assert (a is not None) == asked == (b is not None), name
        if asked:
            assert a.dtype == (scan.y.dtype if name == "y" else torch.float64)
            used = rtol if name == "y" else 1e-5
            torch.testing.assert_close(a.double(), b, rtol=used, atol=used * b.abs().max().item())
            assert b.any() or name == "learned"


@pytest.mark.parametrize("detach", [True, False], ids=["detached", "through_reset"])
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
@pytest.mark.parametrize("name", SURROGATES)
def test_every_surrogate_and_reset(kernels, name, soft, detach):
    for pool, constant in ((True, soft == detach), (False, soft != detach)):
        settings = {"surrogate": surrogate(name), "soft_reset": soft, "detach_reset": detach}
        scan = random_scan(3, pool=pool, constant=constant, **settings)
        assert 0 < check_forward(kernels, scan).dense.mean() < 1
        check_backward(kernels, scan)


@pytest.mark.parametrize("pool", [False, True], ids=["", "pool"])
@pytest.mark.parametrize("timesteps", [1, 2, 8, 17, 33, pytest.param(100, marks=pytest.mark.slow)])
def test_any_number_of_steps(kernels, timesteps, pool):
    settings = {"soft_reset": pool, "detach_reset": False}
    if timesteps in (17, 100):
        settings |= {"surrogate": surrogate("lee2020"), "soft_reset": not pool}
    scan = random_scan(timesteps, (1, 3, 3, 2) if timesteps < 33 else (1, 2, 3, 2), pool, **settings)
    check_forward(kernels, scan)
    check_backward(kernels, scan)


@pytest.mark.parametrize("timesteps", [9, 18])
def test_constant_current_in_chunks(kernels, timesteps):
    scan = random_scan(timesteps, (1, 2, 2, 3), True, constant=True, surrogate=surrogate("lee2020"))
    check_forward(kernels, scan)
    check_backward(kernels, scan)


@pytest.mark.parametrize("shape", [(1, 1, 1, 300), (5, 1, 1, 67), (2, 3, 5, 96), (2, 4, 3, 8), (3, 2, 2, 1)])
@pytest.mark.parametrize("pool", [False, True], ids=["", "pool"])
def test_shapes(kernels, shape, pool):
    """Channels that fill no byte or several tiles; borders that cut windows; fewer programs than tiles."""
    if pool and shape[1] == 1:
        pytest.skip("no window is whole")
    scan = random_scan(2, shape, pool)
    check_forward(kernels, scan)
    check_backward(kernels, scan)


def test_no_neurons(kernels):
    scan = random_scan(2, (0, 2, 2, 3))
    check_forward(kernels, scan)
    for found in kernels.backward(scan, random_gradients(scan), Wanted(True, True, True), None, None):
        assert not found.any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(kernels, dtype):
    for timesteps, pool, constant in ((3, True, False), (9, True, False), (3, False, True)):
        scan = random_scan(timesteps, pool=pool, constant=constant, dtype=dtype)
        check_forward(kernels, scan)
        check_backward(kernels, scan, rtol=2 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("soft", [False, True])
def test_ties_at_the_threshold(kernels, soft, strict):
    """Eighths, a decay of 1/2 and a threshold of 1: every sum is exact, and many are equal to the threshold."""
    y = torch.randint(0, 13, (5, 1, 4, 4, 9), generator=torch.Generator().manual_seed(0)) / 8
    for name, detach in (("atan", False), ("rectangle", True)):
        spec = NeuronSpec(surrogate(name), soft, detach, strict)
        scan = Scan(y, None, None, torch.tensor(0.5), torch.tensor(1.0), spec, 5, True)
        assert (reference._steps(scan)[1][0] == 1).any()
        check_forward(kernels, scan)
        check_backward(kernels, scan)


def test_only_what_is_asked_for(kernels):
    scan = random_scan(2, scaled=False)
    assert [len(each) for each in kernels.forward(scan, False, False)] == [2, 0, 0, 0]
    for wanted in (Wanted(True, False, False), Wanted(False, True, False), Wanted(False, False, True)):
        check_backward(kernels, scan, wanted, full=False)


def test_no_contraction_in_the_current(kernels):
    """1/3 and 3 in float32: the rounded product is 1 and the exact one just above."""
    y, scale = torch.full((1, 1, 1, 1, 8), 3.0), torch.full((8,), 1 / 3)
    scan = Scan(y, scale, -torch.ones(8), torch.tensor(1.0), torch.tensor(2.0**-30), NeuronSpec(surrogate("atan")), 1)
    assert scale[0].double() * 3 - 1 > scan.threshold
    assert not check_forward(kernels, scan).dense.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_moments(kernels, dtype):
    generator = torch.Generator().manual_seed(0)
    y = torch.randn(3, 5, 7, 5, 11, generator=generator)
    if dtype == torch.float32:
        y[..., 1] += 1000
        y[..., 2] = 3 + 1e-4 * y[..., 2]
        y[..., 3], y[2, 1, 3, 4, 3] = 1, 1e6  # constant but for one outlier
        y[..., 4], y[2, 4, 6, 4, 4] = 1000, 1001
        y[..., 5] = 7
    y = y.to(dtype)
    check_moments(kernels.moments(y), reference.moments(y))


def check_moments(found, expected):
    (mean, var), (exact_mean, exact_var) = found, expected
    assert found.dtype == torch.float64
    assert ((mean - exact_mean).abs() <= 1e-6 * exact_var.sqrt()).all()
    assert ((var - exact_var).abs() <= 1e-6 * exact_var).all()


@pytest.mark.parametrize("shape", [(7, 13), (3, 8), (1, 300), (40, 1)])
def test_bits(kernels, shape):
    x = (torch.rand(shape, generator=torch.Generator().manual_seed(0)) < 0.5).to(torch.bfloat16)
    bits = kernels.pack_bits(x)
    assert torch.equal(bits, reference.pack_bits(x))
    for dtype in (torch.float32, torch.bfloat16):
        assert torch.equal(kernels.unpack_bits(bits, shape[1], dtype), x.to(dtype))


@pytest.fixture
def dispatched(kernels, monkeypatch):
    """``backends`` as it is when asked for Triton; what it has looked up before is forgotten, before and after."""
    forget = [backends._load.cache_clear, backends._unavailable.cache_clear]
    monkeypatch.setenv("SPIKESPARSE_BACKEND", "triton")
    for each in forget:
        each()
    yield
    for each in forget:
        each()


def test_through_the_public_function(dispatched, monkeypatch):
    spec, results = NeuronSpec(surrogate("atan"), detach_reset=False), []
    for name in ("triton", "reference"):
        monkeypatch.setenv("SPIKESPARSE_BACKEND", name)
        generator = torch.Generator().manual_seed(0)
        y = torch.randn(3, 2, 5, 4, 11, generator=generator).requires_grad_()
        weight, bias = (torch.rand(11, generator=generator).requires_grad_() for _ in range(2))
        decay, threshold = (torch.tensor(value, requires_grad=True) for value in (0.9, 0.8))
        out = fire(y, decay, threshold, spec, 3, Normalization(weight, bias, True, 1e-5), True, True, True)
        loss = (out.spikes * torch.randn(out.spikes.shape, generator=generator)).sum()
        loss = loss + 0.3 * out.fired.square().sum() + 0.2 * out.events.square().sum()
        results.append((out, torch.autograd.grad(loss, [y, weight, bias, decay, threshold])))
    assert backends.backend_for(torch.device("cpu"), torch.float32).__name__ == "spikesparse.ops.reference"
    for ours, expected in zip(results[0][0], results[1][0], strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(results[0][1], results[1][1], rtol=1e-4, atol=1e-4)
