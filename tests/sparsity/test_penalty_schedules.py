"""What a spike costs, and how that cost is annealed."""

import math
from types import SimpleNamespace

import pytest
import torch

from refusals import refused_with
from spikesparse.commands.flags import with_flags
from spikesparse.errors import UserError
from spikesparse.nn import LayerSizes, SpikeTally, SpikingVGG
from spikesparse.sparsity import SparsityAnnealing, SpikePenalty
from spikesparse.sparsity.penalty import penalty_of
from spikesparse.sparsity.schedules import SCHEDULES

SIZES = LayerSizes({"conv1": 10, "conv2": 20}, {"conv1": 100, "conv2": 200, "classifier": 300})


def make_tally(spikes, synops, sizes=SIZES, timesteps=2):
    spikes, synops = (torch.tensor(rows, dtype=torch.float64, requires_grad=True) for rows in (spikes, synops))
    nothing = torch.zeros(spikes.shape[1], dtype=torch.float64)
    return SpikeTally(sizes, timesteps, spikes, synops, nothing, nothing, nothing.new_zeros(0, len(nothing)))


# Two images. Spikes: conv1 4 and 6, conv2 10 and 20. Operations: conv2 40 and 80, classifier 30 and 90.
def hand_made():
    return make_tally([[4, 6], [10, 20]], [[1000, 2000], [40, 80], [30, 90]])


@pytest.mark.parametrize(
    ("settings", "value"),
    [
        ({}, (14 + 26) / 2 / (30 * 2)),
        ({"by": "spikes"}, 1 / 3),
        ({"by": "synops"}, (70 + 170) / 2 / (500 * 2)),  # the first layer's 100 synapses are not among them
        ({"layer_weights": [1, 1]}, 1 / 3),
        ({"layer_weights": [5, 5]}, 1 / 3),
        ({"layer_weights": [2, 1]}, ((8 + 10) + (12 + 20)) / 2 / ((2 * 10 + 20) * 2)),
        ({"layer_weights": [0, 3]}, (10 + 20) / 2 / (20 * 2)),
    ],
)
def test_penalty_by_hand(settings, value):
    penalty = SpikePenalty(**settings)(hand_made())
    assert penalty.dtype == torch.float64
    assert penalty.item() == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize(("by", "rows"), [("spikes", [1 / 60 / 2] * 2), ("synops", [0, 1 / 1000 / 2, 1 / 1000 / 2])])
def test_gradient_by_hand(by, rows):
    tally = hand_made()
    SpikePenalty(by)(tally).backward()
    assert getattr(tally, by).grad.tolist() == [pytest.approx([row] * 2, rel=1e-12) for row in rows]


def test_gradient_of_layer_weights_by_hand():
    tally = hand_made()
    SpikePenalty(layer_weights=[2, 1])(tally).backward()
    assert tally.spikes.grad.tolist() == [[2 / 2 / 80] * 2, [1 / 2 / 80] * 2]


@pytest.mark.parametrize("settings", [{}, {"by": "synops"}, {"layer_weights": [0.3, 2.0]}])
@pytest.mark.parametrize("share", [0, 0.5, 1])
def test_penalty_is_the_share_of_what_is_possible(settings, share):
    spikes, synops = ([[2 * n * share] * 3 for n in sizes.values()] for sizes in (SIZES.neurons, SIZES.synapses))
    assert SpikePenalty(**settings)(make_tally(spikes, synops)).item() == pytest.approx(share, abs=1e-12)


@pytest.mark.parametrize("by", ["spikes", "synops"])
def test_the_mean_over_a_batch_is_the_mean_of_its_images(by):
    penalty = SpikePenalty(by)
    whole = hand_made()
    images = [
        penalty(make_tally(whole.spikes[:, [i]].tolist(), whole.synops[:, [i]].tolist())).item() for i in range(2)
    ]
    assert images[0] != images[1]
    assert penalty(whole).item() == pytest.approx(sum(images) / 2, rel=1e-12)


@pytest.mark.parametrize("by", ["spikes", "synops"])
@pytest.mark.parametrize(("steps", "wider"), [(1, 1), (7, 1), (1, 4), (3, 4)])
def test_penalty_does_not_depend_on_timesteps_or_width_at_the_same_rate(by, steps, wider):
    whole, times = hand_made(), steps * wider
    sizes = LayerSizes(*({k: n * wider for k, n in part.items()} for part in (SIZES.neurons, SIZES.synapses)))
    other = make_tally((whole.spikes * times).tolist(), (whole.synops * times).tolist(), sizes, 2 * steps)
    assert SpikePenalty(by)(other).item() == pytest.approx(SpikePenalty(by)(whole).item(), rel=1e-12)


@pytest.mark.parametrize("by", ["spikes", "synops"])
def test_autocast_leaves_the_penalty_alone(by):
    with torch.autocast("cpu", torch.bfloat16):
        inside = SpikePenalty(by)(hand_made())
    assert inside.dtype == torch.float64
    assert inside.item() == SpikePenalty(by)(hand_made()).item()


