"""Data sources: what they load, and what they say when they cannot."""

import contextlib
import gc
import hashlib
import io
import os
import pickle
import shutil
import tarfile
import warnings
from importlib import resources
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from refusals import refused_with
from spikesparse import CIFAR10DataModule
from spikesparse.commands.flags import with_flags
from spikesparse.data.sources import load_source
from spikesparse.errors import UserError

RNG = np.random.default_rng(0)
ARRAYS = {
    "x_train": RNG.integers(0, 256, (6, 4, 5, 3), dtype=np.uint8),
    "y_train": np.array([0, 1, 2, 0, 1, 2]),
    "x_test": RNG.integers(0, 256, (3, 4, 5, 3), dtype=np.uint8),
    "y_test": np.array([2, 0, 1]),
}


def refused(source, data_dir, *words):
    with pytest.raises(UserError) as error:
        load_source(source, data_dir)
    for word in words:
        assert str(word) in with_flags(error.value)


def channels_last(images):
    return images.permute(0, 2, 3, 1).numpy()


# npz


@pytest.fixture
def npz(tmp_path):
    """Writes the good arrays, with changes (None leaves one out), and returns the file."""

    def write(save=np.savez, **changes):
        path = tmp_path / "data.npz"
        save(path, **{name: array for name, array in (ARRAYS | changes).items() if array is not None})
        return path

    return write


def test_npz_gives_its_own_arrays(npz):
    dataset = load_source("npz", npz())
    assert dataset.train.images.shape == (6, 3, 4, 5)
    for split, part in (("train", dataset.train), ("test", dataset.test)):
        assert part.images.dtype == torch.uint8
        np.testing.assert_array_equal(channels_last(part.images), ARRAYS[f"x_{split}"])
        assert part.labels.tolist() == ARRAYS[f"y_{split}"].tolist()
    assert dataset.classes == ["0", "1", "2"]


def test_npz_gives_its_class_names(npz):
    assert load_source("npz", npz(classes=np.array(["ant", "bee", "cat"]))).classes == ["ant", "bee", "cat"]


@pytest.mark.parametrize("last_axis", [(), (1,)])
def test_npz_grey_images_are_repeated_to_three_channels(npz, last_axis):
    grey = {name: ARRAYS[name][..., 0].reshape(-1, 4, 5, *last_axis) for name in ("x_train", "x_test")}
    images = load_source("npz", npz(**grey)).train.images
    assert images.shape == (6, 3, 4, 5)
    for channel in range(3):
        np.testing.assert_array_equal(images[:, channel].numpy(), ARRAYS["x_train"][..., 0])


def test_npz_that_is_missing_names_the_flag_and_how_to_make_one(tmp_path):
    path = tmp_path / "none.npz"
    refused("npz", path, f"--data.data_dir={path}", "no such file", "spikesparse convert")


def truncate(path, kept):
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # numpy.load's own, of a file that is no whole zip
@pytest.mark.parametrize("kept", [0.0, 0.5, 0.99])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_that_is_truncated_is_refused(npz, save, kept):
    path = npz(save)
    truncate(path, kept)
    refused("npz", path, f"--data.data_dir={path}", "not a whole .npz file", "again")
    gc.collect()


def test_npz_that_is_truncated_is_closed(npz):
    path = npz()
    truncate(path, 0.5)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        refused("npz", path, "not a whole .npz file")
        gc.collect()
    assert not [warning for warning in caught if issubclass(warning.category, ResourceWarning)]


def test_npz_with_a_changed_byte_is_refused(npz):
    path = npz()
    raw = path.read_bytes()
    path.write_bytes(raw.replace(ARRAYS["x_train"].tobytes(), (255 - ARRAYS["x_train"]).tobytes()))
    assert path.read_bytes() != raw
    refused("npz", path, f"--data.data_dir={path}", "not a whole .npz file")


def test_compressed_npz_with_changed_bytes_is_refused(npz):
    path = npz(np.savez_compressed)
    raw = bytearray(path.read_bytes())
    raw[60:160] = bytes(255 - byte for byte in raw[60:160])  # inside the first array's compressed bytes
    path.write_bytes(raw)
    refused("npz", path, f"--data.data_dir={path}", "not a whole .npz file")


def test_single_npy_array_is_refused(tmp_path):
    path = tmp_path / "images.npy"
    np.save(path, ARRAYS["x_train"])
    refused("npz", path, f"--data.data_dir={path}", ".npz")


