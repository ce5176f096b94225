"""Whatever torch and Lightning do with a module: the right numbers and counts, or a refusal in one sentence."""

import copy
import io
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.tuner import Tuner
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize, prune
from torch.utils.checkpoint import checkpoint

from oracle import Oracle
from spikesparse import CIFAR10DataModule, SpikingClassifier, SpikingVGG, load_run
from spikesparse.commands.main import main
from spikesparse.metrics import EnergyConstants

COUNTS = ("spikes", "synops", "macs", "input_spikes", "pooling_spikes")
LIGHTNINGS_ADVICE = pytest.mark.filterwarnings("ignore")  # on tiny runs; it is not what is tested here


def vgg(architecture="6-P-8-F10", **settings):
    torch.manual_seed(1)
    return SpikingVGG(architecture, input_shape=(3, 8, 8), timesteps=3, num_classes=3, **settings).double()


def images(constant=True, batch=4):
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(batch, 3, 8, 8, generator=generator).double() * 2
    return x if constant else (x.expand(3, *x.shape) * torch.rand(3, *x.shape, generator=generator) > 0.7).double()


def stepped(net, x, call=None):
    """Logits, tally, gradients (of the input last) and buffers of one step of training."""
    net.train()
    x = x.clone().requires_grad_()
    torch.manual_seed(2)
    output = net(x) if call is None else call(net, x)
    labels = torch.arange(len(output.logits)) % 3
    loss = F.cross_entropy(output.logits, labels) + 1e-2 * (output.tally.spikes.mean() + output.tally.synops.mean())
    loss.backward()
    return output, [*(p.grad for p in net.parameters()), x.grad], dict(net.named_buffers())


def assert_same_step(found, expected, buffers=True):
    (output, gradients, statistics), (plain, plain_gradients, plain_statistics) = found, expected
    torch.testing.assert_close(output.logits, plain.logits, rtol=1e-9, atol=1e-9)
    for name in COUNTS:
        assert torch.equal(getattr(output.tally, name), getattr(plain.tally, name)), name
    assert plain.tally.spikes.sum() > 0
    torch.testing.assert_close(gradients, plain_gradients, rtol=1e-9, atol=1e-12)
    if buffers:
        torch.testing.assert_close(statistics, plain_statistics, rtol=1e-9, atol=1e-12)


def saved_whole(net):
    file = io.BytesIO()
    torch.save(net, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def by_functional_call(net, x):
    values = {**dict(net.named_parameters()), **dict(net.named_buffers())}
    other = copy.deepcopy(net).to("meta")  # so that nothing but what is given can be read
    return torch.func.functional_call(other, values, (x,))


def parts(net):
    return {name: part for name, part in net.named_modules() if not isinstance(part, nn.ModuleDict)}


def watched(net, seen):
    """Hooks on every part, which change nothing."""
    for name, part in parts(net).items():
        part.register_forward_pre_hook(lambda module, args, name=name: seen.add((name, "before")))
        part.register_forward_hook(lambda module, args, output, name=name: seen.add((name, "behind")))
        part.register_state_dict_post_hook(lambda module, *rest: None)
    return net


def watched_backward(net, seen):
    for name, part in parts(net).items():
        if name:  # torch warns of an output that is no tensor, as the whole network's
            part.register_full_backward_hook(lambda module, into, out, name=name: seen.add((name, "back")))
    return net


def checkpointed(reentrant):
    def call(net, x):
        return checkpoint(net, x, use_reentrant=reentrant)

    def reentrantly(net, x):  # which hands on the gradients of a tuple's tensors only
        kept = []

        def run(x):
            kept[:] = [net(x)]
            return kept[0].logits, kept[0].tally.spikes, kept[0].tally.synops

        logits, spikes, synops = checkpoint(run, x, use_reentrant=True)
        return replace(kept[0], logits=logits, tally=replace(kept[0].tally, spikes=spikes, synops=synops))

    return reentrantly if reentrant else call


COPIES = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda net: pickle.loads(pickle.dumps(net)),
    "torch.save": saved_whole,
    "hooks": lambda net: watched(net, set()),
    "backward hooks": lambda net: watched_backward(net, set()),
}
CALLS = {
    "functional_call": by_functional_call,
    "checkpoint": checkpointed(reentrant=False),
    "reentrant checkpoint": checkpointed(reentrant=True),
}
SETTINGS = [{}, {"recompute": True}, {"norm": "none"}, {"pooling": "average"}, {"pooling": "spiking_average"}]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("constant", [True, False], ids=["constant", "per_step"])
@pytest.mark.parametrize("way", [*COPIES, *CALLS])
@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
def test_a_step_of_training_is_the_plain_networks(way, constant, settings):
    settings = {**settings, "dropout": 0.3, "learn_threshold": True}
    x = images(constant)
    expected = stepped(vgg(**settings), x)
    net = COPIES[way](vgg(**settings)) if way in COPIES else vgg(**settings)
    # As in any network of torch's, what is computed again moves BatchNorm's statistics again.
    assert_same_step(stepped(net, x, CALLS.get(way)), expected, buffers="checkpoint" not in way)


