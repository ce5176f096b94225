"""The dashboard: what a run lays out, draws and logs, and how TensorBoard itself serves it."""

import json
import re
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import quote

import numpy as np
import pytest
import torch
from PIL import Image
from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2

from browser import Browser
from browser import available as browser_is_available
from refusals import refused_with
from spikesparse.commands.cli import SpikeCLI
from spikesparse.commands.main import main
from spikesparse.settings.command_line import CommandLine
from spikesparse.training.dashboard import Dashboard, custom_scalars
from spikesparse.training.dashboard.callback import takes_pictures
from spikesparse.training.dashboard.hparams import flat_settings
from spikesparse.training.dashboard.pictures import (
    as_array,
    input_and_encoding,
    layer_by_time,
    raster,
    where_spikes_fall,
)

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's advice on tiny runs is not what is tested here
ROOT = Path(__file__).resolve().parents[2]
PAGES = ["Overview", "Objective", "Layers", "Efficiency", "Health"]
PICTURES = ["pictures/1_input", "pictures/2_raster", "pictures/3_layer_by_time", "pictures/4_where_spikes_fall"]


@pytest.fixture
def tiny_args(tiny_args):
    """With pictures."""
    return [arg for arg in tiny_args if not arg.startswith("--dashboard")]


@pytest.fixture
def run(tiny_args):
    """The folder of a finished tiny run: four epochs."""
    assert main(["train", *tiny_args]) == 0
    return Path("runs") / CommandLine(["fit", *tiny_args]).run_name() / "seed0"


def events_of(folder):
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0, "histograms": 0})
    events.Reload()
    return events


# ---- what a run writes --------------------------------------------------------------------------------------------


def test_every_chart_of_every_page_has_its_series(run):
    events = events_of(run)
    tags = events.Tags()["scalars"]
    pages = custom_scalars(["conv1", "fc1"], ["conv1", "fc1", "classifier"])
    assert list(pages) == PAGES
    for charts in pages.values():
        for chart, (kind, wanted) in charts.items():
            for tag in wanted:
                if kind == "Margin":
                    assert tag in tags, chart
                else:
                    assert [t for t in tags if re.search(tag, t)], (chart, tag)
    assert "custom_scalars__config__" in events.Tags()["tensors"]


@pytest.mark.slow
def test_spread_lies_around_what_the_bill_says(run):
    events = events_of(run)
    for layer in ("conv1", "fc1"):
        low, mean, high = (events.Scalars(f"spikes/{kind}/{layer}/val")[-1].value for kind in ("p10", "rate", "p90"))
        assert 0 <= low <= high <= 1
        assert 0 <= mean <= 1
    gradient = [event.value for event in events.Scalars("health/gradient_norm")]
    assert len(gradient) == 4
    assert min(gradient) > 0


def test_pictures_are_drawn_after_every_tenth_of_a_run_and_after_the_last_epoch(run):
    events = events_of(run)
    assert events.Tags()["images"] == PICTURES
    for tag in PICTURES:
        images = events.Images(tag)
        # five batches an epoch, from 0; not the sanity check
        assert [image.step for image in images] == [event.step for event in events.Scalars("accuracy/val")]
        assert [image.step for image in images] == [4, 9, 14, 19]
        assert all(200 <= image.width <= 900 for image in images)
    assert len({image.encoded_image_string for image in events.Images(PICTURES[0])}) == 1, "other images were drawn"
    for layer, neurons in (("conv1", 4 * 8 * 8), ("fc1", 6)):
        histograms = events.Histograms(f"spikes/rates_of_neurons/{layer}")
        assert [histogram.step for histogram in histograms] == [4, 9, 14, 19]
        assert {histogram.histogram_value.num for histogram in histograms} == {neurons}


