"""run.json: which command made a run folder, and whether its training is over, by hand."""

import json
from pathlib import Path

import pytest

from spikesparse.runs.identity import RUN, is_of, kept_identity, write_identity
from spikesparse.settings.command_line import CommandLine

FOLDER = Path("runs/base/seed0")


def written():
    text = (FOLDER / RUN).read_text()
    assert text == json.dumps(json.loads(text), indent=2) + "\n"
    return json.loads(text)


def test_what_is_written_at_the_beginning_and_at_the_end():
    Path("mine.yaml").write_text("data: {flip: false}\n")
    line = CommandLine(["fit", "--config=mine.yaml", "--seed_everything=3", "--data.data_dir=there"])
    write_identity(FOLDER, line)
    begun = written()
    assert begun == {
        "configs": line.config_digest(),
        "data_dir": "there",
        "trained_as": "mine/seed3",
        "begun_from": None,
        "files": {},
        "finished": False,
        "command": list(line.words),
    }
    Path("mine.yaml").write_text("data: {flip: true}\n")  # edited while it trained
    write_identity(FOLDER, line, finished=True, seconds=12.345)
    assert written() == {**begun, "finished": True, "fit_seconds": 12.3}
    assert not is_of(kept_identity(FOLDER), line)
    write_identity(FOLDER, line)  # another run, which keeps nothing of the one before
    assert written() == {**begun, "configs": line.config_digest()}
    assert is_of(kept_identity(FOLDER), line)


@pytest.mark.parametrize(
    ("checkpoint", "begun_from"),
    [("elsewhere.ckpt", "elsewhere.ckpt"), ("runs/base/seed0/checkpoints/last.ckpt", None), ("last", None)],
)
def test_a_run_that_begins_from_a_file_of_no_run_says_so(checkpoint, begun_from):
    for folder in (FOLDER / "checkpoints", Path()):
        folder.mkdir(parents=True, exist_ok=True)
    (FOLDER / "config.yaml").touch()
    Path("elsewhere.ckpt").touch()
    (FOLDER / "checkpoints/last.ckpt").touch()
    line = CommandLine(["fit", f"--ckpt_path={checkpoint}"])
    write_identity(FOLDER, line)
    assert written()["begun_from"] == begun_from
    assert is_of(kept_identity(FOLDER), line)
    assert is_of(kept_identity(FOLDER), CommandLine(["fit"])) is (begun_from is None)


@pytest.mark.parametrize("text", ["[1, 2]", "3", "{", "\udcff", None])
def test_a_damaged_file_belongs_to_no_command(text):
    FOLDER.mkdir(parents=True)
    if text is not None:
        (FOLDER / RUN).write_bytes(text.encode("utf-8", "surrogateescape"))
    assert kept_identity(FOLDER) == {}
    assert not is_of(kept_identity(FOLDER), CommandLine(["fit"]))


def test_files_that_flags_name_are_compared_where_both_know_them():
    Path("net.yaml").write_text("a: 1\n")
    line = CommandLine(["fit", "--model.net=net.yaml"])
    write_identity(FOLDER, line)
    kept = kept_identity(FOLDER)
    assert list(kept["files"]) == ["--model.net=net.yaml"]
    assert is_of({**kept, "files": []}, line)  # of a version that wrote none, or damaged: it decides nothing
    assert is_of({**kept, "files": {}}, line)
    assert not is_of({**kept, "files": {"--model.net=net.yaml": "other"}}, line)
    Path("net.yaml").write_text("a: 2\n")
    assert not is_of(kept, line)
    Path("net.yaml").unlink()
    assert is_of(kept, line)
