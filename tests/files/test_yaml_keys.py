"""A key that stands twice, or has no value, in each kind of YAML that is read: refused, with its lines."""

import os
from pathlib import Path

import pytest
import yaml

from refusals import refused_with
from spikesparse.commands.main import main
from spikesparse.commands.report.runs import read_run
from spikesparse.files.safe_yaml import load_yaml

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's advice on tiny runs is not what is tested here

TWICE = {
    "section": ("data:\n  flip: true\nmodel: {}\ndata:\n  cutout: 2\n", "data stands twice, in lines 1 and 4"),
    "key": ("data:\n  flip: true\n  cutout: 1\n\n  flip: false\n", "data.flip stands twice, in lines 2 and 5"),
    "quoted": ("a: 1\n'a': 2\n", "a stands twice, in lines 1 and 2"),
    "number": ("1: a\n0x1: b\n", "1 stands twice, in lines 1 and 2"),
    "alias": ("a: &x b\nb: 1\n*x : 2\n", "b stands twice, in lines 1 and 2"),
    "one_line": ("{a: 1, b: 2, a: 3}", "a stands twice, in line 1"),
    "in_a_list": ("a:\n- {b: 1}\n- b: 1\n  b: 2\n", "a.1.b stands twice, in lines 3 and 4"),
    "dotted": ("data.flip: true\ndata:\n  flip: false\n", "data.flip stands twice, in lines 1 and 3"),
    "tagged": ("!!str a: 1\na: 2\n", "a stands twice, in lines 1 and 2"),
}
EMPTY = {
    "section": ("model:\n", "model has no value, in line 1"),
    "before_another": ("model:\n  net:\n  loss: x\n", "model.net has no value, in line 2"),
    "one_line": ("{a: 1, b}", "b has no value, in line 1"),
    "dedented": ("data:\nflip: true\n", "data has no value, in line 1"),
}
FINE = [
    *("a: {b: 1}\nc: {b: 1}\n", "- {a: 1}\n- {a: 1}\n", "a: &x {b: 1, c: 2}\nd: {<<: *x, b: 3}\n", "a: null\nb: ~\n"),
    *("a: ''\n", "a: {}\nb: []\n", "1: a\n'1': b\n", "a.b: 1\na.c: 2\na: {d: 3}\n", "? a\n: 1\n", "", "a: !!str\n"),
]


@pytest.mark.parametrize("case", [*TWICE.values(), *EMPTY.values()], ids=str)
def test_text_is_refused_with_its_lines(case):
    text, said = case
    yaml.safe_load(text)  # YAML itself takes it
    with refused_with(rf"^x: {said}"):
        load_yaml(text, "x")


@pytest.mark.parametrize("text", FINE)
def test_what_loses_nothing_is_read(text):
    assert load_yaml(text, "x") == yaml.safe_load(text)


def refusal(args, capsys):
    assert main(args) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("spikesparse: error:")]
    return line


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--config=twice.yaml"], "--config=twice.yaml: data stands twice, in lines 1 and 3"),
        (["--config=empty.yaml"], "--config=empty.yaml: data has no value, in line 1"),
        (["--data=part.yaml"], "part.yaml: flip stands twice, in lines 1 and 3"),
        (["--config=names_part.yaml"], "part.yaml: flip stands twice, in lines 1 and 3"),
        (["--data={flip: true, cutout: 2, flip: false}"], "--data: flip stands twice, in line 1"),
    ],
)
def test_the_command_line_refuses_it_wherever_it_stands(flags, said, tiny_args, capsys):
    Path("twice.yaml").write_text("data:\n  flip: true\ndata:\n  cutout: 2\n")
    Path("empty.yaml").write_text("data:\nmodel:\n  loss: squared_error\n")
    Path("part.yaml").write_text("flip: true\ncutout: 2\nflip: false\n")
    Path("names_part.yaml").write_text("data: part.yaml\n")
    assert said in refusal(["fit", *tiny_args, *flags], capsys)
    assert not Path("runs").exists()


def test_search_spaces_and_runs_are_read_so_too(capsys):
    Path("space.yaml").write_text("search:\n  a: {low: 0, high: 1}\n  a: {low: 0, high: 2}\n")
    assert "search.a stands twice, in lines 2 and 3" in refusal(["pareto", "--space=space.yaml"], capsys)
    Path("run").mkdir()
    Path("run/config.yaml").write_text("model: {loss: a, loss: b}\n")
    assert any("model.loss stands twice" in sentence for sentence in read_run(Path("run")).missing)


@pytest.mark.slow
def test_an_empty_config_is_the_defaults(capsys):
    printed = []
    for text in (None, "", "# nothing but this\n---\n"):
        Path("none.yaml").write_text(text or "")
        with pytest.raises(SystemExit) as left:
            main(["fit", *([] if text is None else ["--config=none.yaml", "--data=none.yaml"]), "--print_config"])
        assert left.value.code == 0
        printed.append(capsys.readouterr().out)
    assert yaml.safe_load(printed[0])["data"]["batch_size"] == 128
    assert printed[0] == printed[1] == printed[2]


@pytest.mark.parametrize(
    ("args", "named"),
    [
        (["fit", "--config=pipe"], "--config=pipe: it is a pipe"),
        (["fit", "--config=/dev/null"], "--config=/dev/null: it is a device"),
        (["fit", "--model=pipe"], "pipe: it is a pipe"),
        (["test", "--ckpt_path=pipe"], "--ckpt_path=pipe: it is a pipe"),
        (["fit", "--data.source=digits", "--model.init_from=pipe"], "--model.init_from=pipe: it is a pipe"),
        (["fit", "--data.source=npz", "--data.data_dir=pipe"], "--data.data_dir=pipe: it is a pipe"),
        (["pareto", "--space=pipe"], "--space=pipe: it is a pipe"),
    ],
)
def test_a_pipe_or_device_is_refused_and_not_waited_for(args, named, capsys):
    os.mkfifo("pipe")
    end = os.open("pipe", os.O_RDWR)  # a reader would wait for what is never written, and never end
    try:
        assert named in refusal(args, capsys)
    finally:
        os.close(end)


def test_a_report_reads_no_pipe():
    Path("run").mkdir()
    os.mkfifo("run/config.yaml")
    assert any("config.yaml" in sentence and "it is a pipe" in sentence for sentence in read_run(Path("run")).missing)