def test_histograms_are_of_the_validation_just_done(tiny_args, monkeypatch):
    drawn = {}
    keep = lambda self, tag, values, step: drawn.update({(tag, step): values.mean().item()})  # noqa: E731
    monkeypatch.setattr("torch.utils.tensorboard.SummaryWriter.add_histogram", keep)
    assert main(["fit", *tiny_args]) == 0
    events = events_of(Path("runs") / CommandLine(["fit", *tiny_args]).run_name() / "seed0")
    for layer in ("conv1", "fc1"):
        rates = {event.step: event.value for event in events.Scalars(f"spikes/rate/{layer}/val")}
        means = {step: mean for (tag, step), mean in drawn.items() if tag == f"spikes/rates_of_neurons/{layer}"}
        assert means == pytest.approx(rates, rel=1e-5)
        assert len(set(means.values())) > 1


@pytest.mark.parametrize(
    ("every", "epochs", "drawn"),
    [
        (None, 20, list(range(1, 20, 2))),
        (None, 5, [0, 1, 2, 3, 4]),
        (None, 25, [*range(1, 25, 2), 24]),
        (3, 8, [2, 5, 7]),
        (0, 8, []),
        (None, -1, [0, 1, 3, 7, 15]),
    ],
)
def test_rhythm(every, epochs, drawn):
    dashboard = Dashboard(every_n_epochs=every)
    trainer = SimpleNamespace(max_epochs=epochs, state=SimpleNamespace(fn="fit"))
    is_time = []
    for epoch in range(epochs if epochs > 0 else 30):
        trainer.current_epoch = epoch
        if dashboard._is_time(trainer):
            is_time.append(epoch)
    assert is_time == drawn


def test_only_the_first_process_draws_and_never_in_the_sanity_check():
    dashboard = Dashboard()
    dashboard._draw = None  # would fail if it were called
    state = SimpleNamespace(fn="fit")
    for flags in (
        {"is_global_zero": False, "sanity_checking": False},
        {"is_global_zero": True, "sanity_checking": True},
    ):
        trainer = SimpleNamespace(**flags, max_epochs=1, current_epoch=0, state=state, loggers=[])
        dashboard.on_validation_end(trainer, None)


@pytest.mark.parametrize("flag", ["every_n_epochs=-1", "images=0", "neurons=0"])
def test_wrong_settings_name_the_flag(tiny_args, flag, capsys):
    assert main(["fit", *tiny_args, f"--dashboard.{flag}"]) == 2
    assert f"--dashboard.{flag}" in capsys.readouterr().err


def losses_with(args):
    traced = []

    class Traced(SpikeCLI):
        def instantiate_trainer(self, **kwargs):
            trainer = super().instantiate_trainer(**kwargs)
            step = trainer.strategy.training_step
            trainer.strategy.training_step = lambda *a: traced.append(step(*a)) or traced[-1]
            return trainer

    cli = Traced(["fit", *args])
    return [out["loss"].item() for out in traced], cli.model.state_dict()


@pytest.mark.slow
def test_training_is_bit_identical_with_and_without_pictures(tiny_args):
    (on, weights_on), (off, weights_off) = (
        losses_with([*tiny_args, f"--dashboard.every_n_epochs={every}"]) for every in (1, 0)
    )
    assert len(on) == 4 * 5
    assert on == off
    assert all(torch.equal(weights_on[name], weights_off[name]) for name in weights_on)


# ---- hyper-parameters ---------------------------------------------------------------------------------------------


def hparams_of(folder):
    """What was written for TensorBoard's HParams: settings, and names of the metrics."""
    found = {}
    for path in folder.glob("events.*"):
        events = events_of(path)
        for tag, kind in (
            ("_hparams_/session_start_info", "session_start_info"),
            ("_hparams_/experiment", "experiment"),
        ):
            if tag in events.summary_metadata:
                content = events.summary_metadata[tag].plugin_data.content
                assert kind not in found, "written twice"
                found[kind] = getattr(plugin_data_pb2.HParamsPluginData.FromString(content), kind)
    return found