@pytest.mark.parametrize("name", list(ARRAYS))
def test_npz_without_an_array_names_it(npz, name):
    refused("npz", npz(**{name: None}), "--data.data_dir=", f"no array {name};", "are needed")


class Payload:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


def test_npz_with_a_pickle_is_refused_and_not_run(npz, tmp_path):
    trace = tmp_path / "it_ran"
    path = npz(y_train=np.array([Payload(trace)] * 6, dtype=object))
    refused("npz", path, f"--data.data_dir={path}", "pickle")
    assert not trace.exists()
    with np.load(path, allow_pickle=True) as harmful, contextlib.suppress(FileExistsError):  # six of them
        _ = harmful["y_train"]
    assert trace.exists()  # so it would have run


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"x_train": ARRAYS["x_train"] / 255.0}, ["train set", "float64", "uint8", "convert"]),
        ({"x_test": ARRAYS["x_test"].astype(np.int16)}, ["test set", "int16", "uint8", "convert"]),
        ({"x_train": ARRAYS["x_train"][..., :2]}, ["train set", "(6, 4, 5, 2)", "(N, H, W, 3)"]),
        ({"x_train": ARRAYS["x_train"][0, 0]}, ["train set", "(5, 3)", "(N, H, W, 3)"]),
        ({"x_test": ARRAYS["x_test"][:0], "y_test": ARRAYS["y_test"][:0]}, ["test set", "(0, 4, 5, 3)"]),
        ({"y_train": np.array([0.0, 1, 2, 0, 1, 2])}, ["train set", "labels", "float64", "integers"]),
        ({"y_train": np.eye(3, dtype=int)[[0, 1, 2, 0, 1, 2]]}, ["train set", "labels", "(6, 3)", "integers (N,)"]),
        (
            {"y_train": np.array([0, 1, 2, 0, 1, 2**64 - 1], np.uint64)},
            ["train set", "a label is 18446744073709551615, above 9223372036854775807"],
        ),
        ({"y_train": ARRAYS["y_train"][:5]}, ["train set", "6 images but 5 labels"]),
        ({"y_test": np.array([0, 1, 3])}, ["test labels", "0 to 3", "3 classes", "0..2"]),
        ({"y_train": np.array([0, 1, 2, 0, 1, -1])}, ["training labels", "-1 to 2", "0..2"]),
        ({"classes": np.array(["ant", "bee"])}, ["training labels", "0 to 2", "2 classes", "0..1"]),
        ({"y_train": np.array([0, 0, 2, 0, 2, 2])}, ["no training image of class 1", "add some"]),
        ({"classes": np.array(["ant", "bee", "cat", "dog"])}, ["no training image of class dog", "add some"]),
        ({"x_test": ARRAYS["x_test"][:, :, :4]}, ["test images 4x4", "one size"]),
    ],
)
def test_npz_that_does_not_fit_is_refused(npz, changes, words):
    path = npz(**changes)
    refused("npz", path, f"--data.data_dir={path}", *words)


# folder


def draw(path, value, size=(5, 4)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, value).save(path)


@pytest.fixture
def folder(tmp_path):
    """Three classes, made out of name order, one image of each in the test split; the colour tells images apart."""
    for label, name in ((2, "eel"), (0, "ant"), (1, "bee")):
        draw(tmp_path / f"train/{name}/b.png", (label, 1, 7))
        draw(tmp_path / f"train/{name}/a.PNG", (label, 0, 7))
        draw(tmp_path / f"train/{name}/c.jpg", (100 + label,) * 3)
        draw(tmp_path / f"test/{name}/x.png", (label, 9, 7))
    (tmp_path / "train/bee/notes.txt").write_text("not an image")
    return tmp_path


def test_folder_labels_follow_the_classes_names(folder):
    dataset = load_source("folder", folder)
    assert dataset.classes == ["ant", "bee", "eel"]
    assert dataset.train.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert dataset.test.labels.tolist() == [0, 1, 2]


