"""The neuron scan against plain autograd over a Python loop, in float64, with the surrogates written out again."""

import math

import pytest
import torch

from formula import SURROGATE_FORMULAS, neurons
from spikesparse.ops import NeuronSpec, neuron_scan
from spikesparse.ops.surrogate import SURROGATES, surrogate


def random_case(timesteps, constant):
    generator = torch.Generator().manual_seed(timesteps)
    shape = (4, 6) if constant else (timesteps, 4, 6)
    current = 0.5 + torch.randn(shape, generator=generator, dtype=torch.float64)
    return current, torch.randn((timesteps, 4, 6), generator=generator, dtype=torch.float64)


def spec_of(name="atan", slope=None, soft=False, detach=True, strict=False):
    return NeuronSpec(surrogate(name, slope), soft, detach, strict)


def both(current, weight, decay, threshold, initial, name, slope, soft, detach, constant):
    """Spikes and gradients of sum(weight * spikes): of the scan, and of the reference."""
    timesteps = len(weight)
    results = []
    for scanned in (True, False):
        x, *learned = inputs = [
            p.clone().requires_grad_() if isinstance(p, torch.Tensor) else p
            for p in (current, decay, threshold, initial)
        ]
        if scanned:
            spec = spec_of(name, slope, soft, detach)
            spikes = neuron_scan(x, *learned[:2], spec, timesteps if constant else None, learned[2])
        else:
            spikes = neurons([x] * timesteps if constant else list(x), *learned, name, slope, soft, detach)
        (spikes * weight).sum().backward()
        results.append((spikes, [p.grad for p in inputs if isinstance(p, torch.Tensor)]))
    return results


def test_every_surrogate_has_a_formula_here():
    assert set(SURROGATE_FORMULAS) == set(SURROGATES)


@pytest.mark.parametrize("constant", [False, True], ids=["per_step", "constant"])
@pytest.mark.parametrize("detach", [True, False], ids=["detached", "through_reset"])
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
@pytest.mark.parametrize("slope", [None, 2.5])
@pytest.mark.parametrize("name", SURROGATE_FORMULAS)
def test_spikes_and_current_gradient_equal_autograd(name, slope, soft, detach, constant):
    for decay, initial in ((1.0, 0.0), (0.9, 0.7), (0.5, 0.0), (0.5, -0.3)):
        for timesteps in (1, 2, 7):
            current, weight = random_case(timesteps, constant)
            ours, expected = both(current, weight, decay, 1.0, initial, name, slope, soft, detach, constant)
            assert torch.equal(ours[0], expected[0]), (decay, timesteps)
            assert 0 < ours[0].mean() < 1
            torch.testing.assert_close(ours[1], expected[1], rtol=1e-10, atol=1e-10)
            assert expected[1][0].any()


@pytest.mark.parametrize("constant", [False, True], ids=["per_step", "constant"])
@pytest.mark.parametrize("detach", [True, False], ids=["detached", "through_reset"])
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
@pytest.mark.parametrize("name", SURROGATE_FORMULAS)
def test_gradients_of_what_is_learned_equal_autograd(name, soft, detach, constant):
    for decay in (0.9, 0.5):
        for timesteps in (1, 2, 7):
            current, weight = random_case(timesteps, constant)
            learned = [torch.tensor(value, dtype=torch.float64) for value in (decay, 0.8, 0.3)]
            ours, expected = both(current, weight, *learned, name, None, soft, detach, constant)
            assert torch.equal(ours[0], expected[0])
            torch.testing.assert_close(ours[1], expected[1], rtol=1e-10, atol=1e-10)
            assert all(g != 0 for g in expected[1][1:])


def test_lee_trace_correction_by_hand():
    # Leak 0.5, threshold 1: fires in steps 1 and 3, so LF = 0.25 + 1 = 1.25, and the factor 1 + ln(0.5) * 1.25 / 2
    # multiplies the derivative 1 / threshold of each spiking step. The last spike reaches x[2] through the leak, too.
    x = torch.tensor([[1.0], [0.5], [0.8]], dtype=torch.float64, requires_grad=True)
    spikes = neuron_scan(x, 0.5, 1.0, spec_of("lee2020"))
    spikes.sum().backward()
    assert spikes.flatten().tolist() == [1, 0, 1]
    factor = 1 + math.log(0.5) * 1.25 / 2
    torch.testing.assert_close(x.grad.flatten(), torch.tensor([factor, 0.5 * factor, factor]).double())


def test_lee_gives_no_gradient_to_a_neuron_exactly_at_a_strict_threshold():
    # The derivative is "1 / threshold where the neuron fired"; a strict neuron at its threshold has not.
    x = torch.tensor([[1.0], [0.5]], dtype=torch.float64, requires_grad=True)
    spikes = neuron_scan(x, 1.0, 1.0, spec_of("lee2020", strict=True))  # h = 1, then 1.5
    spikes[0].sum().backward()
    assert spikes.flatten().tolist() == [0, 1]
    assert x.grad.flatten().tolist() == [0, 0]