@pytest.mark.slow
def test_hparams_hold_the_settings_and_the_final_test_results_at_the_last_step(run):
    written = hparams_of(run)
    settings = {name: value for name, value in written["session_start_info"].hparams.items()}
    assert settings["architecture"].string_value == "4-P-F6"
    assert settings["lambda"].number_value == 1
    assert settings["epochs"].number_value == 4
    assert settings["net.dropout"].number_value == 0.2
    assert "data.data_dir" not in settings
    metrics = {info.name.tag for info in written["experiment"].metric_infos}
    assert metrics >= {"accuracy/test", "efficiency/spikes_per_image/test", "efficiency/synops_per_image/test"}
    result = json.loads((run / "result.json").read_text())
    events = events_of(run)
    for tag, value in (("accuracy/test", result["accuracy"]), ("efficiency/spikes_per_image/test", result["spikes"])):
        last = events.Scalars(tag)[-1]
        assert (last.step, last.value) == (20, pytest.approx(value, rel=1e-6))
    assert "hp_metric" not in events.Tags()["scalars"]


@pytest.mark.slow
def test_fit_alone_writes_validation_results(tiny_args):
    assert main(["fit", *tiny_args]) == 0
    folder = Path("runs") / CommandLine(["fit", *tiny_args]).run_name() / "seed0"
    tags = {info.name.tag for info in hparams_of(folder)["experiment"].metric_infos}
    assert "accuracy/val" in tags


def test_settings_become_flat_plain_values():
    nested = {
        "model": {"net": {"class_path": "a.B", "init_args": {"width": 2.0, "norm": None}}, "loss": "x"},
        "data": {"flip": True, "list": [1, 2], "data_dir": "/home"},
        "seed_everything": 3,
    }
    assert flat_settings(nested) == {"net.width": 2.0, "loss": "x", "data.flip": True, "seed": 3}


# ---- loggers ------------------------------------------------------------------------------------------------------


class Album(Logger):
    """Takes pictures the way Weights & Biases' logger does."""

    def __init__(self):
        super().__init__()
        self.pictures, self.scalars = [], {}

    name, version = "album", 0

    def log_image(self, key, images, step):
        self.pictures.append((key, images[0].shape, images[0].dtype, step))

    def log_metrics(self, metrics, step=None):
        self.scalars |= metrics

    def log_hyperparams(self, params, *args, **kwargs):
        pass


def test_scalars_go_to_all_loggers_and_pictures_to_those_that_take_them(tiny_args, tmp_path):
    album, table = Album(), CSVLogger(str(tmp_path), name="csv", version="v")

    class WithLoggers(SpikeCLI):
        def instantiate_trainer(self, **kwargs):
            trainer = super().instantiate_trainer(**kwargs)
            trainer.loggers = [table, album]
            return trainer

    WithLoggers(["fit", *tiny_args])
    assert [key for key, *_ in album.pictures] == PICTURES * 4
    assert all(shape[2] == 3 and dtype == np.uint8 for _, shape, dtype, _ in album.pictures)
    header = (tmp_path / "csv" / "v" / "metrics.csv").read_text().splitlines()[0].split(",")
    for tag in ("accuracy/val", "schedule/lambda", "spikes/p90/fc1/val", "health/gradient_norm"):
        assert tag in header
        assert tag in album.scalars
    assert not takes_pictures(table)
    assert takes_pictures(TensorBoardLogger(str(tmp_path)))


# ---- pictures -----------------------------------------------------------------------------------------------------


def some_spikes(timesteps=4):
    generator = torch.Generator().manual_seed(0)
    conv = (torch.rand(timesteps, 2, 3, 8, 8, generator=generator) < 0.3).float()
    return {"conv1": conv, "fc1": (torch.rand(timesteps, 2, 5, generator=generator) < 0.5).float()}


def test_layer_by_time_shows_the_rates():
    spikes = some_spikes()
    figure = layer_by_time(spikes)
    shown = figure.axes[0].images[0].get_array()
    for row, train in zip(shown, spikes.values(), strict=True):
        for step, rate in enumerate(row):
            assert rate == pytest.approx(sum(train[step].flatten().tolist()) / train[step].numel())
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["conv1", "fc1"]
    assert as_array(figure).shape[2] == 3


