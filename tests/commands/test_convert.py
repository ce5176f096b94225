"""``spikesparse convert``."""

import numpy as np
import pytest
from PIL import Image

from refusals import refused_with
from spikesparse.commands import convert as module
from spikesparse.commands.convert import CIFAR10_CLASSES, main
from spikesparse.data.sources import load_source


def draw(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels, np.uint8)).save(path)


@pytest.fixture
def folder(tmp_path):
    """Two classes of random 4x5 images: 5 to train, 2 to test."""
    rng = np.random.default_rng(0)
    for split, name, count in (("train", "ant", 2), ("train", "bee", 3), ("test", "ant", 1), ("test", "bee", 1)):
        for number in range(count):
            draw(tmp_path / f"in/{split}/{name}/{number}.png", rng.integers(0, 256, (4, 5, 3)))
    return tmp_path / "in"


def solid_folder(path, classes, red):
    """One image of 2x2 pixels per class and split; all of one colour."""
    for split in ("train", "test"):
        for name in classes:
            draw(path / split / name / "0.png", np.full((2, 2, 3), (red, 0, 51)))
    return path


def test_npz_holds_the_files_pixels(folder, tmp_path):
    out = tmp_path / "new/out.npz"
    main([str(folder), str(out)])
    with np.load(out, allow_pickle=False) as npz:
        for split, labels in (("train", [0, 0, 1, 1, 1]), ("test", [0, 1])):
            files = [Image.open(path) for path in sorted((folder / split).rglob("*.png"))]
            np.testing.assert_array_equal(npz[f"x_{split}"], np.stack([np.asarray(file) for file in files]))
            assert npz[f"y_{split}"].tolist() == labels
        assert npz["classes"].tolist() == ["ant", "bee"]


def test_npz_loads_as_the_folder_does(folder, tmp_path):
    main([str(folder), str(tmp_path / "out.npz")])
    ours, theirs = load_source("npz", tmp_path / "out.npz"), load_source("folder", folder)
    assert ours.classes == theirs.classes
    for split in ("train", "test"):
        assert getattr(ours, split).images.equal(getattr(theirs, split).images)
        assert getattr(ours, split).labels.equal(getattr(theirs, split).labels)


def test_it_says_what_it_wrote(folder, tmp_path, capsys):
    main([str(folder), str(tmp_path / "out.npz")])
    said = capsys.readouterr().out
    assert "5 training and 2 test images of 5x4 pixels, 2 classes" in said
    assert f"--data.source=npz --data.data_dir={tmp_path / 'out.npz'}" in said
    assert "CIFAR" not in said


def test_channel_means_are_those_of_the_training_images(tmp_path, capsys):
    source = solid_folder(tmp_path / "in", ["ant"], red=255)
    draw(source / "train/ant/1.png", np.full((2, 2, 3), (0, 0, 51)))
    main([str(source), str(tmp_path / "out.npz")])
    assert "channel means: 0.50000000, 0.00000000, 0.20000000" in capsys.readouterr().out


def test_cifar10_class_names_with_other_means_give_a_warning(tmp_path, capsys):
    main([str(solid_folder(tmp_path / "in", CIFAR10_CLASSES, red=255)), str(tmp_path / "out.npz")])
    said = capsys.readouterr().out
    assert "WARNING: CIFAR-10's own means are (0.49139968, " in said
    assert "These are CIFAR-10's own means" not in said


@pytest.mark.parametrize(("off", "own"), [(0.0, True), (1e-6, False)])
def test_cifar10s_own_means_are_recognised(tmp_path, capsys, monkeypatch, off, own):
    monkeypatch.setattr(module, "CIFAR10_MEAN", (1.0, off, 0.2))
    main([str(solid_folder(tmp_path / "in", CIFAR10_CLASSES, red=255)), str(tmp_path / "out.npz")])
    said = capsys.readouterr().out
    assert ("These are CIFAR-10's own means" in said, "WARNING" in said) == (own, not own)


def test_another_suffix_is_refused(folder, tmp_path):
    with refused_with(r"out\.zip: the file to write must end in \.npz"):
        main([str(folder), str(tmp_path / "out.zip")])
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_folder_that_cannot_be_read_writes_nothing(folder, tmp_path):
    (folder / "train/bee/0.png").write_bytes(b"")
    with refused_with("not a readable image"):
        main([str(folder), str(tmp_path / "out.npz")])
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_full_disk_leaves_no_partial_file_and_the_old_npz(folder, tmp_path, monkeypatch):
    def full_disk(file, **arrays):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    out = tmp_path / "out.npz"
    out.write_bytes(b"old")
    monkeypatch.setattr(np, "savez", full_disk)
    with refused_with(r"out\.npz: cannot be written .*No space left"):
        main([str(folder), str(out)])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out.npz"]
    assert out.read_bytes() == b"old"


def test_place_that_cannot_be_written_leaves_no_partial_file(folder, tmp_path):
    (tmp_path / "out.npz").mkdir()
    with refused_with(r"out\.npz: cannot be written"):
        main([str(folder), str(tmp_path / "out.npz")])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out.npz"]