def test_a_network_under_penalty_spikes_less():
    torch.manual_seed(0)
    net, x = SpikingVGG("4-P-8", input_shape=(1, 8, 8)).train(), torch.rand(8, 1, 8, 8)
    optimizer, penalty = torch.optim.SGD(net.parameters(), lr=1.0), SpikePenalty()
    before = penalty(net(x).tally).item()
    for _ in range(10):
        optimizer.zero_grad()
        penalty(net(x).tally).backward()
        optimizer.step()
    assert penalty(net(x).tally).item() < 0.8 * before


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"by": "energy"}, ["--model.penalty.by='energy'", "spikes", "synops"]),
        ({"layer_weights": [1, -1]}, ["--model.penalty.layer_weights=[1, -1]", "0 or more"]),
        ({"layer_weights": [0, 0]}, ["--model.penalty.layer_weights=[0, 0]", "above 0"]),
        ({"layer_weights": []}, ["--model.penalty.layer_weights=[]"]),
        ({"layer_weights": [math.nan, 1]}, ["--model.penalty.layer_weights=[nan, 1]"]),
        ({"by": "synops", "layer_weights": [1, 1]}, ["--model.penalty.layer_weights=[1, 1]", "by=spikes"]),
        ({"layer_weights": [1, 2, 3]}, ["--model.penalty.layer_weights=", "3 weights", "conv1, conv2"]),
    ],
)
def test_penalty_errors(settings, words):
    with pytest.raises(UserError) as error:
        SpikePenalty(**settings)(hand_made())
    assert [word for word in words if word not in with_flags(error.value)] == []


@pytest.mark.parametrize(
    ("returned", "words"),
    [(torch.zeros(2), "a tensor of shape (2,)"), (torch.zeros(1, 1), "a tensor of shape (1, 1)"), (0.5, "'float'")],
)
def test_a_penalty_that_is_no_scalar_is_refused(returned, words):
    class Mine(torch.nn.Module):
        def forward(self, tally):
            return returned

    with pytest.raises(UserError) as error:
        penalty_of(Mine(), hand_made())
    assert f"its forward returned {words}; a scalar tensor is needed" in with_flags(error.value)
    assert penalty_of(SpikePenalty(), hand_made()).item() == pytest.approx(1 / 3)


# ---- schedules ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_run_from_zero_to_one(name):
    assert SCHEDULES[name](0.0) == (1 if name == "constant" else 0)
    assert SCHEDULES[name](1.0) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_never_fall(name):
    values = [SCHEDULES[name](i / 200) for i in range(201)]
    assert values == sorted(values)
    assert len(set(values)) == {"constant": 1, "step": 5}.get(name, 201)


@pytest.mark.parametrize(
    ("name", "progress", "value"),
    [
        ("constant", 0.5, 1),
        ("linear", 0.3, 0.3),
        ("cosine", 0.25, (1 - math.sqrt(0.5)) / 2),
        ("cosine", 0.5, 0.5),
        ("cosine", 2 / 3, 0.75),
        ("exponential", 0.5, 1 / (math.exp(2.5) + 1)),  # (e^2.5 - 1) / (e^5 - 1)
        ("exponential", 0.8, (math.exp(4) - 1) / (math.exp(5) - 1)),
        ("step", 0.24, 0),
        ("step", 0.25, 0.25),
        ("step", 0.6, 0.5),
        ("step", 0.99, 0.75),
        # A temperature exp(-5 p), shifted and scaled to run from 1 to 0; the weight is 1 - temperature.
        ("cooling", 0.2, 1 - (math.exp(-1) - math.exp(-5)) / (1 - math.exp(-5))),
        ("cooling", 0.5, math.exp(2.5) / (math.exp(2.5) + 1)),  # (1 - e^-2.5) / (1 - e^-5)
    ],
)
def test_schedules_by_hand(name, progress, value):
    assert SCHEDULES[name](progress) == pytest.approx(value, abs=1e-12)


# ---- annealing ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "values"),
    [
        ({"end_epoch": 4}, [0, 0.2, 0.4, 0.6, 0.8, 0.8, 0.8]),
        ({"end_epoch": 0}, [0.8, 0.8]),
        ({"start_epoch": 2, "end_epoch": 4}, [0, 0, 0, 0.4, 0.8, 0.8]),
        ({"start_epoch": 3, "end_epoch": 3}, [0, 0, 0, 0.8]),
        ({"start_epoch": 1, "end_epoch": 3, "start_value": 0.2}, [0.2, 0.2, 0.5, 0.8]),
        ({"end_epoch": 2, "start_value": 1.8}, [1.8, 1.3, 0.8, 0.8]),
        ({"schedule": "constant", "start_epoch": 2, "end_epoch": 4}, [0, 0, 0.8, 0.8, 0.8]),
        ({"schedule": "step", "end_epoch": 8}, [0, 0, 0.2, 0.2, 0.4, 0.4, 0.6, 0.6, 0.8]),
        ({"schedule": "cosine", "end_epoch": 3}, [0, 0.2, 0.6, 0.8]),
        ({"end_value": 0.0, "end_epoch": 2}, [0, 0, 0]),
    ],
)
def test_lambda_of_each_epoch_by_hand(settings, values):
    annealing = SparsityAnnealing(**{"end_value": 0.8} | settings)
    assert [annealing.value_at(epoch) for epoch in range(len(values))] == pytest.approx(values, abs=1e-12)


