"""The fused operator on every backend: the same spikes to the bit, gradients against a float64 formula."""

import copy
import logging
import pickle
import re
from itertools import product

import pytest
import torch

import formula
from refusals import refused_with
from spikesparse.commands.main import main
from spikesparse.ops import NeuronSpec, backends, cpu, neuron_scan, reference
from spikesparse.ops.batch_norm import fold
from spikesparse.ops.bits import pack_bits, unpack_bits
from spikesparse.ops.fire import Normalization, fire
from spikesparse.ops.problem import Scan, SpikeGradients, Wanted
from spikesparse.ops.surrogate import SURROGATES, Atan, Surrogate, Triangle, surrogate

needs_compiler = pytest.mark.skipif(
    backends._unavailable("cpu") is not None, reason=f"no C++ kernels: {backends._unavailable('cpu')}"
)
BACKENDS = ["reference", pytest.param("cpu", marks=needs_compiler)]
SHAPES = {  # T, B, H, W, C
    "one step": (1, 2, 4, 4, 16),
    "odd": (3, 2, 5, 7, 19),
    "wide": (4, 1, 2, 2, 300),
    "no space": (5, 6, 1, 1, 33),
    "long": (100, 1, 3, 2, 5),
    "one position": (2, 1, 1, 1, 1000),  # one image: a window in all, which threads share
    "last pool": (2, 1, 2, 2, 512),
}


def numbers(shape, seed=0, ties=False):
    """Currents around the threshold; with ties, all are multiples of 1 / 16, so that many membranes reach 1 exactly."""
    generator = torch.Generator().manual_seed(seed)
    if ties:
        return torch.randint(-8, 20, shape, generator=generator) / 16
    return 0.4 + torch.randn(shape, generator=generator)


def spec_of(name="atan", soft=False, detach=True, strict=False):
    return NeuronSpec(surrogate(name), soft, detach, strict)


def scan_of(shape, constant=False, pool=False, spec=None, ties=False, dtype=torch.float32, scaled=True):
    steps, *rest = shape
    y = numbers((1 if constant else steps, *rest), ties=ties).to(dtype)
    scale, shift = (numbers((rest[-1],), seed, ties) for seed in (1, 2))
    numbers_of_channels = (scale.abs() + 0.5, shift / 4) if scaled else (None, None)
    initial = torch.tensor(0.25) if pool != constant else None
    return Scan(y, *numbers_of_channels, torch.tensor(0.5), torch.tensor(1.0), spec or spec_of(), steps, pool, initial)


# ---- spikes ---------------------------------------------------------------------------------------------------------


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_spikes_bits_and_counts_are_those_of_the_reference(shape, dtype, threads):
    for soft, strict, constant, pool, ties in product((False, True), repeat=5):
        if pool and min(shape[2:4]) < 2:
            continue
        scan = scan_of(shape, constant, pool, spec_of("atan", soft, strict=strict), ties, dtype, scaled=not strict)
        expected, found = (backend.forward(scan, pack=True, count=True) for backend in (reference, cpu))
        assert expected.dense.any()
        assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True)), (soft, strict, constant, pool)


@needs_compiler
def test_ties_are_there_and_both_backends_see_them():
    scan = scan_of(SHAPES["odd"], ties=True, scaled=False)
    loose, strict = (
        backend.forward(Scan(scan.y, None, None, *(scan.decay, scan.threshold, spec_of(strict=s)), 3), False, True)
        for backend, s in ((reference, False), (cpu, True))
    )
    assert loose.fired.sum() > strict.fired.sum() > 0


@needs_compiler
@pytest.mark.parametrize("factor", [1.1, 0.3])
def test_a_product_and_a_sum_are_two_roundings(factor):
    """Where one rounding would give another spike: y * scale + shift, searched to be within an ulp of the threshold."""
    y = torch.rand(1, 1, 1, 1, 200_000, generator=torch.Generator().manual_seed(0)) + 0.5
    scale = torch.full((200_000,), factor)
    shift = 1 - (y.double() * scale.double()).float().flatten()
    exact = (y.double() * scale.double() + shift.double()).flatten() >= 1  # what a fused multiply-add would compare
    rounded = (y * scale + shift).flatten() >= 1
    assert (exact != rounded).any()
    scan = Scan(y, scale, shift, torch.tensor(0.5), torch.tensor(1.0), spec_of(), 1)
    assert torch.equal(cpu.forward(scan, False, False).dense.flatten() > 0, rounded)