def test_folder_pixels_are_those_of_the_files_in_name_order(folder):
    dataset = load_source("folder", folder)
    images = dataset.train.images.view(3, 3, 3, 4, 5)  # (class, file, channel, height, width)
    for label in range(3):
        for file in range(2):
            colour = images[label, file].flatten(1)
            assert colour.unique(dim=1).flatten().tolist() == [label, file, 7]
        assert images[label, 2].float().mean().item() == pytest.approx(100 + label, abs=1)  # JPEG is lossy
    assert dataset.test.images[:, :2, 0, 0].tolist() == [[0, 9], [1, 9], [2, 9]]


def test_folder_grey_png_is_repeated_to_three_channels(folder):
    Image.new("L", (5, 4), 42).save(folder / "test/ant/x.png")
    assert (load_source("folder", folder).test.images[0] == 42).all()


def test_folder_png_of_16_bits_is_refused(folder):
    ramp = np.arange(20, dtype=np.uint16).reshape(4, 5) * 257 * 10
    Image.fromarray(ramp).save(folder / "test/ant/x.png")
    refused("folder", folder, "x.png", "8 bits")


@pytest.mark.parametrize("split", ["train", "test"])
def test_folder_image_of_another_size_is_named(folder, split):
    odd = folder / split / "bee/x.png"
    draw(odd, 0, size=(6, 4))
    refused("folder", folder, f"--data.data_dir={folder}", odd, "6x4", "5x4", "resize")


def test_folder_test_images_of_another_size_are_refused_width_by_height(folder):
    for image in (folder / "test").rglob("*.png"):
        draw(image, 0, size=(6, 4))
    refused("folder", folder, f"--data.data_dir={folder}", "images are 5x4, test images 6x4", "one size")


def test_folder_without_a_train_folder_says_where_images_go(tmp_path):
    refused("folder", tmp_path, f"--data.data_dir={tmp_path}", tmp_path / "train", "{train,test}/<class>/")


def test_folder_without_a_test_folder_says_where_images_go(tmp_path):
    draw(tmp_path / "train/ant/a.png", 0)
    refused("folder", tmp_path, f"--data.data_dir={tmp_path}", tmp_path / "test", "{train,test}/<class>/")


def test_folder_without_class_folders_is_refused(tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "test").mkdir()
    refused("folder", tmp_path, f"--data.data_dir={tmp_path}", "no class folder", "train/<class>/")


def test_folder_with_an_empty_class_names_it(folder):
    (folder / "train/cow").mkdir()
    refused("folder", folder, f"--data.data_dir={folder}", folder / "train/cow", "add PNG or JPEG", "remove")


def test_folder_with_an_unknown_test_class_names_it(folder):
    draw(folder / "test/yak/x.png", 0)
    refused("folder", folder, f"--data.data_dir={folder}", "yak", folder / "train")


def test_folder_without_test_images_is_refused(folder):
    for image in (folder / "test").rglob("*.png"):
        image.unlink()
    refused("folder", folder, f"--data.data_dir={folder}", "no image in", folder / "test")


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda raw: raw[: len(raw) // 2], id="truncated"),
        pytest.param(lambda raw: b"", id="empty"),
        pytest.param(lambda raw: b"<html>404</html>", id="html"),
        pytest.param(lambda raw: raw.replace(b"IDAT", b"IDAR"), id="unknown_chunk"),
        pytest.param(
            lambda raw: raw[:11] + b"\x0c" + raw[12:],  # the header chunk a byte shorter than it must be
            id="short_header",
        ),
    ],
)
def test_folder_png_that_is_damaged_is_named(folder, damage):
    path = folder / "train/bee/b.png"
    path.write_bytes(damage(path.read_bytes()))
    refused("folder", folder, path, "not a readable image", "replace or remove")


def test_folder_leaves_out_what_is_hidden(folder):
    plain = load_source("folder", folder)
    for split in ("train", "test"):
        draw(folder / split / ".ipynb_checkpoints/copy.png", 0)
        draw(folder / split / "__MACOSX/copy.png", 0)
        draw(folder / split / "ant/.ipynb_checkpoints/b-checkpoint.png", 0)
        draw(folder / split / "ant/@eaDir/b.png/thumb.png", 0, size=(9, 9))
        for name in ("._b.png", ".DS_Store", "Thumbs.db"):
            (folder / split / "ant" / name).write_bytes(b"\0\5\x16\7")
    found = load_source("folder", folder)
    assert found.classes == plain.classes == ["ant", "bee", "eel"]
    for split in ("train", "test"):
        assert getattr(found, split).images.equal(getattr(plain, split).images)
        assert getattr(found, split).labels.equal(getattr(plain, split).labels)


