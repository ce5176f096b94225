"""`spikesparse report` on run folders written by hand: its numbers, its choices, and that what it shows stays text."""

import json
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml
from torch.utils.tensorboard import SummaryWriter

from browser import Browser, available
from spikesparse.commands.main import main
from spikesparse.commands.report import png
from spikesparse.commands.report.command import report_page
from spikesparse.commands.report.compare import ABSENT, baseline_first, differences, labels
from spikesparse.commands.report.plots import BARS, CURVES, drawn, layers
from spikesparse.commands.report.png import write_pngs
from spikesparse.commands.report.results import results
from spikesparse.commands.report.runs import find_runs, read_run
from spikesparse.metrics.bill import DEFINITIONS
from spikesparse.settings.plain import flat

EPOCHS, MINUS = 4, "\N{MINUS SIGN}"
CHARTS = {curve.name for curve in CURVES} | {"layers_spikes", "layers_synops", "pareto"}


def write_run(folder, end=0.0, spikes=1000.0, accuracy=0.9, config=(), layer="conv1", command=("train",)):
    """A finished run of a network with two layers; energy 2 uJ for each 1000 spikes, 8 uJ without spikes."""
    folder.mkdir(parents=True)
    settings = {
        "seed_everything": 0,
        "trainer": {"max_epochs": EPOCHS, "logger": {"init_args": {"name": folder.parent.name}}},
        "sparsity": {"end_value": end},
        "model": {"optimizer": {"init_args": {"lr": 0.002, "betas": [0.9, 0.999]}}},
        **dict(config),
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    total = {
        **{"spikes_per_image": spikes, "spike_rate": spikes / 1e4, "synops_per_image": 50 * spikes},
        **{"energy_uj_per_image": spikes / 500, "ann_energy_uj_per_image": 8.0},
    }
    rows = {
        "input": {"spikes": 0, "spikes_per_image": 0.0},
        layer: {"spikes_per_image": 0.75 * spikes, "synops_per_image": 0.0},
        "classifier": {"synops_per_image": 50 * spikes},
        "total": total,
    }
    origin = {"hardware": "an abacus", "commit": "c0ffee", "command": list(command), "checkpoint": "best.ckpt"}
    result = {
        **{"split": "test", "accuracy": accuracy, "spikes": spikes, "rate": spikes / 1e4, "synops": 50 * spikes},
        **{"energy_uj": spikes / 500, "ann_energy_uj": 8.0, "epochs": EPOCHS, "fit_seconds": 12.5, **origin},
    }
    (folder / "result.json").write_text(json.dumps(result))
    bill = {**origin, "accuracy": accuracy, "images": 12, "definitions": DEFINITIONS, "rows": rows}
    (folder / "bill.json").write_text(json.dumps(bill))
    with SummaryWriter(str(folder)) as writer:
        for epoch in range(EPOCHS):
            step = 10 * (epoch + 1)
            writer.add_scalar("epoch", epoch, step)
            writer.add_scalar("schedule/lambda", end * epoch / (EPOCHS - 1), step)
            for split in ("train", "val"):
                writer.add_scalar(f"accuracy/{split}", accuracy - 0.1 / (epoch + 1), step)
                writer.add_scalar(f"loss/task/{split}", 1 / (epoch + 1), step)
                writer.add_scalar(f"loss/sparsity/{split}", spikes / 1e4, step)
                writer.add_scalar(f"efficiency/spikes_per_image/{split}", spikes + 100 * (EPOCHS - epoch), step)
                writer.add_scalar(f"efficiency/synops_per_image/{split}", 50 * spikes, step)
        writer.add_scalar("epoch", EPOCHS, 10 * EPOCHS)  # the test at the end repeats the last step
        writer.add_scalar("accuracy/test", accuracy, 10 * EPOCHS)
    return folder


@pytest.fixture
def twin_and_sparse():
    """The sparse run is named first: the baseline is found by lambda, not by place."""
    sparse = write_run(Path("runs/digits-b/seed0"), end=2.0, spikes=250.0, accuracy=0.88)
    return [sparse, write_run(Path("runs/digits-a/seed0"))]


def page_of(*folders):
    """The page of a report on these run folders."""
    return report_page(drawn([read_run(folder) for folder in folders]), "spikesparse report")


class Page(HTMLParser):
    """Collects the tags and, outside scripts and styles, the text of a page."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.text, self._inside = [], [], ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._inside = tag

    def handle_endtag(self, tag):
        self._inside = ""

    def handle_data(self, data):
        if self._inside not in ("script", "style") and data.strip():
            self.text.append(data.strip())


def test_report_is_one_small_file_beside_its_pngs_with_hand_values(twin_and_sparse, capsys):
    assert main(["report", *map(str, twin_and_sparse), "--out=made/report.html"]) == 0
    assert Path("made/report.html").stat().st_size < 3e6
    text = Page(Path("made/report.html").read_text(encoding="utf-8")).text
    assert text.index("digits-a (λ → 0)") < text.index("digits-b (λ → 2)")  # the baseline is in front
    table = text[text.index("Results") : text.index("Settings")]
    assert table[1:8] == [
        *("run", "test accuracy", "spikes/image", "rate [spikes/neuron/step]", "SynOps/image", "energy [µJ/image]"),
        "energy, share of the same network without spikes",
    ]
    assert table[8:16] == ["digits-a (λ → 0)", "baseline", "90.00 %", "1,000.0", "0.1000", "50,000", "2.00", "25.0 %"]
    assert table[16:28] == [
        *("digits-b (λ → 2)", "88.00 %", f"{MINUS}2.00 points", "250.0", f"{MINUS}75.0 %", "0.0250", f"{MINUS}75.0 %"),
        *("12,500", f"{MINUS}75.0 %", "0.500", f"{MINUS}75.0 %", "6.2 %"),
    ]
    for word in ("an abacus", "c0ffee", "12.5", "best.ckpt", "spikesparse train", *DEFINITIONS.values()):
        assert word in text
    assert any(piece.startswith("spikesparse report runs/digits-b/seed0 runs/digits-a/seed0 --out") for piece in text)
    assert f"is the quietest: 250.0 spikes per image, {MINUS}75.0 % against the baseline" in " ".join(text)
    printed = capsys.readouterr().out
    assert "made/report.html: 2 run(s)" in printed
    assert "made/report_png/: accuracy.png" in printed
    assert {path.stem for path in Path("made/report_png").glob("*.png")} == CHARTS
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in Path("made/report_png").iterdir())


def test_page_loads_nothing_and_shows_where_settings_differ(twin_and_sparse):
    html = page_of(*twin_and_sparse)
    page = Page(html)
    assert {tag for tag, _ in page.tags}.isdisjoint({"link", "img", "iframe", "object", "embed", "base", "form"})
    for _, attributes in page.tags:
        assert not {"src", "href", "srcset", "action", "data"} & set(attributes)
        assert not [name for name in attributes if name.startswith("on")]
    policy = next(a["content"] for tag, a in page.tags if tag == "meta" and "http-equiv" in a)
    assert policy.startswith("default-src 'none'")
    assert "unsafe-inline" not in policy.partition("script-src")[2]


# A folder's name cannot hold a slash: the other texts that end a script or a cell have one.
HOSTILE = "<script>alert(1)<img src=x onerror=alert(1)>&\"'$\\frac{_^"


def test_hostile_text_stays_text(monkeypatch):
    folder = write_run(
        Path("runs") / HOSTILE / "seed0",
        config={"</td><script>alert(2)</script>": {"a": "</script><b>bold</b>"}},
        layer="_</script><i>$\\nosuchmacro$ \ud800",
        command=("train", "</pre><script>alert(3)</script>"),
    )
    html = page_of(folder, write_run(Path("runs/_digits/seed0")))
    page = Page(html)
    assert not {tag for tag, _ in page.tags} & {"img", "i", "b"}
    assert len([tag for tag, _ in page.tags if tag == "script"]) == 4  # bokeh, its log level, the charts, the legend
    for word in ("<img src=x onerror=alert(1)>", "</script><b>bold</b>", "</pre><script>alert(3)</script>"):
        assert word in " ".join(page.text)
        assert word not in html
    monkeypatch.setattr(png, "CURVES", CURVES[:1])
    assert len(write_pngs(drawn([read_run(folder)]), Path("pngs"))) == 3


def test_one_run_is_set_against_base_yaml():
    html = page_of(write_run(Path("runs/digits/seed0"), end=2.0))
    differing = html[html.index("<h2>Settings") : html.index("<details>")]
    assert '<th scope="row">trainer.max_epochs</th><td>20</td><td>4</td>' in differing
    assert '<th scope="row">sparsity.end_value</th><td>0.0</td><td>2.0</td>' in differing
    assert "init_args.lr" not in differing  # it is base.yaml's
    assert not [piece for piece in Page(html).text if "baseline" in piece]
    assert "pareto" not in html  # one point would say nothing


def test_training_time_is_that_of_all_sittings_without_the_pause(tmp_path):
    """Two sittings: epochs that end 10 and 22 s after the first start, the first of which is cut off; a test; 5 s."""
    folder = write_run(tmp_path / "digits-a" / "seed0")
    for file in folder.glob("events*"):
        file.unlink()
    assert "12.5" in Page(page_of(folder)).text  # of result.json, where there is nothing better
    for sitting, moments in enumerate(
        [[("start", 1000), ("end", 1010), ("end", 1022), ("start", 1030)], [("start", 5000), ("end", 5005)]]
    ):
        with SummaryWriter(str(folder), filename_suffix=f".{sitting}") as writer:
            for step, (what, moment) in enumerate(moments):
                tag = {"start": "schedule/global_batch_size", "end": "accuracy/train"}[what]
                writer.add_scalar(tag, 0.5, 10 * sitting + step, walltime=moment)
            writer.add_scalar("accuracy/test", 0.5, 100, walltime=9000)
    run = read_run(folder)
    assert run.seconds == 27.0
    assert "27.0" in Page(page_of(folder)).text


def test_what_a_run_printed_or_went_on_from_is_no_difference():
    first = {"ckpt_path": None, "trainer.enable_progress_bar": None, "trainer.enable_model_summary": None}
    second = {"ckpt_path": "step.ckpt", "trainer.enable_progress_bar": False, "trainer.enable_model_summary": False}
    assert differences([first, second]) == {}


def test_flat_names_each_value_and_differences_tell_absent_from_null():
    assert flat({"a": {"b": [1, 2], "c": [{"d": 3}, {}]}, "e": {}}) == {
        "a.b": [1, 2],
        "a.c.0.d": 3,
        "a.c.1": {},
        "e": {},
    }
    assert differences([{"a": None, "b": 1}, {"b": 1}]) == {"a": ["null", ABSENT]}


def test_baseline_is_the_smallest_lambda_or_else_the_first():
    runs = [
        write_run(Path(f"runs/{name}/seed0"), end) for name, end in (("a", 1.0), ("b", 0.0), ("c", 0.0), ("d", 2.0))
    ]
    runs = [read_run(folder) for folder in runs]
    assert [run.name for run in baseline_first(runs)] == ["b/seed0", "a/seed0", "c/seed0", "d/seed0"]
    for run in runs:
        run.config.clear()
    assert baseline_first(runs) == runs


def test_labels_are_short_and_no_two_alike():
    folders = ["runs/a/seed0", "runs/a/seed1", "elsewhere/a/seed1", f"runs/{'long' * 30}/seed0"]
    runs = [read_run(write_run(Path(folder), end=0.5)) for folder in folders]
    assert labels(runs[:1]) == ["a (λ → 0.5)"]
    assert labels(runs[:2]) == ["a/seed0 (λ → 0.5)", "a/seed1 (λ → 0.5)"]
    assert labels(runs[1:3]) == ["a/seed1 #1 (λ → 0.5)", "a/seed1 #2 (λ → 0.5)"]
    assert len(labels(runs)[3]) < 80


def test_curves_are_by_epoch_whatever_the_test_at_the_end_logged(twin_and_sparse):
    run = read_run(twin_and_sparse[1])
    epochs, values = CURVES[1].points(run, "val")
    assert epochs == [1, 2, 3, 4]
    assert values == [1400, 1300, 1200, 1100]
    epochs, values = CURVES[0].points(run, "train")
    assert values == pytest.approx([80, 85, 90 - 10 / 3, 87.5], rel=1e-6)  # TensorBoard keeps 32 bits


def test_layers_without_any_count_are_left_out_unless_none_has_one(twin_and_sparse):
    spikes, synops = BARS
    assert layers(spikes, drawn([read_run(f) for f in twin_and_sparse])) == ["conv1"]
    assert layers(synops, drawn([read_run(f) for f in twin_and_sparse])) == ["classifier"]
    dead = read_run(write_run(Path("runs/dead/seed0"), spikes=0.0))
    assert layers(spikes, drawn([dead])) == ["conv1"]
    headings, rows = results(drawn([dead, read_run(twin_and_sparse[0])]))
    assert rows[1][headings.index("spikes/image")].change == ""  # nothing is a percentage of no spikes


def test_folder_above_seeds_stands_for_them_each_once():
    folders = [write_run(Path(f"runs/a/{name}")) for name in ("seed10", "seed2", "seed2-earlier1")]
    assert find_runs([Path("runs/a"), folders[0]]) == [folders[1], folders[0]]
    assert find_runs([folders[2]]) == [folders[2]]  # set aside, but named


def test_unfinished_run_is_reported_with_what_it_lacks(twin_and_sparse):
    unfinished = write_run(Path("runs/digits-c/seed0"), end=3.0)
    (unfinished / "bill.json").unlink()
    (unfinished / "result.json").unlink()
    html = page_of(*twin_and_sparse, unfinished)
    text = Page(html).text
    line = next(piece for piece in text if piece.startswith("runs/digits-c/seed0/result.json"))
    assert "spikesparse test --ckpt_path runs/digits-c/seed0/checkpoints/best.ckpt" in line
    assert "digits-c (λ → 3)" in text
    assert html.count("<figure") == len(CHARTS)


def test_each_missing_part_is_named(capsys):
    for gone in ("config.yaml", "result.json", "bill.json", "events*"):
        folder = write_run(Path("runs") / gone.rstrip("*") / "seed0")
        next(folder.glob(gone)).unlink()
        (sentence,) = read_run(folder).missing
        assert sentence.startswith(str(folder))
        assert ("no TensorBoard events" if gone == "events*" else gone) in sentence


def test_run_with_its_settings_alone_makes_a_page_that_names_the_rest(capsys):
    folder = write_run(Path("runs/a/seed0"))
    for file in folder.glob("[!c]*"):
        file.unlink()
    assert main(["report", str(folder)]) == 0
    page = Page(Path("report.html").read_text())
    assert "figure" not in [tag for tag, _ in page.tags]
    for word in ("What is missing", "How this report was made"):
        assert word in page.text
    assert capsys.readouterr().out.count("missing  ") == 3
    assert not list(Path("report_png").iterdir())


@pytest.mark.parametrize("name", ["config.yaml", "result.json", "bill.json"])
@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b"[1]", b""])
def test_damaged_file_counts_as_missing(name, content):
    folder = write_run(Path("runs/a/seed0"))
    (folder / name).write_bytes(content)
    (sentence,) = read_run(folder).missing
    assert sentence.startswith(f"runs/a/seed0/{name}: ")


def test_values_of_other_types_count_as_missing():
    folder = write_run(Path("runs/a/seed0"), command=())
    (folder / "config.yaml").write_text("{sparsity: {end_value: [1]}, 3: {true: null}}")
    odd = {"accuracy": "high", "spikes": float("nan"), "synops": 10**400, "rate": True, "command": 3, "split": [1]}
    (folder / "result.json").write_text(json.dumps(odd))
    (folder / "bill.json").write_text(json.dumps({"rows": {"conv1": [1], "total": None}, "definitions": 7}))
    html = page_of(folder)
    assert Page(html).text.count(ABSENT) >= 6
    assert {attributes["id"] for tag, attributes in Page(html).tags if tag == "figure"} == {c.name for c in CURVES}


def test_events_that_end_in_the_middle_are_read_as_far_as_they_go():
    folder = write_run(Path("runs/a/seed0"))
    (events,) = folder.glob("events*")
    events.write_bytes(events.read_bytes()[:-700])
    epochs, _ = CURVES[0].points(read_run(folder), "val")
    assert epochs == [1, 2, 3]


@pytest.mark.parametrize("path", ["nowhere", "empty", "file"])
def test_what_is_no_run_folder_is_refused_in_one_line(path, capsys):
    Path("empty").mkdir()
    Path("file").write_text("")
    assert main(["report", path]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"spikesparse: error: {path}: no ")
    assert "runs/<experiment>/seed<k>" in line
    assert not Path("report.html").exists()


@pytest.mark.parametrize(
    ("out", "words"), [("report.pdf", "must end in .html"), ("file/report.html", "cannot be written")]
)
def test_out_that_cannot_be_is_refused_in_one_line(out, words, twin_and_sparse, capsys):
    Path("file").write_text("")
    assert main(["report", str(twin_and_sparse[0]), f"--out={out}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"--out={out}: " in line
    assert words in line


def test_without_bokeh_the_way_to_install_it_is_named(twin_and_sparse, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "bokeh", None)
    assert main(["report", str(twin_and_sparse[0])]) == 2
    assert 'pip install "spikesparse[report]"' in capsys.readouterr().err


@pytest.mark.slow
def test_report_needs_no_torch(twin_and_sparse):
    code = (
        "import sys; from spikesparse.commands.main import main; code = main(['report', sys.argv[1]]); "
        "print(code, 'torch' in sys.modules)"
    )
    command = [sys.executable, "-c", code, str(twin_and_sparse[0])]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert out.rstrip().endswith("0 False")


# For each chart of the page: what it is in, whether it has pixels, and how many of its renderers have data.
DRAWN = """
return Bokeh.documents.flatMap(shown => shown.roots()).map(chart => {
  const view = Bokeh.index.get_by_id(chart.id);
  const canvas = [...(view.shadow_el || view.el.shadowRoot).querySelectorAll('*')]
    .flatMap(e => [e, ...(e.shadowRoot ? e.shadowRoot.querySelectorAll('*') : [])]).filter(e => e.tagName === 'CANVAS');
  const ink = canvas.some(c => c.width && c.getContext('2d').getImageData(0, 0, c.width, c.height).data.some(v => v));
  const full = chart.renderers.filter(r => r.visible && r.data_source.get_length() > 0).length;
  return {name: view.el.closest('figure').id, ink, full, width: view.el.getBoundingClientRect().width};
});
"""
RENDERED = "Bokeh.documents.length && Bokeh.documents.every(shown => shown.is_idle)"


@pytest.mark.slow
@pytest.mark.skipif(not available(), reason="needs chromium and chromedriver")
def test_every_chart_is_drawn_and_the_legend_and_the_pointer_work(twin_and_sparse, tmp_path):
    hostile = write_run(Path("runs") / HOSTILE / "seed0", end=1.0, spikes=600.0, accuracy=0.89)
    main(["report", *map(str, [*twin_and_sparse, hostile])])
    with Browser() as browser:
        browser.open((tmp_path / "report.html").as_uri())
        browser.wait_for(RENDERED, 30, "the charts")
        charts = {chart["name"]: chart for chart in browser.evaluate(DRAWN)}
        assert set(charts) == CHARTS
        for chart in charts.values():
            assert chart["ink"], chart
            assert chart["full"] >= 3, chart  # each run
            assert chart["width"] > 400, chart
        browser.screenshot(tmp_path / "report.png")
        assert len((tmp_path / "report.png").read_bytes()) > 100_000

        browser.evaluate("document.querySelectorAll('nav button')[1].click()")
        assert browser.evaluate("return document.querySelector('tbody[data-run=run-1]').className") == "hidden"
        hidden = {chart["name"]: chart["full"] for chart in browser.evaluate(DRAWN)}
        assert all(hidden[name] < charts[name]["full"] for name in charts)
        browser.evaluate("document.querySelectorAll('nav button')[1].click()")
        assert {chart["name"]: chart["full"] for chart in browser.evaluate(DRAWN)} == {
            name: chart["full"] for name, chart in charts.items()
        }

        # The middle run of the scatter is the one with the hostile name: its tooltip shows it as text.
        spot = browser.evaluate("""
            const views = Bokeh.documents[0].roots().map(chart => Bokeh.index.get_by_id(chart.id));
            const view = views.find(view => view.el.closest('figure').id === 'pareto');
            view.el.scrollIntoView({block: 'center'});
            const {x, y} = view.el.getBoundingClientRect();
            const [sx, sy] = [view.frame.x_scale.compute(600), view.frame.y_scale.compute(89)];
            return [x + sx, y + sy];
        """)
        browser.hover(*spot)
        browser.wait_for_text("89.00 % at spikes/image", 10)
        tip = browser.visible_text().split("89.00 % at spikes/image")[0].splitlines()[-2:]
        assert HOSTILE in " ".join(tip)
        assert browser.console() == []