@needs_compiler
@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan])
def test_infinite_currents_do_to_both_backends_the_same(value):
    scan = scan_of(SHAPES["odd"])
    scan.y[0, 0, 0, 0, :5] = value
    expected, found = (backend.forward(scan, False, False).dense for backend in (reference, cpu))
    assert torch.equal(expected, found)


@pytest.mark.parametrize("backend", BACKENDS)
def test_bits_are_what_they_say(backend, monkeypatch, threads):
    monkeypatch.setenv("SPIKESPARSE_BACKEND", backend)
    for channels in (1, 7, 8, 64, 131):
        x = (numbers((5, channels)) > 0.4).float()
        bits = pack_bits(x)
        assert bits.tolist() == [
            [sum(int(v) << k for k, v in enumerate(row[j : j + 8])) for j in range(0, channels, 8)]
            for row in x.tolist()
        ]
        for dtype in (torch.float32, torch.bfloat16):
            assert torch.equal(unpack_bits(bits, channels, dtype), x.to(dtype))


@needs_compiler
@pytest.mark.parametrize("pool", [False, True], ids=["no pool", "pool"])
@pytest.mark.parametrize("shape", [(4, 3, 6, 6, 40), (4, 1, 2, 2, 2048)], ids=["batch", "one image"])
def test_gradients_and_moments_do_not_hang_on_the_number_of_threads(shape, pool, threads):
    scan = scan_of(shape, pool=pool)
    counts = (numbers((shape[1], *scan.windows), 4), numbers(scan.out_shape[1:4], 5) if pool else None)
    gradients = SpikeGradients(numbers(scan.out_shape, 3), *counts)
    found = []
    for n in (1, *[threads] * 10):
        torch.set_num_threads(n)  # the guard of every test puts it back
        gradient = cpu.backward(scan, gradients, Wanted(y=True, channels=True, learned=True), None, None)
        found.append((*gradient, cpu.moments(scan.y)))
    assert all(torch.equal(a, b) for each in found for a, b in zip(each, found[0], strict=True))


# ---- moments --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_moments_of_hard_channels(backend, dtype):
    """Means of a thousand deviations, and one value far out in an otherwise constant channel."""
    y = torch.randn(3, 4, 9, 9, 37, generator=torch.Generator().manual_seed(0)) * torch.logspace(-3, 3, 37)
    y = (y + 1e3 * y.std() * torch.arange(37)).to(dtype)
    y[..., 5] = 1.0
    y[0, 0, 0, 0, 5] = 1e4
    found = (cpu if backend == "cpu" else reference).moments(y)
    values = y.double().reshape(-1, 37)
    mean = values.sum(0) / len(values)
    var = (values - mean).square().sum(0) / len(values)
    assert ((found[0] - mean).abs() <= 1e-6 * var.sqrt()).all()
    assert ((found[1] - var).abs() <= 1e-6 * var).all()


# ---- gradients ------------------------------------------------------------------------------------------------------


