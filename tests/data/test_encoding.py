"""Encoders, and what the data module hands to the network."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from refusals import refused_with
from spikesparse import CIFAR10DataModule, DirectEncoder, PoissonEncoder
from spikesparse.commands.flags import with_flags
from spikesparse.data import Batch
from spikesparse.data.encoding import make_encoder
from spikesparse.data.philox import POISSON, uniform
from spikesparse.errors import UserError

INDEX = torch.tensor([4, 0, 9])
SIGNED = torch.rand((3, 2, 3, 2), generator=torch.Generator().manual_seed(0)) * 2 - 1
UNSIGNED = SIGNED.abs()


def images_for(signed):
    return SIGNED if signed else UNSIGNED


# encoders


def test_direct_encoder_hands_on_the_image_itself():
    assert DirectEncoder()(SIGNED, INDEX, timesteps=7, seed=1, epoch=2) is SIGNED


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("gain", [1.0, 1.7])
def test_poisson_equals_a_loop_over_the_draws(signed, gain):
    images = images_for(signed)
    spikes = PoissonEncoder(signed, gain)(images, INDEX, timesteps=5, seed=3, epoch=6)
    assert spikes.shape == (5, *images.shape)
    assert spikes.dtype == torch.float32
    for sample, index in enumerate(INDEX):
        draws = uniform(3, POISSON, 6, index[None], steps=5, count=12).view(5, 2, 3, 2)
        for place in np.ndindex(5, 2, 3, 2):
            x = images[sample][place[1:]].item()
            fires = draws[place].item() < abs(x) * gain
            assert spikes[place[0], sample][place[1:]] == (np.sign(x) if fires else 0)


@pytest.mark.parametrize("signed", [True, False])
def test_poisson_rate_is_the_pixels_magnitude(signed):
    images, steps = images_for(signed), 2000
    rate = PoissonEncoder(signed)(images, INDEX, steps, seed=0, epoch=0).mean(0)
    error = (images.abs() * (1 - images.abs()) / steps).sqrt()  # of a binomial rate
    assert ((rate - images).abs() <= 4 * error).all()


def test_poisson_gain_multiplies_the_rate_up_to_one():
    images = torch.tensor([0.0, 0.1, -0.2, 0.6, -1.0]).view(1, 5, 1, 1)
    rate = PoissonEncoder(gain=2.0)(images, INDEX[:1], 4000, seed=0, epoch=0).mean(0).flatten()
    assert rate[[0, 3, 4]].tolist() == [0, 1, -1]
    assert rate[1] == pytest.approx(0.2, abs=4 * (0.2 * 0.8 / 4000) ** 0.5)
    assert rate[2] == pytest.approx(-0.4, abs=4 * (0.4 * 0.6 / 4000) ** 0.5)


@pytest.mark.parametrize("order", [[2, 1, 0], [1], [0, 0, 2]], ids=["reversed", "alone", "repeated"])
def test_poisson_spikes_do_not_depend_on_the_rest_of_the_batch(order):
    encoder = PoissonEncoder()
    whole = encoder(SIGNED, INDEX, timesteps=6, seed=1, epoch=1)
    assert torch.equal(encoder(SIGNED[order], INDEX[order], timesteps=6, seed=1, epoch=1), whole[:, order])


def test_poisson_spikes_of_a_step_do_not_depend_on_the_number_of_steps():
    encoder = PoissonEncoder()
    long = encoder(SIGNED, INDEX, timesteps=6, seed=1, epoch=1)
    assert torch.equal(encoder(SIGNED, INDEX, timesteps=4, seed=1, epoch=1), long[:4])


@pytest.mark.parametrize("other", [{"seed": 2}, {"epoch": 2}, {"index": INDEX + 1}], ids=["seed", "epoch", "index"])
def test_poisson_spikes_depend_on_seed_epoch_and_index(other):
    key = {"index": INDEX, "seed": 1, "epoch": 1}
    spikes = [PoissonEncoder()(SIGNED, timesteps=6, **k) for k in (key, key | other)]
    assert not torch.equal(*spikes)


@pytest.mark.parametrize("gain", [0.0, -1.0, float("nan")])
def test_poisson_gain_must_be_above_zero(gain):
    with refused_with(rf"--data\.encoder\.gain={gain}: .*above 0"):
        PoissonEncoder(gain=gain)


@pytest.mark.parametrize(
    ("name", "cls", "normalization"),
    [
        ("direct", DirectEncoder, "standard"),
        ("poisson", PoissonEncoder, "signed_unit"),
        ("poisson_unsigned", PoissonEncoder, "unit"),
    ],
)
def test_encoder_by_name(name, cls, normalization):
    encoder = make_encoder(name)
    assert type(encoder) is cls
    assert encoder.normalization == normalization


def test_encoder_object_stays_itself():
    encoder = PoissonEncoder(gain=3.0)
    assert make_encoder(encoder) is encoder


def test_unknown_encoder_lists_those_there_are():
    with refused_with(r"--data\.encoder='rate': .*direct, poisson, poisson_unsigned"):
        make_encoder("rate")


# the data module


def write_npz(path, train=40, size=8, black_and_white=False):
    """Four classes; with ``black_and_white``, each channel has a pixel of 0 and one of 255."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(20, 200, (train, size, size, 3), dtype=np.uint8)
    pixels[..., 1] //= 3  # channels differ
    if black_and_white:
        pixels[:, 0, 0], pixels[:, 0, 1] = 0, 255
    np.savez(path, x_train=pixels, y_train=np.arange(train) % 4, x_test=pixels[:8] // 2, y_test=np.arange(8) % 4)
    return pixels


@pytest.fixture
def make_data(tmp_path):
    """A data module of 40 training images of 8x8 pixels, 4 of which validate."""
    path = tmp_path / "data.npz"
    write_npz(path)

    def make(**arguments):
        return CIFAR10DataModule(data_dir=str(path), source="npz", **{"batch_size": 16, "timesteps": 3} | arguments)

    return make


def everything(data):
    """All images of the source's training set as one batch of the loader's."""
    train = data.dataset.train
    return Batch(train.images, train.labels, torch.arange(len(train)))


def test_standard_normalisation_uses_the_training_split_alone(make_data, tmp_path):
    data = make_data(val_split=0.25)
    training, validation = (split.numpy() for split in data.split)
    pixels = write_npz(tmp_path / "same.npz").transpose(0, 3, 1, 2) / 255
    mean = pixels[training].mean((0, 2, 3), keepdims=True)
    std = pixels[training].std((0, 2, 3), keepdims=True)
    encoded = data.encode(everything(data)).images
    np.testing.assert_allclose(encoded.numpy(), (pixels - mean) / std, atol=1e-5)
    np.testing.assert_allclose(encoded[training].mean((0, 2, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(encoded[training].std((0, 2, 3), correction=0), 1, atol=1e-5)
    assert (encoded[validation].mean((0, 2, 3)).abs() > 1e-3).any()  # with the validation images it would be another


class SignedEncoder(DirectEncoder):
    normalization = "signed_unit"


def test_signed_unit_normalisation_has_zero_mean_and_fills_the_range(tmp_path):
    pixels = write_npz(tmp_path / "data.npz", black_and_white=True).transpose(0, 3, 1, 2) / 255
    data = CIFAR10DataModule(str(tmp_path / "data.npz"), "npz", encoder=SignedEncoder())
    mean = pixels[data.split[0].numpy()].mean((0, 2, 3), keepdims=True)
    encoded = data.encode(everything(data)).images
    np.testing.assert_allclose(encoded.numpy(), (pixels - mean) / np.maximum(mean, 1 - mean), atol=1e-5)
    np.testing.assert_allclose(encoded[data.split[0]].mean((0, 2, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(encoded.abs().amax((0, 2, 3)), 1, atol=1e-6)


class UnitEncoder(DirectEncoder):
    normalization = "unit"


@pytest.mark.parametrize("arguments", [{"normalize": False}, {"encoder": UnitEncoder()}])
def test_pixels_stay_in_zero_to_one(make_data, arguments):
    data = make_data(**arguments)
    expected = data.dataset.train.images.numpy() / 255
    np.testing.assert_allclose(data.encode(everything(data)).images.numpy(), expected, rtol=1e-6)


def test_poisson_spikes_of_the_data_module_have_the_normalised_pixels_signs(make_data):
    data = make_data(encoder="poisson", timesteps=50)
    spikes = data.encode(everything(data)).images
    standard = make_data().encode(everything(data)).images  # the same signs: both subtract the mean
    assert spikes.shape == (50, 40, 3, 8, 8)
    assert set(spikes.unique().tolist()) == {-1.0, 0.0, 1.0}
    assert ((spikes == 0) | (spikes == standard.sign())).all()


@pytest.mark.parametrize(("val_split", "count"), [(None, 4), (10, 10), (0.25, 10), (1, 1)])
def test_validation_split_by_number_or_fraction_or_ten_percent(make_data, val_split, count):
    training, validation = make_data(val_split=val_split).split
    assert (len(training), len(validation)) == (40 - count, count)


def test_fewer_training_images_are_a_stratified_part_of_the_training_split(make_data):
    whole, part = make_data(), make_data(train_images=12)
    assert torch.equal(part.split[1], whole.split[1])  # validation stays what it is
    assert len(part.split[0]) == 12
    assert set(part.split[0].tolist()) < set(whole.split[0].tolist())
    per_class = torch.bincount(part.dataset.train.labels[part.split[0]])
    assert per_class.max() - per_class.min() <= 1
    assert torch.equal(make_data(train_images=len(whole.split[0])).split[0], whole.split[0])
    with refused_with(r"--data\.train_images=99: "):
        _ = make_data(train_images=99).split


def test_validation_split_of_fifty_thousand_images_is_five_thousand(tmp_path):
    write_npz(tmp_path / "data.npz", train=50_000, size=1)
    training, validation = CIFAR10DataModule(str(tmp_path / "data.npz"), "npz").split
    assert (len(training), len(validation)) == (45_000, 5_000)


def test_split_hangs_on_seed_and_not_on_draw_seed(make_data):
    splits = [make_data(**key).split[1].tolist() for key in ({}, {"draw_seed": 5}, {"seed": 5})]
    assert splits[0] == splits[1] != splits[2]


def test_loaders_read_their_own_part_of_the_source(make_data):
    data = make_data()
    read = {
        name: sorted(torch.cat([batch.indices for batch in getattr(data, f"{name}_dataloader")()]).tolist())
        for name in ("train", "val", "test", "predict")
    }
    training, validation = (split.tolist() for split in data.split)
    assert read == {"train": training, "val": validation, "test": list(range(8)), "predict": validation}
    assert sorted(training + validation) == list(range(40))


def test_predict_on_test_reads_the_test_images(make_data):
    batches = list(make_data(predict_on="test").predict_dataloader())
    order = torch.cat([batch.indices for batch in batches]).argsort()
    assert torch.equal(torch.cat([batch.images for batch in batches])[order], make_data().dataset.test.images)


def test_arguments_of_bolts_are_there(make_data):
    data = make_data(
        val_split=7,
        num_workers=0,
        normalize=False,
        batch_size=9,
        seed=3,
        shuffle=False,
        pin_memory=False,
        drop_last=True,
    )
    assert [len(batch.labels) for batch in data.train_dataloader()] == [9, 9, 9]  # 33 images
    assert data.num_classes == 4
    assert data.dims == data.input_shape == (3, 8, 8)


@pytest.mark.parametrize(("source", "classes"), [("cifar10", 10), ("cifar100", 100)])
def test_shape_of_cifar_is_known_without_its_files(tmp_path, source, classes):
    data = CIFAR10DataModule(str(tmp_path), source)
    assert (data.num_classes, data.dims) == (classes, (3, 32, 32))
    assert not list(tmp_path.iterdir())


def for_the_network(data, training, epoch):
    """What Lightning's hook makes of all images in an epoch."""
    data.trainer = SimpleNamespace(training=training, current_epoch=epoch)
    return data.on_after_batch_transfer(everything(data), 0).images


@pytest.mark.parametrize("encoder", ["direct", "poisson"])
@pytest.mark.parametrize(
    ("training", "draw_seed", "epoch", "same"),
    [(False, 1, 0, True), (False, 0, 1, True), (True, 1, 0, False), (True, 0, 1, False), (True, 0, 0, True)],
)
def test_only_training_draws_by_draw_seed_and_epoch(make_data, encoder, training, draw_seed, epoch, same):
    first = for_the_network(make_data(encoder=encoder), training, 0)
    second = for_the_network(make_data(encoder=encoder, draw_seed=draw_seed), training, epoch)
    assert torch.equal(first, second) == same


def test_evaluation_does_not_augment(make_data):
    data = make_data(normalize=False)
    assert torch.equal(for_the_network(data, False, 3), data.dataset.train.images / 255)
    assert not torch.equal(for_the_network(data, True, 3), data.dataset.train.images / 255)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"timesteps": 0}, "--data.timesteps=0: it must be at least 1"),
        ({"batch_size": 0}, "--data.batch_size=0: it must be at least 1"),
        ({"crop_padding": -1}, "--data.crop_padding=-1: it must be at least 0"),
        ({"num_workers": -1}, "--data.num_workers=-1: it must be at least 0"),
        ({"encoder": "rate"}, "--data.encoder='rate'"),
        ({"source": "mnist"}, "--data.source='mnist'"),
    ],
)
def test_values_that_cannot_be_are_refused(arguments, words):
    with pytest.raises(UserError) as error:
        CIFAR10DataModule(**arguments)
    assert words in with_flags(error.value)


def test_batch_that_never_fills_is_refused(make_data):
    with refused_with(r"--data\.batch_size=64: 36 training images make no batch .*lower it"):
        make_data(batch_size=64, drop_last=True).train_dataloader()


# predict_on a folder


def draw(path, value, size=(8, 8)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, value).save(path)


def test_predict_on_a_folder_reads_its_images_in_name_order(make_data, tmp_path):
    for value, name in enumerate(("a.png", "b/c.png", "d.PNG")):
        draw(tmp_path / "mine" / name, (value, 50, 60))
    (tmp_path / "mine/notes.txt").write_text("not an image")
    data = make_data(predict_on=str(tmp_path / "mine"), batch_size=2)
    batches = list(data.predict_dataloader())
    assert [batch.indices.tolist() for batch in batches] == [[0, 1], [2]]
    images = torch.cat([batch.images for batch in batches])
    assert images.flatten(2).unique(dim=2).flatten(1).tolist() == [[0, 50, 60], [1, 50, 60], [2, 50, 60]]
    assert torch.cat([batch.labels for batch in batches]).tolist() == [-1, -1, -1]
    assert [path.name for path in data.predicted_folder[1]] == ["a.png", "c.png", "d.PNG"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("wrong_size", ["images are 9x8 pixels", "trained on 8x8", "Resize"]),
        ("two_sizes", ["b.png", "9x8", "8x8", "resize"]),
        ("empty", ["no PNG or JPEG image"]),
        ("nowhere", ["neither val nor test nor a folder of images"]),
        ("a_file.png", ["neither val nor test nor a folder of images"]),
    ],
)
def test_predict_on_what_cannot_be_read_is_refused(make_data, tmp_path, name, words):
    draw(tmp_path / "wrong_size/a.png", 0, (9, 8))
    draw(tmp_path / "two_sizes/a.png", 0)
    draw(tmp_path / "two_sizes/b.png", 0, (9, 8))
    draw(tmp_path / "a_file.png", 0)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError) as error:
        make_data(predict_on=str(tmp_path / name)).predict_dataloader()
    for word in [f"--data.predict_on={tmp_path / name}", *words]:
        assert word in with_flags(error.value)