@pytest.mark.parametrize(
    ("decay", "soft", "current", "spikes"),
    [
        (1.0, False, [0.7, 0.7, 0.7, 0.7, 0.7], [0, 1, 0, 1, 0]),  # 0.7, 1.4 -> 0, 0.7, 1.4 -> 0, 0.7
        (1.0, True, [0.7, 0.7, 0.7, 0.7, 0.7], [0, 1, 1, 0, 1]),  # 0.7, 1.4 -> 0.4, 1.1 -> 0.1, 0.8, 1.5
        (0.5, False, [1.6, 0.8, 0.4, 0.9], [1, 0, 0, 1]),  # 1.6 -> 0, 0.8, 0.8, 1.3
        (0.5, True, [1.6, 0.8, 0.4, 0.9], [1, 1, 0, 1]),  # 1.6 -> 0.6, 1.1 -> 0.1, 0.45, 1.125
        (0.5, True, [-2.0, 1.9, 1.1], [0, 0, 1]),  # -2, 0.9, 1.55: the membrane may be negative
    ],
)
def test_forward_by_hand(decay, soft, current, spikes):
    assert neuron_scan(torch.tensor(current)[:, None], decay, 1.0, spec_of(soft=soft)).flatten().tolist() == spikes


def test_constant_current_by_hand():
    # 0.75, 1.125 -> 0, 0.75, 1.125 -> 0 at leak 0.5; the second neuron's 0.4 converges to 0.8 and never fires.
    spikes = neuron_scan(torch.tensor([0.75, 0.4]), 0.5, 1.0, spec_of(), timesteps=4)
    assert spikes.tolist() == [[0, 0], [1, 0], [0, 0], [1, 0]]


@pytest.mark.parametrize(("strict", "fires"), [(False, 1), (True, 0)])
def test_exactly_at_the_threshold(strict, fires):
    assert neuron_scan(torch.tensor([[0.75]]), 0.5, 0.75, spec_of(strict=strict)).item() == fires


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_spikes_and_gradient_have_the_dtype_of_the_current(dtype):
    current = torch.ones(2, 3, dtype=dtype, requires_grad=True)
    spikes = neuron_scan(current, 0.5, 1.0, spec_of())
    spikes.sum().backward()
    assert spikes.dtype == current.grad.dtype == dtype
    assert spikes.all()


def naive(current, decay):
    """Spikes of hard-reset neurons (threshold 1) whose membrane is kept in the current's own dtype."""
    v, spikes = torch.zeros_like(current[0]), []
    for x in current:
        h = torch.tensor(decay, dtype=current.dtype) * v + x
        spikes.append((h >= 1).to(current.dtype))
        v = h * (1 - spikes[-1])
    return torch.stack(spikes)


@pytest.mark.parametrize(
    ("dtype", "small"), [(torch.bfloat16, 2.0**-9), (torch.float16, 2.0**-12), (torch.float32, 2.0**-25)]
)
def test_membrane_precision(dtype, small):
    """The second current is half a unit in the last place below 1: the dtype itself rounds the sum up to 1."""
    current = torch.tensor([1 - 2 * small, small, small], dtype=dtype)[:, None]
    exact_dtype = torch.float64 if dtype == torch.float32 else torch.float32
    exact = neuron_scan(current.to(exact_dtype), 1.0, 1.0, spec_of()).flatten().tolist()
    assert exact == [0, 0, 1]
    assert naive(current, 1.0).flatten().tolist() != exact
    # float32 is the state's dtype for all but float64, so float32 itself does round
    assert (neuron_scan(current, 1.0, 1.0, spec_of()).flatten().tolist() == exact) == (dtype != torch.float32)


def test_decay_is_not_rounded_to_bfloat16():
    # 0.99 * 0.99609375 + 0.0146484375 = 1.0008, but only 0.9991 with the 0.98828125 that bfloat16 makes of 0.99.
    current = torch.tensor([0.99609375, 0.0146484375], dtype=torch.bfloat16)[:, None]
    assert naive(current.float(), 0.98828125).flatten().tolist() == [0, 0]
    assert neuron_scan(current, 0.99, 1.0, spec_of()).flatten().tolist() == [0, 1]


def test_threshold_is_not_rounded_to_bfloat16():
    # bfloat16 makes 0.98828125 of 0.99, and a current of 0.98828125 would fire.
    current = torch.tensor([[0.98828125]], dtype=torch.bfloat16)
    assert neuron_scan(current, 0.5, 0.99, spec_of()).item() == 0


def test_autocast_leaves_the_scan_alone():
    current, weight = (tensor.float() for tensor in random_case(7, False))
    learned = [torch.tensor(value, requires_grad=True) for value in (0.99, 0.8)]
    results = []
    for enabled in (False, True):
        x = current.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            spikes = neuron_scan(x, *learned, spec_of(soft=True, detach=False))
            gradients = torch.autograd.grad((spikes * weight).sum(), [x, *learned])
        results.append((spikes, *gradients))
    assert all(a.dtype == torch.float32 and torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("constant", [False, True], ids=["per_step", "constant"])
def test_only_the_current_is_kept_for_the_backward_pass(constant):
    kept = []
    current = random_case(7, constant)[0].requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor), lambda _: None):
        neuron_scan(current, 0.5, 1.0, spec_of(), 7 if constant else None)
    assert [t.data_ptr() for t in kept if t.numel() > 1] == [current.data_ptr()]  # beside decay and threshold


def test_leaves_its_inputs_as_they_were():
    current, weight = random_case(7, False)
    before = current.clone()
    neuron_scan(current.requires_grad_(), 0.9, 1.0, spec_of(detach=False)).backward(weight)
    assert torch.equal(current, before)


def test_backward_twice_gives_the_same_gradient():
    current, weight = random_case(7, False)
    current.requires_grad_()
    loss = (neuron_scan(current, 0.9, 1.0, spec_of(soft=True, detach=False)) * weight).sum()
    first, second = (torch.autograd.grad(loss, current, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)