@pytest.mark.parametrize("constant", [True, False], ids=["constant", "per_step"])
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("pooling", ["max", "average", "spiking_average"])
def test_hooks_on_every_part_are_shown_what_passes(pooling, training, constant):
    seen = set()
    net = watched_backward(watched(vgg(pooling=pooling, dropout=0.3), seen), seen).train(training)
    x = images(constant).requires_grad_()
    output = net(x)
    (output.logits.sum() + output.tally.spikes.sum()).backward()
    every = {(name, when) for name in parts(net) for when in ("before", "behind", "back")} - {("", "back")}
    assert seen == every


def masked(what):
    """A hook that silences half of what passes, or makes twice of it."""

    def hook(module, args, output=None):
        x = args[0] if output is None else output
        keep = (torch.arange(x.shape[-1] * x.shape[-3] if x.dim() > 3 else x.shape[-1]) % 2 == 0).to(x)
        keep = keep.view(x.shape[-3], 1, x.shape[-1]) if x.dim() > 3 else keep
        changed = x * keep * (2.0 if what == "doubled" else 1.0)
        return changed if output is not None else (changed, *args[1:])

    return hook


@pytest.mark.parametrize("what", ["silenced", "doubled"])
@pytest.mark.parametrize("where", ["layer", "before layer", "neuron", "weights", "pool", "dropout"])
def test_what_a_hook_puts_in_its_place_is_counted(where, what):
    net, plain = (vgg("3-P-4-F4", threshold=0.2, dropout=0.3).eval() for _ in range(2))
    first, second = net.layers["conv1"], net.layers["conv2"]
    place = {"layer": first, "neuron": first.neuron, "pool": first.pool, "dropout": first.dropout}
    if where in place:
        place[where].register_forward_hook(masked(what))
    else:
        (second if where == "before layer" else second.weights).register_forward_pre_hook(masked(what))
    x = images(constant=False, batch=2)
    with torch.no_grad():
        found, recorded, before = net(x).tally, net(x, record="neurons").tally, plain(x).tally
        oracle = Oracle(net, x, 3)
    for tally in (found, recorded):
        assert [row.tolist() for row in tally.synops] == list(oracle.synops.values())
        assert [row.tolist() for row in tally.spikes] == list(oracle.spikes.values())
    assert recorded.record.nonzero_synops.tolist() == [sum(row) for row in oracle.nonzero_synops.values()]
    assert not torch.equal(found.synops, before.synops)


def weighty(net):
    return [layer.weights for layer in net.layers.values()]


def normed(net):
    return [layer.norm for layer in net.layers.values() if layer.norm is not None]


def pruned(net):
    for module in [*weighty(net), *normed(net)]:
        prune.l1_unstructured(module, "weight", 0.4)
    return net


def old_weight_norm(net):
    for module in weighty(net):
        nn.utils.weight_norm(module)
    return net


def weight_norm(net):
    for module in weighty(net):
        parametrizations.weight_norm(module)
    return net


class Positive(nn.Module):
    def forward(self, raw):
        return raw.abs() + 0.25


def positive(net):
    for module in [*weighty(net), *normed(net)]:
        parametrize.register_parametrization(module, "weight", Positive())
    return net