def both_gradients(shape, name, soft, detach, constant, pool, norm, dtype=torch.float32):
    """Gradients of random weights on all that :func:`fire` returns: its own, and those of the formula."""
    steps, *rest = shape
    y = numbers((1 if constant else steps, *rest)).to(dtype)
    weight, bias = numbers((rest[-1],), 1).abs() + 0.5, numbers((rest[-1],), 2) / 4
    inputs = [y, weight, bias, torch.tensor(0.6), torch.tensor(0.9), torch.tensor(0.4)]
    used = [p for p in inputs if norm != "none" or p.shape != weight.shape]
    results = []
    given = None
    for ours in (True, False):
        leaves = [p.clone().to(p.dtype if ours else torch.float64).requires_grad_() for p in used]
        (x, *channels), (decay, threshold, initial) = leaves[:-3], leaves[-3:]
        spec = spec_of(name, soft, detach)
        if ours:
            normalization = Normalization(*channels, batch=norm == "batch", eps=1e-3) if channels else None
            numbers_of = (decay, threshold, spec, steps, normalization)
            fired = fire(x, *numbers_of, pool, pack=True, count=True, initial=initial)
            outputs = (fired.spikes, fired.fired, fired.events)
            # The spikes before the pool, which the formula shall make: those of the same current without it.
            given = fire(x, *numbers_of, initial=initial).spikes.detach().double()
        else:
            outputs = formula.layer(
                x,
                *(channels or (None, None)),
                decay,
                threshold,
                initial,
                name,
                soft,
                detach,
                steps,
                pool,
                norm == "batch",
                1e-3,
                given,
            )
        cost = sum(
            (out * numbers(out.shape, 5 + k).to(out.dtype)).sum()
            for k, out in enumerate(outputs)
            if out is not None and out.numel()
        )
        found = torch.autograd.grad(cost, leaves, allow_unused=True, materialize_grads=True)
        results.append((outputs, found))
    (ours, our_gradients), (theirs, their_gradients) = results
    for a, b in zip(ours, theirs, strict=True):
        assert b is None or torch.equal(a.double(), b)
    assert 0.02 < given.mean() < 0.98
    return our_gradients, their_gradients


def assert_close(found, expected, tolerance):
    """Within a share of the largest gradient: sums over a channel cancel."""
    for a, b in zip(found, expected, strict=True):
        assert (a.double() - b).abs().max() <= tolerance * b.abs().max().clamp(min=1e-3), (a, b)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("detach", [True, False], ids=["detached", "through_reset"])
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
@pytest.mark.parametrize("name", SURROGATES)
def test_gradients_equal_the_float64_formula_on_the_same_spikes(name, soft, detach, backend, monkeypatch):
    monkeypatch.setenv("SPIKESPARSE_BACKEND", backend)
    for constant, pool, norm in product((False, True), (False, True), ("none", "affine", "batch")):
        shape = (4, 2, 5, 4, 11)
        found, expected = both_gradients(shape, name, soft, detach, constant, pool, norm)
        assert_close(found, expected, 2e-5)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_gradients_of_every_shape(shape, backend, monkeypatch, threads):
    monkeypatch.setenv("SPIKESPARSE_BACKEND", backend)
    for pool in (False, True) if min(shape[2:4]) > 1 else (False,):
        found, expected = both_gradients(shape, "atan", False, True, False, pool, "batch")
        assert_close(found, expected, 5e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradients_of_a_bfloat16_current(backend, monkeypatch):
    """Membrane and arithmetic are float32; only what is written is rounded."""
    monkeypatch.setenv("SPIKESPARSE_BACKEND", backend)
    found, expected = both_gradients((4, 2, 5, 4, 11), "atan", False, True, False, True, "batch", torch.bfloat16)
    assert found[0].dtype == torch.bfloat16
    assert_close(found, expected, 1e-2)
    assert_close(found[1:], expected[1:], 2e-2)


def test_float64_is_exact():
    found, expected = both_gradients((4, 2, 5, 4, 11), "atan", False, True, False, True, "batch", torch.float64)
    assert_close(found, expected, 1e-6)  # weight and bias are float32 numbers


# ---- what is kept, layouts, and who runs it -------------------------------------------------------------------------


def test_only_the_weights_output_is_kept():
    y = numbers((4, 2, 6, 6, 16)).requires_grad_()
    kept = []
    channels = [torch.ones(16, requires_grad=True), torch.zeros(16, requires_grad=True)]
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor), lambda _: None):
        fire(y, 0.5, 1.0, spec_of(), 4, Normalization(*channels, batch=True), pool=True, pack=True, count=True)
    assert [t.data_ptr() for t in kept if t.numel() > 3 * 16] == [y.data_ptr()]