def test_the_end_value_is_reached_exactly():
    annealing = SparsityAnnealing(0.1, "cooling", end_epoch=3, start_value=0.7)
    assert [annealing.value_at(epoch) == 0.1 for epoch in (2, 3, 4)] == [False, True, True]
    assert [annealing.at_end_value(epoch) for epoch in (2, 3, 4)] == [False, True, True]
    assert [annealing.may_choose(None, epoch) for epoch in (2, 3, 4)] == [False, True, True]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"end_value": -0.1}, ["--sparsity.end_value=-0.1"]),
        ({"end_value": math.nan}, ["--sparsity.end_value=nan"]),
        ({"end_value": math.inf}, ["--sparsity.end_value=inf"]),
        ({"start_value": -1}, ["--sparsity.start_value=-1"]),
        ({"start_epoch": -1}, ["--sparsity.start_epoch=-1"]),
        ({"start_epoch": 5, "end_epoch": 4}, ["--sparsity.end_epoch=4", "--sparsity.start_epoch=5"]),
        ({"schedule": "sine"}, ["--sparsity.schedule='sine'", *SCHEDULES]),
    ],
)
def test_annealing_errors(settings, words):
    with pytest.raises(UserError) as error:
        SparsityAnnealing(**settings)
    assert [word for word in words if word not in with_flags(error.value)] == []


def set_up(annealing, max_epochs, stage="fit"):
    annealing.setup(SimpleNamespace(max_epochs=max_epochs), None, stage)
    return annealing


@pytest.mark.parametrize(
    ("settings", "max_epochs", "end"),
    [
        ({}, 10, 5),
        ({}, 7, 3),
        ({}, 1, 0),
        ({}, -1, 0),
        ({"start_epoch": 8}, 10, 8),
        ({"end_epoch": 9}, 10, 9),
    ],
)
def test_the_ramp_ends_at_half_of_training_unless_told(settings, max_epochs, end):
    assert set_up(SparsityAnnealing(1.0, **settings), max_epochs).end_epoch == end


def test_a_validation_alone_settles_no_ramp():
    assert set_up(SparsityAnnealing(1.0), 10, "validate").end_epoch is None
    assert not SparsityAnnealing(1.0).at_end_value(1000)


@pytest.mark.parametrize(("asked", "end"), [(None, 5), (12, 12)])
def test_a_resumed_run_keeps_the_end_of_its_ramp_unless_the_user_names_one(asked, end):
    state = set_up(SparsityAnnealing(1.0), 10).state_dict()
    resumed = set_up(SparsityAnnealing(1.0, end_epoch=asked), 20)
    resumed.load_state_dict(state)
    assert resumed.end_epoch == end
    assert resumed.value_at(4) == pytest.approx(4 / end)


def test_lambda_is_set_and_logged_at_the_start_of_an_epoch():
    logged = {}
    module = SimpleNamespace(sparsity_weight=None, log=lambda name, value, **_: logged.update({name: value}))
    annealing = SparsityAnnealing(0.8, end_epoch=4)
    for epoch, value in ((1, 0.2), (3, 0.6), (9, 0.8)):
        annealing.on_train_epoch_start(SimpleNamespace(current_epoch=epoch), module)
        assert module.sparsity_weight == logged["schedule/lambda"] == pytest.approx(value)


@pytest.mark.parametrize(("max_epochs", "warns"), [(4, True), (5, False), (-1, False)])
def test_a_run_that_ends_before_its_ramp_is_warned(max_epochs, warns):
    annealing = SparsityAnnealing(0.8, end_epoch=4)
    trainer = SimpleNamespace(max_epochs=max_epochs)
    if warns:
        with pytest.warns(UserWarning, match="`end_epoch`"):
            annealing.on_fit_start(trainer, None)
    else:
        annealing.on_fit_start(trainer, None)  # pytest turns a warning into an error


def test_without_settings_it_trains_for_accuracy_alone():
    assert [set_up(SparsityAnnealing(), 4).value_at(epoch) for epoch in range(5)] == [0.0] * 5


def test_a_twin_without_penalty_needs_no_ramp():
    SparsityAnnealing(0.0, end_epoch=4).on_fit_start(SimpleNamespace(max_epochs=2), None)


@pytest.mark.parametrize("share", [-1.0, math.inf, math.nan])
def test_a_schedule_that_makes_no_lambda_is_refused(share):
    annealing = set_up(SparsityAnnealing(0.5, schedule=lambda progress: share, end_epoch=4), 8)
    with refused_with(r"--sparsity.schedule: it makes lambda .* in epoch 2 \(progress 0.5\)"):
        annealing.value_at(2)
    assert annealing.value_at(4) == 0.5
