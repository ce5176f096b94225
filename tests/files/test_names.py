"""Names that are no text, and an end of a command at which one part or another cannot be written."""

import csv
import io
import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pytorch_lightning.loggers import TensorBoardLogger

from refusals import refused_with
from spikesparse.commands import train
from spikesparse.commands.main import main
from spikesparse.data.sources import load_source
from spikesparse.files import closing
from spikesparse.files.names import printable
from spikesparse.files.whole_files import replace_file
from spikesparse.settings.command_line import CommandLine
from spikesparse.training import predict

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's advice on tiny runs is not what is tested here


def folder_of(args):
    return Path("runs") / CommandLine(["fit", *args]).run_name() / "seed0"


def rows_of(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def short(args):
    """The run, cut to one epoch."""
    few = ["--trainer.max_epochs=1", "--sparsity.end_epoch=0", "--model.scheduler.warmup_epochs=0"]
    return [*args, *few, "--trainer.limit_train_batches=1", "--dashboard.every_n_epochs=0"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (os.fsdecode(b"caf\xe9"), r"caf\xe9"),
        ("caf\ud800", r"caf\ud800"),
        ("two\nlines\r\t", r"two\nlines\r\t"),
        ("a\0b\x1b[2J\x9b", r"a\x00b\x1b[2J\x9b"),
        ("\u2028\u202egnp\u2066", r"\u2028\u202egnp\u2066"),
        ('comma, "quote" and \\', 'comma, "quote" and \\'),
        ("größe 大きさ ü \u200c\u00a0", "größe 大きさ ü \u200c\u00a0"),  # as people write them
    ],
)
def test_what_no_line_of_text_can_hold_is_written_out(name, text):
    assert printable(name) == text
    assert printable(text) == text


NAMES = ["caf\udce9", "two\nlines", "a, b\x1b[2J"]
WRITTEN = [r"caf\xe9", r"two\nlines", r"a, b\x1b[2J"]


@pytest.mark.parametrize("kind", ["folder", "npz", "bytes"])
def test_class_names_are_text_when_they_are_read(tmp_path, kind):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (3, 4, 5, 3), dtype=np.uint8)
    if kind == "folder":
        for split in ("train", "test"):
            for name, image in zip(NAMES, pixels, strict=True):
                (tmp_path / split / name).mkdir(parents=True)
                Image.fromarray(image).save(tmp_path / split / name / os.fsdecode(b"\xff.png"))
        assert load_source("folder", tmp_path).classes == [WRITTEN[2], WRITTEN[0], WRITTEN[1]]
        assert main(["convert", str(tmp_path), "out.npz"]) == 0
        assert load_source("npz", "out.npz").classes == [WRITTEN[2], WRITTEN[0], WRITTEN[1]]
        return
    names = np.array(NAMES) if kind == "npz" else np.array([name.encode("utf-8", "surrogateescape") for name in NAMES])
    arrays = {f"{what}_{split}": x for split in ("train", "test") for what, x in (("x", pixels), ("y", np.arange(3)))}
    np.savez("a.npz", **arrays, classes=names)
    assert load_source("npz", "a.npz").classes == WRITTEN


@pytest.mark.parametrize(
    ("names", "word"),
    [
        (np.array([0x110000, 97, 98], "<u4").view("<U1"), "no text"),
        (np.array([["a", "b", "c"]]), "shape"),
        (np.array(["a", "b", "c" * 2000]), "2,000 characters"),
    ],
)
def test_class_names_that_are_none_are_refused(names, word):
    pixels = np.zeros((3, 4, 5, 3), np.uint8)
    arrays = {f"{what}_{split}": x for split in ("train", "test") for what, x in (("x", pixels), ("y", np.arange(3)))}
    np.savez("a.npz", **arrays, classes=names)
    with refused_with(rf"--data\.data_dir=a\.npz: .*{word}"):
        load_source("npz", "a.npz")


