"""Strangers' files: no code runs, memory stays bounded, and one line says what is wrong."""

import random
import resource
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torchvision.datasets import CIFAR10

import hostile
from refusals import refused_with
from spikesparse.commands.main import main
from spikesparse.data import cifar
from spikesparse.data.sources import load_source
from spikesparse.errors import UserError
from spikesparse.files.checkpoint import read_checkpoint
from spikesparse.files.safe_yaml import MAX_DEPTH, load_yaml

pytestmark = pytest.mark.filterwarnings("ignore")
MOST_MB = 400  # that any of these files may take; every bomb here would take gigabytes at least


@pytest.fixture(autouse=True)
def _no_harm():
    """Nothing ran, and nothing took much memory."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert not Path(hostile.HARM).exists()
    assert not any(Path("..").glob("evil*"))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MOST_MB * 1024


def refused(args, capsys):
    """The one line with which a command ends."""
    assert main(args) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
    assert [line for line in lines if line.startswith("spikesparse: error: ")] == lines[-1:]
    assert "Traceback" not in lines[-1]
    return lines[-1]


def test_payloads_would_run_without_the_guards():
    import pickle

    pickle.loads(pickle.dumps(hostile.Payload()))
    assert Path(hostile.HARM).exists()
    Path(hostile.HARM).unlink()


@pytest.mark.parametrize("name", hostile.CHECKPOINTS)
def test_checkpoint_is_refused(name, capsys):
    Path("evil.ckpt").write_bytes(hostile.CHECKPOINTS[name]())
    line = refused(["test", "--ckpt_path=evil.ckpt"], capsys)
    assert "--ckpt_path=evil.ckpt: not a " in line
    for flag, named in (("--model.init_from", "--model.init_from=evil.ckpt"), (None, "evil.ckpt")):
        with refused_with(f"^{named}: not a "):
            read_checkpoint("evil.ckpt", flag)


def test_good_checkpoint_is_read_and_a_flipped_bit_changes_nothing_or_ends_in_one_line():
    raw = hostile.checkpoint_bytes(hostile.GOOD)
    Path("a.ckpt").write_bytes(raw)
    good = read_checkpoint("a.ckpt")
    assert torch.equal(good["state_dict"]["weight"], torch.arange(1000.0))
    draw, ended = random.Random(0), []
    for _ in range(150):
        Path("a.ckpt").write_bytes(
            hostile.flipped(raw, [draw.randrange(8 * len(raw)) for _ in range(draw.choice([1, 1, 5]))])
        )
        try:
            read = read_checkpoint("a.ckpt")
            assert str(read) == str(good)
            assert torch.equal(read["state_dict"]["weight"], good["state_dict"]["weight"])
            ended.append("read")  # the bit was between the entries
        except UserError:
            ended.append("refused")
    assert set(ended) == {"read", "refused"}


def test_a_checkpoint_with_a_damaged_weight_is_not_measured(capsys):
    raw = hostile.checkpoint_bytes(hostile.GOOD)
    at = raw.index(torch.arange(1000.0).numpy().tobytes())
    Path("a.ckpt").write_bytes(raw[: at + 400] + b"overwritten" + raw[at + 411 :])
    line = refused(["test", "--ckpt_path=a.ckpt"], capsys)
    assert "--ckpt_path=a.ckpt: not a whole checkpoint (its entry" in line


def test_every_type_of_tensor_that_torch_saves_is_read():
    kinds = (
        torch.float32,
        torch.float64,
        torch.float16,
        torch.bfloat16,
        torch.int64,
        torch.uint8,
        torch.bool,
        torch.complex64,
    )
    state = {str(kind): torch.ones(3, 4).to(kind) for kind in kinds}
    state |= {
        "view": torch.arange(12.0).reshape(3, 4).t()[1:],
        "expanded": torch.ones(1).expand(100),
        "scalar": torch.tensor(1),
    }
    state |= {
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "sparse": torch.eye(3).to_sparse(),
        "none": torch.empty(0, 3),
    }
    optimizer = torch.optim.AdamW([state["parameter"]])
    state["parameter"].sum().backward()
    optimizer.step()
    torch.save({"state_dict": state, "optimizer": optimizer.state_dict(), "rng": torch.get_rng_state()}, "a.ckpt")
    read = read_checkpoint("a.ckpt")
    for name, tensor in state.items():
        assert torch.equal(read["state_dict"][name].to_dense(), tensor.to_dense()), name


@pytest.mark.parametrize("name", hostile.NPZ)
def test_npz_is_refused(name, monkeypatch):
    if name == "zip_bomb":  # 25 MB in 24 KB: one of more than a gigabyte would take a while to make
        monkeypatch.setattr("spikesparse.data.limits.ALWAYS", 1 << 20)
    Path("evil.npz").write_bytes(hostile.NPZ[name]())
    with refused_with(r"--data\.data_dir=evil\.npz: ") as error:
        load_source("npz", "evil.npz")
    assert "\n" not in str(error.value)


def test_npz_with_a_flipped_bit_ends_in_images_or_one_line():
    raw, draw = hostile.npz(), random.Random(0)
    Path("a.npz").write_bytes(raw)
    assert len(load_source("npz", "a.npz").train) == 4
    for _ in range(300):
        Path("a.npz").write_bytes(
            hostile.flipped(raw, [draw.randrange(8 * len(raw)) for _ in range(draw.choice([1, 1, 5]))])
        )
        try:
            load_source("npz", "a.npz")
        except UserError as error:
            assert "\n" not in str(error)  # noqa: PT017


def test_npz_ends_a_command_in_one_line(capsys):
    Path("evil.npz").write_bytes(hostile.NPZ["shape_of_terabytes"]())
    line = refused(["fit", "--data.source=npz", "--data.data_dir=evil.npz", "--trainer.accelerator=cpu"], capsys)
    assert "declares" in line


def test_numpy_writes_what_is_read():
    rng = np.random.default_rng(0)
    images = np.asfortranarray(rng.integers(0, 256, (6, 5, 7, 3), dtype=np.uint8))
    for save in (np.savez, np.savez_compressed):
        for labels in (np.arange(6) % 2, np.arange(6, dtype=np.uint8) % 2, (np.arange(6) % 2).astype(">i2")):
            save(
                "a.npz",
                x_train=images,
                y_train=labels,
                x_test=images[:2],
                y_test=labels[:2],
                classes=np.array(["a", "é"]),
            )
            dataset = load_source("npz", "a.npz")
            assert np.array_equal(dataset.train.images.permute(0, 2, 3, 1).numpy(), images)
            assert (dataset.train.labels.tolist(), dataset.classes) == ([0, 1] * 3, ["a", "é"])


@pytest.mark.parametrize("name", hostile.CIFAR)
def test_cifar_file_is_refused(name):
    folder = Path(CIFAR10.base_folder)
    folder.mkdir()
    (folder / "evil").write_bytes(hostile.CIFAR[name]())
    with pytest.raises(ValueError, match=r"^evil: ") as error:
        cifar.read(CIFAR10, Path(), ["evil"])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("labels", ["labels", "fine_labels"])
def test_cifar_files_of_python_2_are_read(labels, protocol):
    folder = Path(CIFAR10.base_folder)
    folder.mkdir()
    raw, pixels = hostile.cifar_pickle(labels=labels, protocol=protocol)
    (folder / "batch").write_bytes(raw)
    images, found = cifar.read(CIFAR10, Path(), ["batch", "batch"])
    assert np.array_equal(images[4:], pixels.reshape(4, 3, 32, 32).transpose(0, 2, 3, 1))
    assert found.tolist() == [0, 1, 2, 3] * 2


def test_cifar_file_with_python_2_strings_is_read():
    # As Python 2 wrote them: text and pixels alike are byte strings (opcodes U and T), the array is of '|u1'.
    pixels = bytes(range(256)) * 12
    raw = (
        b"\x80\x02}q\x00(U\x04dataq\x01cnumpy.core.multiarray\n_reconstruct\nq\x02cnumpy\nndarray\nq\x03K\x00\x85U\x01b\x87R"
        b"(K\x01K\x01M\x00\x0c\x86cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
        b"T" + len(pixels).to_bytes(4, "little") + pixels + b"tbU\x06labels]K\x07aU\x09filenames]U\x05a.pngau."
    )
    Path("batch").write_bytes(raw)
    whole = cifar.load_pickle(Path("batch"))
    assert (whole["data"].tobytes(), whole["data"].shape) == (pixels, (1, 3072))
    assert (whole["labels"], whole["filenames"]) == ([7], ["a.png"])


@pytest.mark.parametrize("name", hostile.TARS)
def test_archive_cannot_leave_its_folder(name):
    Path("inside").mkdir()
    Path("evil.tar.gz").write_bytes(hostile.TARS[name]())
    with pytest.raises(RuntimeError, match=r"evil\.tar\.gz: "):
        cifar.unpack(Path("evil.tar.gz"), Path("inside"))
    assert not list(Path("inside").iterdir())
    assert not list(Path("/tmp").glob("evil-of-a-test"))


@pytest.mark.parametrize("name", hostile.IMAGES)
def test_image_is_refused(name):
    for split in ("train", "test"):
        Path(split, "a").mkdir(parents=True)
        Path(split, "a", "1.png").write_bytes(hostile.IMAGES[name]())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with refused_with(r"1\.png: (not a readable image|\d+x\d+ pixels)"):
            load_source("folder", ".")


def test_many_images_that_would_fill_memory_are_refused_before_any_is_decoded():
    bomb = hostile.png(4000, 4000, bytes(4000 * 12001))
    for split in ("train", "test"):
        Path(split, "a").mkdir(parents=True)
        for number in range(60):
            Path(split, "a", f"{number}.png").write_bytes(bomb)
    with refused_with(r"would become 2,880,000,000 in memory"):
        load_source("folder", ".")


@pytest.mark.parametrize("name", hostile.CONFIGS)
def test_config_is_refused(name, capsys, monkeypatch):
    Path("canary.py").write_text(hostile.CANARY)
    Path("evil.ckpt").write_bytes(hostile.CHECKPOINTS["payload"]())
    Path("evil.yaml").write_text(hostile.CONFIGS[name])
    monkeypatch.syspath_prepend(str(Path.cwd()))  # as under python -m, in a stranger's folder
    refused(["fit", "--config=evil.yaml", "--trainer.accelerator=cpu"], capsys)
    assert "canary" not in sys.modules


def test_report_and_search_read_no_bombs_either(capsys):
    Path("run/seed0").mkdir(parents=True)
    Path("run/seed0/config.yaml").write_text(hostile.CONFIGS["billion_laughs"])
    assert main(["report", "run/seed0", "--out=a.html"]) in (0, 2)
    Path("space.yaml").write_text("search: {sparsity.end_value: {low: 0.0, high: 1.0}, allow-import: {choices: [os]}}")
    line = refused(["pareto", "--space=space.yaml", "--data.source=digits"], capsys)
    assert "--allow-import stands on your own command line only" in line
    Path("space.yaml").write_text(hostile.CONFIGS["billion_laughs"])
    assert "aliases written out" in refused(["pareto", "--space=space.yaml"], capsys)


@pytest.mark.parametrize("depth", [MAX_DEPTH - 1, MAX_DEPTH + 1])
def test_depth_is_counted(depth):
    text = "[" * depth + "]" * depth
    if depth < MAX_DEPTH:
        assert load_yaml(text, "x") == yaml.safe_load(text)
    else:
        with refused_with("levels deep"):
            load_yaml(text, "x")


def test_aliases_and_merged_keys_are_read_as_yaml_has_them():
    text = "a: &a {x: 1, y: [1, 2]}\nb: {<<: *a, z: 3}\nc: [*a, *a]\n"
    assert load_yaml(text, "x") == yaml.safe_load(text)


BOUNDED = """
import resource, sys
sys.path.insert(0, {tests!r})
import hostile
from pathlib import Path
from spikesparse.data import limits
from spikesparse.files.checkpoint import read_checkpoint
from spikesparse.data.sources import load_source
from spikesparse.errors import UserError
from spikesparse.files.safe_yaml import load_yaml
limits.ALWAYS = 1 << 20
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 30), used + (1 << 30)))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for kind, read in ((hostile.CHECKPOINTS, read_checkpoint), (hostile.NPZ, lambda path: load_source("npz", path))):
    for name, make in kind.items():
        Path("evil").write_bytes(make())
        try:
            read("evil")
        except UserError:
            continue
        sys.exit(f"{{name}} was read")
for name, text in hostile.CONFIGS.items():
    try:
        load_yaml(text, name)
    except UserError:
        pass
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.slow
def test_corpus_is_read_in_a_process_of_bounded_memory():
    code = BOUNDED.format(tests=str(Path(__file__).parents[1]))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) < MOST_MB