def test_raster_marks_exactly_the_spikes_of_its_neurons():
    spikes = some_spikes()
    figure = raster(spikes, image=1, neurons=5)
    for axes, train in zip(figure.axes, spikes.values(), strict=True):
        flat = train[:, 1].flatten(1)
        neurons = [round(x) for x in np.linspace(0, flat.shape[1] - 1, 5).astype(int)]
        drawn = [sorted(row.get_positions()) for row in axes.collections]
        assert drawn == [[t for t in range(4) if flat[t, neuron]] for neuron in neurons]


def test_where_spikes_fall_is_bright_where_the_most_fall():
    counts = torch.zeros(4, 1, 2, 4, 4)
    counts[:, 0, :, 0, 0] = 1  # 8 spikes in the corner, one in the middle
    counts[0, 0, 0, 2, 2] = 1
    sheet = where_spikes_fall(torch.rand(1, 3, 4, 4), {"conv1": counts, "fc1": torch.ones(4, 1, 3)}).axes[0].images[0]
    tile = sheet.get_array()[:, 138:]  # the second of two tiles of 130 pixels, 8 apart
    bright = tile.sum(2)
    assert bright[10, 10] == bright.max()
    assert bright[70, 70] > bright[120, 120] == bright.min()


@pytest.mark.parametrize("timesteps", [1, 4, 100])
def test_pictures_of_any_number_of_steps(timesteps):
    spikes = some_spikes(timesteps)
    images = torch.randint(0, 256, (2, 1, 8, 8), dtype=torch.uint8)
    for encoded in (images.float(), images.float().expand(timesteps, -1, -1, -1, -1)):
        assert as_array(input_and_encoding(images, encoded)).std() > 0
    for figure in (raster(spikes), layer_by_time(spikes), where_spikes_fall(images, spikes)):
        assert as_array(figure).std() > 0


def test_a_silent_network_can_be_drawn():
    spikes = {name: torch.zeros_like(train) for name, train in some_spikes().items()}
    for figure in (raster(spikes), layer_by_time(spikes), where_spikes_fall(torch.zeros(2, 3, 8, 8), spikes)):
        assert as_array(figure).shape[0] > 100


def test_settings_out_of_range_are_refused():
    with refused_with(r"--dashboard\.images=0"):
        Dashboard(images=0)


# ---- as TensorBoard serves it -------------------------------------------------------------------------------------


@pytest.fixture
def served(run):
    """The address of TensorBoard on the run."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", "runs", "--port", str(port), "--load_fast=false"]
    # As `make tensorboard` starts it. (With scalars=0, said to keep all, Custom Scalars draws none.)
    samples = re.search(r"--samples_per_plugin \S+", (ROOT / "Makefile").read_text())[0].split()
    server = subprocess.Popen([*command, *samples], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(240):
            try:
                if json.loads(fetch(f"{address}/data/runs")):
                    break
            except OSError:
                pass
            time.sleep(0.25)
        else:
            pytest.fail("TensorBoard did not start")
        yield address
    finally:
        server.terminate()
        server.wait(timeout=20)


def fetch(url, body=None):
    request = urllib.request.Request(url, data=None if body is None else json.dumps(body).encode())
    if body is not None:
        request.add_header("Content-Type", "application/json")
    with urllib.request.urlopen(request, timeout=20) as answer:
        return answer.read().decode()


@pytest.mark.slow
def test_tensorboard_serves_pages_series_hparams_and_pictures(served):
    listed = json.loads(fetch(f"{served}/data/plugins_listing"))
    for plugin in ("custom_scalars", "hparams", "images", "histograms", "scalars"):
        assert listed[plugin]["enabled"], plugin
    (name,) = json.loads(fetch(f"{served}/data/runs"))
    layout = json.loads(fetch(f"{served}/data/plugin/custom_scalars/layout"))
    assert [page["title"] for page in layout["category"]] == PAGES
    charts = 0
    for page in layout["category"]:
        for chart in page["chart"]:
            tags = chart.get("multiline", {}).get("tag", [])
            for series in chart.get("margin", {}).get("series", []):
                tags += [f"^{re.escape(series[part])}$" for part in ("value", "lower", "upper")]
            assert tags, chart["title"]
            for tag in tags:
                url = f"{served}/data/plugin/custom_scalars/scalars?run={quote(name)}&tag={quote(tag)}"
                answer = json.loads(fetch(url))
                assert answer["regex_valid"], tag
                assert any(answer["tag_to_events"].values()), (chart["title"], tag)
            charts += 1
    assert charts >= 15
    groups = json.loads(
        fetch(
            f"{served}/data/plugin/hparams/session_groups",
            {
                "experimentName": "",
                "startIndex": 0,
                "sliceSize": 10,
                "allowedStatuses": ["STATUS_UNKNOWN", "STATUS_SUCCESS", "STATUS_FAILURE", "STATUS_RUNNING"],
                "colParams": [],
            },
        )
    )
    (group,) = groups["sessionGroups"]
    values = {metric["name"]["tag"]: metric["value"] for metric in group["metricValues"]}
    assert set(values) >= {"accuracy/test", "efficiency/spikes_per_image/test"}
    assert {metric["trainingStep"] for metric in group["metricValues"]} == {20}
    images = json.loads(fetch(f"{served}/data/plugin/images/tags"))
    assert sorted(images[name]) == PICTURES
    shown = json.loads(fetch(f"{served}/data/plugin/images/images?run={quote(name)}&tag={quote(PICTURES[1])}&sample=0"))
    assert len(shown) == 4


# Every chart of Custom Scalars, through all shadow roots: its title's element is a neighbour, its lines are SVG paths.
CHARTS = """
const charts = [];
const walk = node => {
  if (node.tagName === 'VZ-LINE-CHART2') charts.push(node);
  if (node.shadowRoot) walk(node.shadowRoot);
  node.childNodes.forEach(walk);
};
walk(document.body);
return charts.map(chart => [...(chart.shadowRoot || chart).querySelectorAll('path.line, path.area, path.symbol')]
  .filter(path => (path.getAttribute('d') || '').length > 10).length);