@pytest.mark.slow
def test_names_that_are_no_text_lose_no_result(tiny_args, tiny_npz, monkeypatch, capsys):
    """Trained, predicted, reported: to an output that knows ASCII only."""
    arrays = dict(np.load(tiny_npz))
    np.savez(tiny_npz, **arrays, classes=np.array(NAMES))
    output = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", output)
    assert main(["train", *short(tiny_args)]) == 0
    folder = folder_of(short(tiny_args))
    assert json.loads((folder / "result.json").read_text())["accuracy"] >= 0
    rows = rows_of(folder / "predictions_test.csv")
    assert len(rows) == 12
    assert all(row["class"] == WRITTEN[int(row["predicted"])] for row in rows)
    mine = Path(os.fsdecode(b"mine\xe9"))
    mine.mkdir()
    for number, name in enumerate((b"\xe9.png", b"a\nb.png")):
        Image.fromarray(np.full((8, 8, 3), 90 * number, np.uint8)).save(mine / os.fsdecode(name))
    checkpoint = f"--ckpt_path={folder}/checkpoints/last.ckpt"
    assert main(["predict", checkpoint, f"--data.predict_on={mine}", "--predictions.path=out.csv"]) == 0
    assert [row["file"] for row in rows_of(Path("out.csv"))] == [r"mine\xe9/a\nb.png", r"mine\xe9/\xe9.png"]
    moved = Path(os.fsdecode(b"runs\xe9"))
    shutil.move("runs", moved)
    (result,) = moved.glob("*/seed0/result.json")
    result.write_text(json.dumps({**json.loads(result.read_text()), "command": ["train", "\ud800"]}))
    assert main(["report", str(result.parent), f"--out={moved}/report.html"]) == 0
    assert main(["test", f"--ckpt_path={result.parent}/checkpoints/last.ckpt"]) == 2
    assert r"runs\xe9/" in capsys.readouterr().err
    assert (moved / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    output.flush()
    assert b"report        runs\\udce9/report.html" in output.buffer.getvalue()


def test_a_file_of_text_is_utf_8_whatever_it_holds(tmp_path):
    replace_file(tmp_path / "a.txt", "λ \ud800")
    assert (tmp_path / "a.txt").read_bytes() == b"\xce\xbb \\ud800"


def broken(*args, **kwargs):
    raise OSError(5, "Input/output error")


PARTS = {"result.json", "bill.json", "bill.csv", "predictions_test.csv"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("failing", "status", "left"),
    [
        (["hparams", "logger", "predictions"], 0, PARTS - {"predictions_test.csv"}),
        (["result", "bill"], 2, {"predictions_test.csv"}),
    ],
)
def test_a_part_of_the_end_that_cannot_be_written_takes_no_other_along(
    tiny_args, monkeypatch, capsys, failing, status, left
):
    log = TensorBoardLogger.log_metrics

    def log_but_a_test(self, metrics, step=None):
        if "accuracy/test" in metrics:
            broken()
        log(self, metrics, step)

    for part in failing:
        where, name, what = {
            "result": (train, "save_result", broken),
            "bill": (train, "write_bill", broken),
            "predictions": (predict, "replace_file", broken),
            "hparams": (train, "write_hparams", broken),
            "logger": (TensorBoardLogger, "log_metrics", log_but_a_test),
        }[part]
        monkeypatch.setattr(where, name, what)
    args = short(tiny_args)
    assert main(["train", *args]) == status
    said = capsys.readouterr()
    warnings = [line for line in said.err.splitlines() if "Input/output error" in line or "cannot be written" in line]
    assert len(warnings) == len(failing)
    assert all(line.startswith("warning: ") for line in warnings)
    assert ("spikesparse: error: " in said.err) == bool(status)
    assert "test accuracy" in said.out  # the table, and
    assert "its twin" in said.out  # what is next
    assert left == PARTS & {path.name for path in folder_of(args).iterdir()}


def test_a_logger_that_fails_in_training_still_ends_it(tiny_args, monkeypatch):
    """There the run goes on by the same command; only behind it nothing does."""
    monkeypatch.setattr(TensorBoardLogger, "log_metrics", broken)
    with pytest.raises(OSError, match="Input/output error"):
        main(["fit", *short(tiny_args)])


def test_what_nobody_reads_is_no_part_that_failed(capsys):
    parts = closing.Closing()
    with parts.part("a", result=True):
        raise BrokenPipeError
    parts.end()
    with parts.part("b"), parts.part("c", result=True):
        raise ValueError("two\nlines")
    with refused_with(r"^c: not written"):
        parts.end()
    assert capsys.readouterr().err == "warning: c cannot be written: two lines\n"