@pytest.mark.parametrize("backend", BACKENDS)
def test_any_memory_layout_gives_the_same(backend, monkeypatch):
    monkeypatch.setenv("SPIKESPARSE_BACKEND", backend)
    current = numbers((3, 2, 8, 5, 6))
    weight = numbers(current.shape, 7)
    expected = None
    layouts = [
        current,
        current.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3),
        current.permute(4, 3, 2, 1, 0).contiguous().permute(4, 3, 2, 1, 0),
        torch.cat([current, current], -1)[..., :6],
        torch.stack([current, current], -1)[..., 0],
    ]
    for x in layouts:
        x = x.detach().requires_grad_()
        spikes = neuron_scan(x, 0.5, 1.0, spec_of())
        (gradient,) = torch.autograd.grad((spikes * weight).sum(), x)
        expected = expected or (spikes, gradient)
        assert all(torch.equal(a, b) for a, b in zip((spikes, gradient), expected, strict=True))


@pytest.fixture
def said(monkeypatch, caplog):
    """What is said once, from a clean slate."""
    for cached in (backends.say_once, backends._unavailable, backends._load, cpu._library):
        cached.cache_clear()
    caplog.set_level(logging.WARNING, "spikesparse")
    yield lambda: [record.getMessage() for record in caplog.records if record.name == "spikesparse"]
    for cached in (backends.say_once, backends._unavailable, backends._load, cpu._library):
        cached.cache_clear()