def with_values(net, settings):
    """The plain network of the same weights."""
    plain = vgg(**settings)
    values = {}
    for name, module in net.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear | nn.BatchNorm1d | nn.BatchNorm2d):
            for hook in module._forward_pre_hooks.values():
                hook(module, None)
            values |= {f"{name}.weight": module.weight.detach().clone()}
            values |= {} if module.bias is None else {f"{name}.bias": module.bias.detach().clone()}
    plain.load_state_dict(values, strict=False)
    return plain


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")
@pytest.mark.parametrize("settings", [{}, {"recompute": True}, {"norm": "none"}], ids=str)
@pytest.mark.parametrize("constant", [True, False], ids=["constant", "per_step"])
@pytest.mark.parametrize("way", [pruned, old_weight_norm, weight_norm, positive])
def test_pruned_and_parametrised_networks_are_the_plain_ones_of_their_weights(way, constant, settings):
    net, x = way(vgg(**settings)), images(constant)
    optimizer = torch.optim.SGD(net.parameters(), 0.05)
    for _ in range(2):  # a second step goes by the weights of the first
        plain = with_values(net, settings)
        for module, twin in zip(normed(net), normed(plain), strict=True):
            for name, value in module.named_buffers(recurse=False):
                if hasattr(twin, name):  # not a mask
                    getattr(twin, name).copy_(value)
        optimizer.zero_grad()
        output, _, statistics = stepped(net, x)
        expected, _, plain_statistics = stepped(plain, x)
        for name in COUNTS:
            assert torch.equal(getattr(output.tally, name), getattr(expected.tally, name)), name
        for name in plain_statistics:
            torch.testing.assert_close(statistics[name], plain_statistics[name], rtol=1e-9, atol=1e-12)
        optimizer.step()
    plain = with_values(net.eval(), settings)
    for module, twin in zip(normed(net), normed(plain), strict=True):
        twin.running_mean.copy_(module.running_mean)
        twin.running_var.copy_(module.running_var)
    records = [each.eval()(x, record="neurons").tally.record for each in (net, plain)]
    for name in ("nonzero_synapses", "nonzero_synops", "nonzero_macs"):
        assert torch.equal(*(getattr(record, name) for record in records)), name
    dense = sum(net.sizes.synapses.values())
    assert (int(records[0].nonzero_synapses.sum()) < dense) == (way is pruned)


def test_gradients_of_pruned_weights_are_those_of_the_weights_that_are_left():
    net, x = pruned(vgg()), images()
    plain = with_values(net, {})
    stepped(net, x)
    stepped(plain, x)
    for module, twin in zip(weighty(net), weighty(plain), strict=True):
        torch.testing.assert_close(
            module.weight_orig.grad, twin.weight.grad * module.weight_mask, rtol=1e-9, atol=1e-12
        )


def test_a_mask_that_was_loaded_counts_at_once():
    """Pruning's hook makes the weight when the module is called: before, it is that of the mask that was there."""
    few, many = (vgg(), vgg())
    for net, share in ((few, 0.8), (many, 0.1)):
        for module in weighty(net):
            prune.l1_unstructured(module, "weight", share)
    many.load_state_dict(few.state_dict())
    with torch.no_grad():
        found = many.eval()(images(), record="neurons").tally.record.nonzero_synapses
    assert torch.equal(found, with_values(few, {}).eval()(images(), record="neurons").tally.record.nonzero_synapses)


def test_a_parametrisation_with_a_state_moves_once_a_pass():
    """spectral_norm takes a step of its power iteration whenever it is asked for the weight in training."""
    net, x = vgg(norm="none"), images()
    conv = copy.deepcopy(net.layers["conv2"].weights)
    for module in (net.layers["conv2"].weights, conv):
        torch.manual_seed(3)
        parametrizations.spectral_norm(module)
    net.train()(x)
    conv.train()(torch.zeros(1, 6, 4, 4).double())
    ours = net.layers["conv2"].weights.parametrizations.weight[0]
    assert torch.equal(ours._u, conv.parametrizations.weight[0]._u)


class Doubled(nn.Conv2d):
    def forward(self, x):
        return 2 * super().forward(x)


@pytest.mark.parametrize("wrap", ["class", "parametrised", "instance"])
@pytest.mark.parametrize("recompute", [False, True])
def test_a_convolution_of_ones_own_is_called(recompute, wrap):
    net, plain = vgg(recompute=recompute), vgg(recompute=recompute)
    for layer in [net.layers["conv1"], net.layers["conv2"]]:
        if wrap == "instance":
            forward = layer.weights.forward
            layer.weights.forward = lambda x, forward=forward: 2 * forward(x)
            continue
        layer.weights.__class__ = Doubled
        if wrap == "parametrised":
            parametrize.register_parametrization(layer.weights, "weight", nn.Identity())
    with torch.no_grad():
        for name in ("conv1", "conv2"):
            plain.layers[name].weights.weight.mul_(2)
    x = images()
    found, expected = stepped(net, x)[0], stepped(plain, x)[0]
    assert torch.equal(found.tally.synops, expected.tally.synops)
    torch.testing.assert_close(found.logits, expected.logits, rtol=1e-9, atol=1e-9)