def test_a_folder_that_is_itself_hidden_is_read(folder):
    plain = load_source("folder", folder)
    hidden = folder / ".cache/mine"
    for split in ("train", "test"):
        shutil.copytree(folder / split, hidden / split)
    assert load_source("folder", hidden).train.images.equal(plain.train.images)
    data = CIFAR10DataModule(source="folder", data_dir=str(folder), predict_on=str(hidden / "test"))
    assert [path.name for path in data.predicted_folder[1]] == ["x.png"] * 3


@pytest.mark.parametrize("suffix", ["png", "jpg"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_as_the_camera_noted(folder, suffix, orientation):
    """EXIF 2.3's table: on which side of the upright image the file's first row and first column lie."""
    rows, columns = {
        1: ("top", "left"),
        2: ("top", "right"),
        3: ("bottom", "right"),
        4: ("bottom", "left"),
        5: ("left", "top"),
        6: ("right", "top"),
        7: ("right", "bottom"),
        8: ("left", "bottom"),
    }[orientation]
    upright = np.zeros((32, 40, 3), np.uint8)  # blocks of 8 pixels, which JPEG keeps
    upright[:8, :8], upright[:8, -8:], upright[-8:, :8] = 250, 150, 80
    stored = upright if rows in ("top", "bottom") else upright.transpose(1, 0, 2)  # its rows are the image's columns
    stored = stored[:: -1 if rows in ("bottom", "right") else 1, :: -1 if columns in ("bottom", "right") else 1]
    exif = Image.Exif()
    exif[0x0112] = orientation
    for split in ("train", "test"):
        shutil.rmtree(folder / split)
        for name in ("ant", "bee"):
            draw(folder / split / name / "upright.png", 0, size=(40, 32))
    turned = folder / f"test/ant/turned.{suffix}"
    Image.fromarray(np.ascontiguousarray(stored)).save(turned, exif=exif, quality=95)
    read = channels_last(load_source("folder", folder).test.images)[0]
    assert np.abs(read.astype(int) - upright).max() <= (0 if suffix == "png" else 6)


def test_exif_that_is_damaged_turns_nothing(folder):
    plain = load_source("folder", folder)
    for exif in (b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", b"Exif\0\0garbage", b"Exif\0\0II*\0\x08\0\0\0\1\0\x12\1\2\0"):
        path = folder / "test/ant/x.png"
        Image.new("RGB", (5, 4), (0, 9, 7)).save(path, exif=exif)
        assert load_source("folder", folder).test.images.equal(plain.test.images)


# one class


def test_one_class_is_nothing_to_train_on(npz):
    path = npz(y_train=np.zeros(6, int), y_test=np.zeros(3, int))
    data = CIFAR10DataModule(source="npz", data_dir=str(path))
    for refused_by in (data.check, lambda: data.setup("fit")):
        with refused_with(rf"--data.data_dir={path}: all images are of one class, 0;"):
            refused_by()
    data.setup("test")  # a network that was trained so can be looked at


# digits


def test_digits_are_the_1797_of_the_repository():
    dataset = load_source("digits", "ignored")
    assert (len(dataset.train), len(dataset.test)) == (1438, 359)
    assert dataset.classes == [str(digit) for digit in range(10)]
    for part in (dataset.train, dataset.test):
        assert part.images.shape[1:] == (3, 32, 32)
        assert part.images.dtype == torch.uint8
        assert sorted(set(part.labels.tolist())) == list(range(10))


def test_digits_are_enlarged_by_bilinear_interpolation():
    with resources.files("spikesparse.data").joinpath("digits.npz").open("rb") as file, np.load(file) as npz:
        small = npz["x_test"][7].tolist()
    large = load_source("digits", "ignored").test.images[7]

    def corners(place):  # of the small image, around a pixel of the large one, each with its weight
        centre = max((place + 0.5) / 4 - 0.5, 0.0)
        low = int(centre)
        return ((low, 1 - (centre - low)), (min(low + 1, 7), centre - low))

    for row in range(32):
        for column in range(32):
            grey = sum(small[y][x] * wy * wx for y, wy in corners(row) for x, wx in corners(column))
            assert large[:, row, column].tolist() == [round(grey * 255 / 16)] * 3


# torchvision


@pytest.fixture
def tiny_cifar(tmp_path, monkeypatch):
    """A CIFAR-10 of three images, unpacked in tmp_path/data, with right checksums and no network."""
    cls = torchvision.datasets.CIFAR10
    folder = tmp_path / "data" / cls.base_folder
    folder.mkdir(parents=True)
    pixels = RNG.integers(0, 256, (3, 3, 32, 32), dtype=np.uint8)

    def write(name, content):
        (folder / name).write_bytes(pickle.dumps(content))
        return hashlib.md5((folder / name).read_bytes()).hexdigest()

    train = write("data_batch_1", {"data": pixels[:2].reshape(2, -1), "labels": [1, 0]})
    test = write("test_batch", {"data": pixels[2:].reshape(1, -1), "labels": [1]})
    meta = write("batches.meta", {"label_names": ["airplane", "automobile"]})
    monkeypatch.setattr(cls, "train_list", [["data_batch_1", train]])
    monkeypatch.setattr(cls, "test_list", [["test_batch", test]])
    monkeypatch.setattr(cls, "meta", cls.meta | {"md5": meta})
    monkeypatch.setattr(cls, "url", (tmp_path / "nowhere.tar.gz").as_uri())
    return folder, pixels


def check_tiny_cifar(dataset, pixels):
    np.testing.assert_array_equal(dataset.train.images.numpy(), pixels[:2])
    np.testing.assert_array_equal(dataset.test.images.numpy(), pixels[2:])
    assert (dataset.train.labels.tolist(), dataset.test.labels.tolist()) == ([1, 0], [1])
    assert dataset.classes == ["airplane", "automobile"]


def test_cifar10_that_is_unpacked_loads_without_network(tiny_cifar):
    folder, pixels = tiny_cifar
    check_tiny_cifar(load_source("cifar10", folder.parent), pixels)


def test_cifar10_archive_that_is_there_is_unpacked(tiny_cifar, monkeypatch):
    folder, pixels = tiny_cifar
    cls = torchvision.datasets.CIFAR10
    archive = folder.parent / cls.filename
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, folder.name)
    shutil.rmtree(folder)
    monkeypatch.setattr(cls, "tgz_md5", hashlib.md5(archive.read_bytes()).hexdigest())
    check_tiny_cifar(load_source("cifar10", folder.parent), pixels)


def test_cifar10_download_with_a_wrong_checksum_is_refused(tmp_path, monkeypatch):
    class Response(io.BytesIO):
        length, url = 5, None

    monkeypatch.setattr("urllib.request.urlopen", lambda *args, **kwargs: Response(b"wrong"))
    folder = tmp_path / torchvision.datasets.CIFAR10.base_folder
    refused("cifar10", tmp_path, "--data.source=cifar10", "wrong checksum", f"Delete {folder}", "again")


def test_cifar10_that_is_damaged_says_wrong_checksum_and_how_to_mend_it(tiny_cifar):
    folder, _ = tiny_cifar
    raw = bytearray((folder / "data_batch_1").read_bytes())
    raw[200] ^= 1
    (folder / "data_batch_1").write_bytes(raw)
    cls = torchvision.datasets.CIFAR10
    words = ["--data.source=cifar10", "wrong checksum", "by hand", "unpack", cls.url, cls.tgz_md5, folder]
    refused("cifar10", folder.parent, *words)


@pytest.mark.parametrize(
    ("source", "url", "md5", "base"),
    [
        ("cifar10", "cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a", "cifar-10-batches-py"),
        ("cifar100", "cifar-100-python.tar.gz", "eb9058c3a382ffc7106e4002c42a8d85", "cifar-100-python"),
    ],
)
def test_cifar_without_network_names_address_checksum_folder_and_the_digits(
    tmp_path, monkeypatch, source, url, md5, base
):
    def no_network(*args, **kwargs):
        raise URLError("no route to host")

    monkeypatch.setattr("urllib.request.urlopen", no_network)
    words = [f"--data.source={source}", f"--data.data_dir={tmp_path}", f"https://www.cs.toronto.edu/~kriz/{url}", md5]
    refused(source, tmp_path, *words, tmp_path / base, "no route to host", "EXPERIMENT=digits")


def test_unknown_source_lists_those_there_are(tmp_path):
    refused("mnist", tmp_path, "--data.source='mnist'", "cifar10, cifar100, folder, npz, digits")