"""
CENTER_OF = """
let found = null;
const walk = node => {
  if (node.nodeType === Node.TEXT_NODE && node.textContent.trim().toLowerCase() === arguments[0]) {
    found = node.parentElement.getBoundingClientRect();
  }
  if (node.shadowRoot) walk(node.shadowRoot);
  node.childNodes.forEach(walk);
};
walk(document.body);
return found && [found.x + found.width / 2, found.y + found.height / 2];
"""


def wait_until(look, seconds, what):
    deadline = time.monotonic() + seconds
    while not (value := look()):
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.3)
    return value


@pytest.mark.slow
@pytest.mark.skipif(not browser_is_available(), reason="needs Chromium and its driver")
def test_the_dashboard_in_a_browser(served, tmp_path):
    """As a person would look: no chart is empty, pictures show, and the scatter view plots the run."""
    with Browser(1600, 1300) as browser:
        browser.open(f"{served}/#custom_scalars")
        wait_until(lambda: all(page in browser.visible_text() for page in PAGES), 60, "the pages")
        wanted = sum(
            len(charts) for charts in custom_scalars(["conv1", "fc1"], ["conv1", "fc1", "classifier"]).values()
        )
        wait_until(lambda: len(browser.evaluate(CHARTS)) == wanted, 60, f"{wanted} charts")
        wait_until(lambda: all(browser.evaluate(CHARTS)), 60, "lines in every chart")
        browser.screenshot(tmp_path / "custom_scalars.png")

        browser.open("about:blank")
        browser.open(f"{served}/#images")
        wait_until(lambda: all(tag in browser.visible_text() for tag in PICTURES[:2]), 60, "the pictures")
        browser.screenshot(tmp_path / "images.png")

        browser.open("about:blank")
        browser.open(f"{served}/#hparams")
        place = wait_until(
            lambda: browser.evaluate(CENTER_OF, "scatter plot matrix view"), 60, "the scatter view's tab"
        )
        browser.click(*place)
        wait_until(lambda: "Color by" in browser.visible_text(), 60, "the scatter view")
        assert "lambda" in browser.visible_text()
        browser.screenshot(tmp_path / "scatter.png")
    for name in ("custom_scalars", "images", "scatter"):
        assert np.asarray(Image.open(tmp_path / f"{name}.png")).std() > 10