def test_dropout_that_is_on_in_evaluation_drops():
    """Monte Carlo dropout: Gal & Ghahramani 2016."""
    net = vgg("3-P-4-F4", threshold=0.2, dropout=0.5).eval()
    for layer in net.layers.values():
        if layer.dropout is not None:
            layer.dropout.train()
    x = images(constant=False, batch=2)
    torch.manual_seed(4)
    with torch.no_grad():
        found = net(x).tally
        torch.manual_seed(4)
        oracle = Oracle(net, x, 3)
        assert [row.tolist() for row in found.synops] == list(oracle.synops.values())
        assert not torch.equal(found.synops, vgg("3-P-4-F4", threshold=0.2, dropout=0.5).eval()(x).tally.synops)


def test_the_meta_device_refuses_a_forward_and_comes_back_whole():
    expected = vgg().eval()(images()).tally
    with torch.device("meta"):
        built = vgg()
    moved = vgg().to("meta")
    for net in (built, moved):
        with pytest.raises(ValueError, match="on the meta device, where there are no values"):
            net(images().to("meta"))
        back = net.to_empty(device="cpu").eval()
        back.load_state_dict(vgg().state_dict())
        assert torch.equal(back(images()).tally.synops, expected.synops)


@pytest.mark.filterwarnings("ignore")  # torch's farewell to it
def test_dynamic_quantisation_is_refused_in_one_sentence():
    net = torch.ao.quantization.quantize_dynamic(vgg().float().eval(), {nn.Linear}, dtype=torch.qint8)
    with (
        torch.no_grad(),
        pytest.raises(ValueError, match=r"are a Linear: only torch\.nn\.Conv2d and torch\.nn\.Linear"),
    ):
        net(images().float())


@pytest.mark.slow
def test_a_pickled_module_runs_in_a_process_of_its_own():
    module = SpikingClassifier(vgg().float())
    Path("module.pickle").write_bytes(pickle.dumps(module))
    code = (
        "import pickle, torch; module = pickle.load(open('module.pickle', 'rb')).eval();"
        "print(int(module(torch.ones(2, 3, 8, 8)).tally.synops.sum()))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert int(said) == int(module.eval()(torch.ones(2, 3, 8, 8)).tally.synops.sum())


# Lightning's ways


def classifier(**settings):
    torch.manual_seed(0)
    net = SpikingVGG("4-P-F6", input_shape=(3, 8, 8), num_classes=3, timesteps=2)
    return SpikingClassifier(net, **settings)


def trainer(epochs=1, folder=None):
    kept = [ModelCheckpoint(dirpath=folder, save_last=True)] if folder else []
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    return Trainer(max_epochs=epochs, accelerator="cpu", callbacks=kept, enable_checkpointing=bool(kept), **quiet)


@pytest.fixture
def data(tiny_npz):
    return lambda: CIFAR10DataModule(source="npz", data_dir=str(tiny_npz), batch_size=8, timesteps=2)


def spikes_by_hand(module, data):
    """Spikes per image over the test images, from the tallies."""
    data.setup("test")
    loader, spikes, number = data.test_dataloader(), 0, 0
    module.eval()
    with torch.no_grad():
        for batch in loader:
            batch = data.on_after_batch_transfer(batch, 0)
            spikes += int(module(batch.images).tally.spikes.sum())
            number += len(batch.labels)
    return spikes / number


class Own(SpikingClassifier):
    """As Lightning's users write one."""

    def __init__(self, net, extra=3, **settings):
        super().__init__(net, **settings)
        self.save_hyperparameters(ignore=["net"])


@pytest.mark.slow
@LIGHTNINGS_ADVICE
def test_a_module_that_was_fitted_tested_fitted_and_tested_counts_right_and_can_be_copied(data):
    module, first = classifier(), trainer(1)
    first.fit(module, datamodule=data())
    measured = [first.test(module, datamodule=data(), verbose=False)]
    first.fit_loop.max_epochs = 2
    first.fit(module, datamodule=data())
    measured += [first.test(module, datamodule=data(), verbose=False)]
    second = trainer(1)
    second.fit(module, datamodule=data())
    [last] = second.test(module, datamodule=data(), verbose=False)
    assert last["efficiency/spikes_per_image/test"] == pytest.approx(spikes_by_hand(module, data()))
    assert first.current_epoch == 2
    x = torch.rand(2, 3, 8, 8)
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module)), saved_whole(module)):
        assert torch.equal(twin.eval()(x).tally.synops, module.eval()(x).tally.synops)