def test_without_a_compiler_it_runs_in_pytorch_and_says_so_once(said, monkeypatch, tmp_path):
    monkeypatch.setenv("CXX", str(tmp_path / "no-such-compiler"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    x = numbers((3, 4))
    spikes = [neuron_scan(x, 0.5, 1.0, spec_of()) for _ in range(3)]
    assert torch.equal(spikes[0], spikes[2])
    (message,) = said()
    assert "no-such-compiler failed" in message
    assert "plain PyTorch" in message
    assert not list(tmp_path.rglob("*.so"))


def test_a_compiler_that_fails_leaves_nothing_behind(said, monkeypatch, tmp_path):
    monkeypatch.setenv("CXX", "false")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    neuron_scan(numbers((3, 4)), 0.5, 1.0, spec_of())
    assert "false failed" in said()[0]
    assert not list((tmp_path / "spikesparse").iterdir())


class Unknown(Atan):
    name = "unknown"


class Wide(Surrogate):
    """The same for any distance: what ``repr`` does not show. Without a name."""

    def __init__(self, width):
        super().__init__()
        object.__setattr__(self, "width", width)

    def derivative(self, distance, threshold, spikes):
        return torch.full_like(distance, self.width)


def two_classes_of_one_name():
    def made(width):
        class Wide(Surrogate):
            def derivative(self, distance, threshold, spikes):
                return torch.full_like(distance, width)

        return Wide()

    return [made(width) for width in (1.0, 7.0)]


def changed_copy():
    first = NeuronSpec(Wide(1.0))
    second = copy.deepcopy(first)
    object.__setattr__(second.surrogate, "width", 7.0)
    return [first, second]


def slope_of(spec):
    """The derivative at 0.5 below the threshold, as its neurons' gradient has it."""
    x = torch.full((1, 1), 0.5, requires_grad=True)
    neuron_scan(x, 0.5, 1.0, spec).sum().backward()
    return x.grad.item()


@pytest.mark.parametrize(
    ("made", "slopes"),
    [
        (lambda: [Wide(1.0), Wide(7.0)], [1, 7]),
        (two_classes_of_one_name, [1, 7]),
        (changed_copy, [1, 7]),
        (lambda: [pickle.loads(pickle.dumps(NeuronSpec(Wide(7.0)))), Wide(1.0)], [7, 1]),
        # 1 - slope / 2, of slopes that print alike
        (lambda: [Triangle(torch.tensor(1 + k / 2**20, dtype=torch.float64)) for k in (0, 1)], [0.5, 0.5 - 2**-21]),
        (lambda: [Triangle(1.0), Triangle(0.5)], [0.5, 0.75]),
    ],
    ids=["attribute", "class", "copy", "pickle", "tensor", "built-in"],
)
def test_surrogates_that_print_alike_are_two(made, slopes):
    specs = [each if isinstance(each, NeuronSpec) else NeuronSpec(each) for each in made()]
    assert [slope_of(spec) for spec in specs] == slopes


def test_a_spec_is_known_in_the_process_that_unpickles_it(monkeypatch):
    """Also one that was pickled by name and value, as it was before."""
    written = [pickle.dumps(NeuronSpec(Wide(7.0)))]
    with monkeypatch.context() as patch:
        patch.delattr(NeuronSpec, "__reduce__")
        written.append(pickle.dumps(NeuronSpec(Wide(7.0))))
    monkeypatch.setattr("spikesparse.ops.spec._BY_KEY", {})
    assert [slope_of(pickle.loads(each)) for each in written] == [7, 7]


def test_built_in_surrogates_are_called_the_same_in_every_process():
    """torch.compile keeps what it compiled by what stands in the graph."""
    key = "NeuronSpec(surrogate=Atan(slope=2.0), soft_reset=False, detach_reset=True, strict=False)"
    assert NeuronSpec(Atan()).key == copy.deepcopy(NeuronSpec(Atan())).key == key


@needs_compiler
def test_a_surrogate_of_one_s_own_runs_and_says_that_it_is_slow(said):
    x = numbers((3, 4)).requires_grad_()
    neuron_scan(x, 0.5, 1.0, NeuronSpec(Unknown())).sum().backward()
    (message,) = said()
    assert "surrogate Unknown" in message
    expected = numbers((3, 4)).requires_grad_()
    neuron_scan(expected, 0.5, 1.0, spec_of()).sum().backward()
    torch.testing.assert_close(x.grad, expected.grad)


@needs_compiler
def test_a_dtype_without_kernels_says_so(said):
    neuron_scan(numbers((3, 4)).half(), 0.5, 1.0, spec_of())
    assert "float16" in said()[0]


def test_float64_is_for_checking_and_says_nothing(said):
    neuron_scan(numbers((3, 4)).double(), 0.5, 1.0, spec_of())
    assert said() == []


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("cuda", "='cuda': there is no backend of that name. There are: reference, cpu, triton; or unset it"),
        pytest.param(
            "triton",
            "=triton: the triton kernels are not to be had",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="they are to be had here"),
        ),
        ("cpu", "=cpu: the cpu kernels are not to be had (no-such-compiler failed"),
    ],
)
def test_a_named_backend_that_cannot_run_is_refused_before_any_training(name, words, said, monkeypatch, capsys):
    monkeypatch.setenv("SPIKESPARSE_BACKEND", name)
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setenv("XDG_CACHE_HOME", "cache")
    with refused_with(re.escape(f"SPIKESPARSE_BACKEND{words}")):
        neuron_scan(numbers((3, 4)), 0.5, 1.0, spec_of())
    for command in ("train", "predict"):
        assert main([command]) == 2
        out, err = capsys.readouterr()
        assert err.startswith(f"spikesparse: error: SPIKESPARSE_BACKEND{words}")
        assert (err.count("\n"), out) == (1, "")


@needs_compiler
def test_the_cpu_kernels_are_not_given_what_lies_elsewhere(monkeypatch):
    """They would read a GPU's addresses as the processor's."""
    monkeypatch.setenv("SPIKESPARSE_BACKEND", "cpu")
    with refused_with("SPIKESPARSE_BACKEND=cpu: these kernels cannot read tensors on cuda"):
        backends.backend_for(torch.device("cuda"), torch.float32)


def test_fold_by_hand():
    # (y - 3) / sqrt(4) * 5 + 7 = 2.5 * y - 0.5
    scale, shift = fold(torch.tensor([[3.0], [3.0], [9.0]]).double(), torch.tensor([5.0]), torch.tensor([7.0]), 1.0)
    assert (scale.item(), shift.item()) == (2.5, -0.5)