@LIGHTNINGS_ADVICE
def test_load_from_checkpoint_of_a_trainers_own_with_hyperparameters(data):
    module = Own(classifier().net, extra=5, energy=EnergyConstants(0.5, 2.0))
    trainer(1, "kept").fit(module, datamodule=data())
    loaded = Own.load_from_checkpoint("kept/last.ckpt", net=classifier().net)
    assert loaded.hparams == {"extra": 5, "energy": EnergyConstants(0.5, 2.0)}
    assert loaded.energy == EnergyConstants(0.5, 2.0)
    assert all(torch.equal(each, module.state_dict()[name]) for name, each in loaded.state_dict().items())
    [row] = trainer().test(loaded, datamodule=data(), ckpt_path="kept/last.ckpt", verbose=False)
    assert row["efficiency/spikes_per_image/test"] == pytest.approx(spikes_by_hand(loaded, data()))


@pytest.mark.slow
@LIGHTNINGS_ADVICE
def test_load_from_checkpoint_of_a_run_of_the_command_line_needs_no_network(tiny_args):
    short = ["--trainer.max_epochs=1", "--sparsity.end_epoch=1", "--model.scheduler.warmup_epochs=0"]
    assert main(["fit", *tiny_args, *short, "--model.label_smoothing=0.25"]) == 0
    [path] = Path("runs").rglob("last.ckpt")
    expected, _ = load_run(path.parents[1], "last")
    loaded = SpikingClassifier.load_from_checkpoint(path)
    assert loaded.label_smoothing == 0.25
    assert SpikingClassifier.load_from_checkpoint(path, label_smoothing=0.5).label_smoothing == 0.5
    x = torch.rand(3, 2, 3, 8, 8)
    assert torch.equal(loaded.eval()(x).tally.synops, expected(x).tally.synops)


@pytest.mark.slow
@LIGHTNINGS_ADVICE
def test_tuner_sets_the_rate_and_leaves_the_rest_as_it_was(data):
    module, plain = classifier(), classifier()
    fitted = trainer(1)
    found = Tuner(fitted).lr_find(module, datamodule=data(), num_training=4, early_stop_threshold=None)
    assert len(found.results["lr"]) == 4
    assert all(torch.equal(each, plain.state_dict()[name]) for name, each in module.state_dict().items())
    module.learning_rate = 0.0123
    plain.optimizer = lambda parameters: torch.optim.AdamW(parameters, lr=0.0123)
    fitted.fit(module, datamodule=data())
    trainer(1).fit(plain, datamodule=data())
    assert fitted.optimizers[0].param_groups[0]["lr"] == 0.0123
    assert all(torch.equal(each, plain.state_dict()[name]) for name, each in module.state_dict().items())


@pytest.mark.slow
@LIGHTNINGS_ADVICE
def test_tuner_scales_the_batch(data):
    module, plain, ours = classifier(), classifier(), data()
    fitted = trainer(1)
    assert Tuner(fitted).scale_batch_size(module, datamodule=ours, init_val=4, max_trials=2, steps_per_trial=1) == 8
    assert ours.batch_size == 8
    fitted.fit(module, datamodule=ours)
    trainer(1).fit(plain, datamodule=data())
    assert all(torch.equal(each, plain.state_dict()[name]) for name, each in module.state_dict().items())


@LIGHTNINGS_ADVICE
def test_a_state_that_a_hook_translates_is_loaded(data):
    """Lightning would take it; so names are compared only where nothing translates them."""
    module = classifier()
    trainer(1, "kept").fit(module, datamodule=data())
    old = torch.load("kept/last.ckpt")
    old["state_dict"] = {name.replace("net.", "old."): value for name, value in old["state_dict"].items()}
    torch.save(old, "kept/old.ckpt")

    def translate(module, state_dict, prefix, *rest):
        for name in list(state_dict):
            state_dict[name.replace("old.", "net.")] = state_dict.pop(name)

    loaded = classifier()
    loaded.register_load_state_dict_pre_hook(translate)
    trainer().test(loaded, datamodule=data(), ckpt_path="kept/old.ckpt", verbose=False)
    assert all(torch.equal(each, module.state_dict()[name]) for name, each in loaded.state_dict().items())
