"""The plan of runs, the script that makes them, and the statistics of iso-accuracy."""

import csv
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from spikesparse.commands.main import main

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "configs/experiment/digits.yaml"


@pytest.fixture(autouse=True)
def _benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # LightningCLI's, of being called from Python
def test_every_command_of_the_plan_is_understood(cifar_like_npz):
    """One run of each recipe, parsed as the command line parses it."""
    from plan import read_plan

    from spikesparse.commands.cli import SpikeCLI

    class Parsed(Exception):
        pass

    class OnlyParse(SpikeCLI):
        def before_instantiate_classes(self):
            raise Parsed

    sys.path.append(str(ROOT))  # as if called from the checkout: a recipe may name benchmarks.ideas
    _, runs = read_plan()
    for run in {(run.campaign, run.recipe): run for run in runs}.values():
        words = [word.replace("configs/", f"{ROOT}/configs/") for word in run.arguments]
        with pytest.raises(Parsed):
            OnlyParse(["fit", *words[1:], "--data.source=npz", f"--data.data_dir={cifar_like_npz}"])


@pytest.mark.filterwarnings("ignore")  # LightningCLI's, of being called from Python
@pytest.mark.parametrize("steps", ["eight", "sixteen"])
def test_the_recipe_of_many_steps_is_what_its_rows_were_made_with(steps, capsys):
    from plan import read_plan

    from spikesparse.commands.main import main

    def settings(*args):
        with pytest.raises(SystemExit):
            main(["fit", *args, "--print_config"])
        return yaml.safe_load(capsys.readouterr().out)

    run = next(run for run in read_plan()[1] if run.name == f"vgg7_{steps}_steps/started/0")
    words = [word.replace("configs/", f"{ROOT}/configs/") for word in run.arguments[1:]]
    recipe = settings("--config", str(ROOT / f"configs/experiment/cifar10_vgg7_{steps}_steps.yaml"))
    assert settings(*words) == {**recipe, "seed_everything": 0}


@pytest.mark.parametrize("recipe", [["--model.init_from={b}"], {"exits_of": "b", "target": 10}])
def test_a_recipe_stands_below_the_one_that_it_starts_from(recipe, tmp_path):
    from plan import read_plan

    plan = {"c": {"config": "x.yaml", "seeds": [0], "recipes": {"a": recipe, "b": []}}}
    path = tmp_path / "plan.yaml"
    path.write_text(yaml.safe_dump(plan, sort_keys=False))
    with pytest.raises(ValueError, match="c/a/0 needs b"):
        read_plan(path)


def test_a_recipe_may_take_flags_from_a_list_that_several_share(tmp_path):
    from plan import read_plan

    path = tmp_path / "plan.yaml"
    path.write_text(
        "c:\n"
        "  config: x.yaml\n"
        "  shared: &shared [--a=1, --b=2]\n"
        "  seeds: [3]\n"
        "  recipes:\n"
        "    own: [y.yaml, *shared, --c=3]\n"
        "    exits: {exits_of: own, target: 3.0e+7, by: synops}\n"
    )
    own, exits = read_plan(path)[1]
    assert own.arguments == ("train", "--config", "y.yaml", "--a=1", "--b=2", "--c=3", "--seed_everything=3")
    assert (exits.exits_of, exits.needs, exits.target, exits.by) == ("own", ["own"], 3e7, "synops")


def test_a_recipe_of_once_is_run_under_the_first_seed(tmp_path):
    from plan import read_plan

    path = tmp_path / "plan.yaml"
    plan = {"config": "x.yaml", "seeds": [5, 6], "recipes": {"a": []}, "once": {"b": {"exits_of": "a", "target": 9}}}
    path.write_text(yaml.safe_dump({"c": plan, "d": {**plan, "cuda": True}}, sort_keys=False))
    runs = read_plan(path)[1]
    assert [run.name for run in runs] == [f"{c}/{run}" for c in "cd" for run in ("a/5", "b/5", "a/6")]
    assert [run.cuda for run in runs] == [False] * 3 + [True] * 3


@pytest.mark.parametrize(("cuda", "made"), [(False, ["c/a/0"]), (True, ["c/a/0", "d/a/0"])])
def test_what_is_made_for_cuda_is_left_out_where_there_is_none(cuda, made, monkeypatch, capsys):
    import torch
    from plan import Run
    from reproduce import rows_there, those_for_here

    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    runs = [Run("c", "a", 0, ()), Run("d", "a", 0, (), cuda=True)]
    assert [run.name for run in those_for_here(runs)] == made
    assert ("left out, there being no CUDA device: 1 of d" in capsys.readouterr().out) == (not cuda)
    assert rows_there([*runs, *runs], runs) == "2 of 4 rows are there, 1 of those missing are made for CUDA"


def test_guard_prices_the_shortfall_of_each_layer():
    import torch
    from ideas import GuardedPenalty

    from spikesparse import SpikePenalty, SpikingVGG

    net = SpikingVGG("4-P-F6", input_shape=(3, 8, 8), timesteps=3)  # in training mode: BatchNorm keeps it firing
    with torch.no_grad():
        tally = net(torch.rand(5, 3, 8, 8)).tally
    rates = [float(s.sum()) / (5 * 3 * n) for s, n in zip(tally.spikes, tally.layers.neurons.values(), strict=True)]
    least = 2 * max(rates)
    expected = float(SpikePenalty()(tally)) + sum(0.5 * (1 - rate / least) ** 2 for rate in rates)
    assert float(GuardedPenalty(least, 0.5)(tally)) == pytest.approx(expected, rel=1e-6)
    assert float(GuardedPenalty(min(rates), 0.5)(tally)) == pytest.approx(float(SpikePenalty()(tally)), rel=1e-6)


# Statistics


def test_interval_is_that_of_the_normal_approximation_for_one_seed():
    """10,000 images, 300 lost and 200 won: the drop is 1 point and its standard error sqrt(0.05 - 0.01^2) / 100."""
    from iso_accuracy import drop_interval

    twin, sparse = np.ones((1, 10_000), bool), np.ones((1, 10_000), bool)
    sparse[0, :300] = False
    twin[0, 300:500] = False
    low, high = drop_interval(twin, sparse)
    error = 100 * (0.05 - 0.01**2) ** 0.5 / 100
    assert low == pytest.approx(1 - 1.96 * error, abs=0.05)
    assert high == pytest.approx(1 + 1.96 * error, abs=0.05)


def test_interval_sees_the_spread_over_seeds():
    """Drops of 0 and 2 points, without noise within a seed: two seeds drawn have means 0, 1, 1 or 2."""
    from iso_accuracy import drop_interval

    twin, sparse = np.ones((2, 400), bool), np.ones((2, 400), bool)
    sparse[1] = False
    assert drop_interval(twin, sparse) == (0.0, 100.0)
    assert drop_interval(twin, twin) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("seeds", "drop", "low", "high", "verdict"),
    [
        (5, 0.2, -0.1, 0.5, "iso-accuracy"),
        (5, 0.1, -0.4, 0.6, "within a point"),
        (5, 0.9, 0.8, 1.0, "within a point"),
        (5, 0.9, 0.6, 1.2, "undecided"),
        (5, 1.1, 1.0, 1.2, "undecided"),
        (5, 1.2, 1.1, 1.3, "less accurate"),
        (4, 0.0, -0.1, 0.1, "open: 4 of 5 seeds"),
    ],
)
def test_verdict(seeds, drop, low, high, verdict):
    from iso_accuracy import Comparison

    assert Comparison("r", seeds, 78.0, 1.0, -0.7, drop, low, high).verdict == verdict


@pytest.mark.parametrize(
    ("flags", "said", "lambda_end"),
    [
        ([], "", 0.5),
        (["--budget.target=30", "--budget.by=synops"], "30 synops", ""),
        (["--budget.max_accuracy_drop=0.0", "--budget.baseline=0.5"], "0 drop", ""),
    ],
)
@pytest.mark.filterwarnings("ignore")  # LightningCLI's, of being called from Python
def test_a_row_says_its_budget_or_its_lambda(flags, said, lambda_end, tiny_args):
    from plan import Run as Row
    from plan import row_of

    args = ["train", *[arg for arg in tiny_args if "sparsity.end_value" not in arg], "--sparsity.end_value=0.5", *flags]
    assert main(args) == 0
    (folder,) = Path("runs").glob("*/seed0")
    row = row_of(Row("c", "r", 0, args), folder, args, 1.0)
    assert (row["budget"], row["lambda_end"]) == (said, lambda_end)


def test_rows_and_right_images_are_kept_and_replaced(tmp_path):
    from iso_accuracy import compare, table
    from plan import COLUMNS, add_row, correct_of, rows_of

    rng = np.random.default_rng(1)
    kept = {}
    for recipe, seed, spikes in (("twin", 0, 100), ("quiet", 0, 50), ("twin", 1, 300), ("quiet", 1, 50)):
        row = dict.fromkeys(COLUMNS, "") | {"recipe": recipe, "seed": seed, "spikes_per_image": spikes}
        kept[f"{recipe}/{seed}"] = rng.random(37) < 0.8
        add_row("c", row, kept[f"{recipe}/{seed}"], tmp_path)
    kept["quiet/1"] = ~kept["quiet/1"]
    add_row("c", row | {"spikes_per_image": 30}, kept["quiet/1"], tmp_path)
    assert [r["spikes_per_image"] for r in rows_of("c", tmp_path)] == ["100", "50", "300", "30"]
    found = dict(correct_of("c", tmp_path))
    assert set(found) == set(kept)
    for name, values in kept.items():
        assert (found[name] == values).all()
    twin, quiet = compare("c", "twin", "spikes_per_image", tmp_path)
    assert twin.recipe == "twin"
    assert quiet.change == pytest.approx(40 / 200 - 1)
    before, after = (np.mean([kept[f"{r}/{s}"].mean() for s in (0, 1)]) for r in ("twin", "quiet"))
    assert quiet.drop == pytest.approx(100 * (before - after))
    assert "| quiet | 2 |" in table([twin, quiet], "spikes_per_image")
    assert "| 40 | -80.0 % |" in table([twin, quiet], "spikes_per_image")
    assert "| 40.00 | -80.0 % |" in table([twin, quiet], "energy_uj_per_image")
    _, quiet = compare("c", "twin", "spikes_per_image", tmp_path, [1])
    assert (quiet.seeds, quiet.change) == (1, pytest.approx(30 / 300 - 1))


def test_a_recipe_stands_beside_the_twin_of_another_campaign(tmp_path):
    """Of the seeds that both have: 8 of 10 right at 50 spikes, beside 10 of 10 at 400."""
    from iso_accuracy import compare
    from plan import COLUMNS, add_row

    for campaign, recipe, seed, spikes, right in (
        *(("long", "twin", 1, 400, 10), ("long", "twin", 2, 800, 9), ("long", "quiet", 1, 7, 0)),
        *(("short", "twin", 1, 100, 9), ("short", "quiet", 1, 50, 8), ("short", "quiet", 0, 999, 0)),
    ):
        row = dict.fromkeys(COLUMNS, "") | {"recipe": recipe, "seed": seed, "spikes_per_image": spikes}
        add_row(campaign, row, np.arange(10) < right, tmp_path)
    found = compare("short", "long/twin", "spikes_per_image", tmp_path)
    assert [(c.recipe, c.seeds, c.count) for c in found] == [("long/twin", 2, 600), ("quiet", 1, 50), ("twin", 1, 100)]
    assert (found[1].change, found[1].drop) == (pytest.approx(50 / 400 - 1), pytest.approx(20))


# Whole runs


@pytest.fixture
def tiny_plan(tmp_path, tiny_args):
    flags = [a for a in tiny_args if "enable_" not in a]
    plan = {
        "tiny": {
            "config": str(CONFIG),
            "flags": flags,
            "seeds": [0],
            "recipes": {
                "twin": ["--sparsity.end_value=0"],
                "quiet": ["--sparsity.end_value=1", "--model.init_from={twin}"],
            },
        }
    }
    path = tmp_path / "plan.yaml"
    path.write_text(yaml.safe_dump(plan, sort_keys=False))
    return path


def reproduce(plan, *args):
    command = [sys.executable, str(ROOT / "benchmarks/reproduce.py"), "--plan", str(plan), "--results", "kept", *args]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


@pytest.mark.slow
def test_missing_rows_are_made_once_and_a_stopped_run_goes_on(tiny_plan):
    stopped = reproduce(tiny_plan, "--missing", "--budget", "2s")  # not long enough to import torch and train
    assert stopped.returncode == 0, stopped.stderr
    assert "the time is over: tiny/twin/0" in stopped.stdout
    made = reproduce(tiny_plan, "--missing")
    assert made.returncode == 0, made.stderr
    assert "2 of 2 rows are there" in made.stdout
    with Path("kept/tiny.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["recipe"] for row in rows] == ["twin", "quiet"]
    assert all(float(row["spikes_per_image"]) > 0 and 0 <= float(row["accuracy_val"]) <= 1 for row in rows)
    assert "checkpoints/best.ckpt" in rows[1]["command"]
    assert "nothing to do" in reproduce(tiny_plan, "--missing").stdout
    again = reproduce(tiny_plan, "tiny/twin/0")
    assert f"accuracy_test {rows[0]['accuracy_test']}   kept row: {rows[0]['accuracy_test']}" in again.stdout
    assert f"spikes_per_image {rows[0]['spikes_per_image']}   kept" in again.stdout
    assert len(list(Path("runs").glob("digits-*/seed0-earlier1"))) >= 1


@pytest.mark.slow
def test_a_row_made_anew_is_begun_once_and_gone_on_with(tiny_plan):
    """Stopped, it is not begun a second time; once it has come to its end, it is."""
    assert reproduce(tiny_plan, "tiny/twin/0").returncode == 0
    begun = Path("runs/.locks/tiny-twin-0.anew")
    assert not begun.exists()
    begun.touch()  # as a run that was stopped leaves it
    again = reproduce(tiny_plan, "tiny/twin/0")
    assert "not trained again" in again.stdout
    assert not begun.exists()
    assert "not trained again" not in reproduce(tiny_plan, "tiny/twin/0").stdout
    # A fresh checkout has the rows that were kept, and no checkpoint.
    shutil.rmtree("runs")
    kept = Path("kept/tiny.csv").read_text()
    Path("kept/tiny.csv").write_text("".join(kept.splitlines(keepends=True)[:2]))
    elsewhere = reproduce(tiny_plan, "--missing")
    assert elsewhere.returncode == 0, elsewhere.stderr
    assert "=== tiny/twin/0: a checkpoint that others need" in elsewhere.stdout
    assert "2 of 2 rows are there" in elsewhere.stdout
    assert Path("kept/tiny.csv").read_text().splitlines()[1] == kept.splitlines()[1]


@pytest.mark.slow
def test_exits_of_a_network_are_a_row_without_training_it_again(tiny_plan):
    plan = yaml.safe_load(tiny_plan.read_text())
    plan["tiny"]["recipes"] = {
        "twin": ["--sparsity.end_value=0"],
        "stopped": {"exits_of": "twin", "target": 1e6, "measure": "margin"},
    }
    tiny_plan.write_text(yaml.safe_dump(plan, sort_keys=False))
    made = reproduce(tiny_plan, "--missing")
    assert made.returncode == 0, made.stderr
    assert made.stdout.count("spikesparse train") == 1
    assert "tiny/stopped/0 (0 more): early exits of twin at 1e+06 spikes" in made.stdout
    with Path("kept/tiny.csv").open() as file:
        twin, stopped = csv.DictReader(file)
    assert (stopped["recipe"], stopped["budget"], twin["budget"]) == ("stopped", "1e+06 spikes", "")
    assert stopped["fit_minutes"] == twin["fit_minutes"]
    (trained,) = Path("runs").glob("digits-*/seed0/checkpoints/last.ckpt")
    (folder,) = Path("runs").glob("digits-*-exits-1e+06-spikes-margin/seed0")
    assert folder.parent.name.startswith(trained.parents[2].name)
    with (folder / "exits_val.csv").open() as file:
        *_, chosen = csv.DictReader(file)
    assert stopped["accuracy_val"] == f"{float(chosen['accuracy']):.4f}"
    # The row's command is for whoever trained the network: run as it stands, it gives the row.
    network = trained.parents[1]
    result = json.loads((network / "result.json").read_text())
    told = (network / "predictions_test.csv").read_text()
    for command in stopped["command"].split("; "):
        subprocess.run([sys.executable, "-m", *command.split()], check=True, capture_output=True)
    assert (network / "exits_val.csv").read_text() == (folder / "exits_val.csv").read_text()
    assert (network / "predictions_test.csv").read_text() == (folder / "predictions_test.csv").read_text() != told
    with np.load("kept/tiny_correct.npz") as bits:
        assert int(np.unpackbits(bits["stopped/0"]).sum()) == round(
            float(stopped["accuracy_test"]) * bits["stopped/0#"]
        )
    # A network that was trained elsewhere: the minutes are of that machine.
    (network / "result.json").write_text(json.dumps({**result, "hardware": "a GPU"}))
    assert reproduce(tiny_plan, "tiny/stopped/0", "--keep").returncode == 0
    with Path("kept/tiny.csv").open() as file:
        assert [row["hardware"] for row in csv.DictReader(file)] == [
            twin["hardware"],
            f"a GPU; exits on {twin['hardware']}",
        ]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_the_training_too(tiny_plan, number):
    from making import is_held

    from spikesparse.files.locks import FileLock

    command = [sys.executable, str(ROOT / "benchmarks/reproduce.py"), "--plan", str(tiny_plan), "--results", "kept"]
    with subprocess.Popen([*command, "--missing"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline().startswith("=== tiny/twin/0")
        lock = FileLock(Path("runs/.locks/tiny-twin-0"))
        assert is_held(lock)
        process.send_signal(number)
        rest = process.communicate(timeout=60)[0]
    assert process.returncode == 143
    assert "stopped by a signal: tiny/twin/0 goes on from its last epoch the next time" in rest
    assert not is_held(lock)  # which the training holds as well, as long as it lives


@pytest.mark.slow
def test_two_processes_share_the_runs(tiny_plan):
    plan = yaml.safe_load(tiny_plan.read_text())
    plan["tiny"]["seeds"] = [0, 1]
    tiny_plan.write_text(yaml.safe_dump(plan, sort_keys=False))
    command = [sys.executable, str(ROOT / "benchmarks/reproduce.py"), "--plan", str(tiny_plan), "--results", "kept"]
    both = [subprocess.Popen([*command, "--missing"], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    printed = [process.communicate(timeout=300)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], printed
    made = [[line.split()[1] for line in text.splitlines() if "spikesparse train" in line] for text in printed]
    assert all(made)  # neither was idle
    assert sorted(made[0] + made[1]) == ["tiny/quiet/0", "tiny/quiet/1", "tiny/twin/0", "tiny/twin/1"]
    with Path("kept/tiny.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 4


def test_a_checkpoint_that_is_needed_is_made_even_if_its_row_is_there(tiny_plan, tmp_path, monkeypatch):
    from making import folder_of
    from plan import COLUMNS, add_row, read_plan
    from reproduce import Queue

    monkeypatch.chdir(tmp_path)
    twin, quiet = plan = read_plan(tiny_plan)[1]
    add_row("tiny", dict.fromkeys(COLUMNS, "") | {"recipe": "twin", "seed": 0}, np.ones(3, bool), tmp_path)
    queue = Queue([quiet], set(), plan, tmp_path, ([], []))
    other = Queue([quiet], set(), plan, tmp_path, ([], []))
    run, lock = queue.take()
    assert (run, queue.runs) == (twin, [quiet])
    assert other.take() is None  # while the first makes it
    folder = folder_of(queue.command(twin), 0)
    folder.mkdir(parents=True)
    (folder / "result.json").touch()
    lock.close()
    run, lock = queue.take()
    assert run == quiet
    lock.close()
    run, lock = other.take()
    assert run == quiet
    lock.close()


def test_a_run_waits_for_the_one_it_starts_from_while_another_process_makes_that(tiny_plan, tmp_path, monkeypatch):
    from making import folder_of, lock_of
    from plan import read_plan
    from reproduce import Queue

    monkeypatch.chdir(tmp_path)
    twin, quiet = plan = read_plan(tiny_plan)[1]
    queue = Queue([quiet], set(), plan, tmp_path, ([], []))
    with lock_of(twin):
        assert queue.take() is None
    folder = folder_of(queue.command(twin), 0)
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints/best.ckpt").touch()  # of an epoch that is not the last
    with lock_of(twin):
        assert queue.take() is None
    (folder / "result.json").touch()
    run, lock = queue.take()
    assert (run, queue.runs) == (quiet, [])
    assert Queue([quiet], set(), plan, tmp_path, ([], [])).take() is None  # it is taken
    lock.close()


@pytest.mark.slow
def test_list_and_unknown_names(tiny_plan):
    assert "0 of 2 rows are there" in reproduce(tiny_plan, "--list").stdout
    unknown = reproduce(tiny_plan, "tiny/nothing/0")
    assert unknown.returncode == 2
    assert "not in the plan" in unknown.stderr
    none = reproduce(tiny_plan, "--missing", "--only", "nothing")
    assert none.returncode == 2
    assert "--only=nothing: no run" in none.stderr


@pytest.mark.parametrize(
    "flags",
    [
        ["nothing"],
        ["digits_loop", "--twin", "nothing"],
        ["digits_loop", "--twin", "no/twin"],
        ["digits_loop", "--seeds", "99"],
    ],
)
def test_a_comparison_of_no_rows_is_refused(flags, monkeypatch, capsys):
    import iso_accuracy

    monkeypatch.setattr(sys, "argv", ["iso_accuracy.py", *flags])
    with pytest.raises(SystemExit, match="2"):
        iso_accuracy.main()
    assert "has no rows of" in capsys.readouterr().err


def test_figure_shows_each_recipe_beside_its_own_twin(tmp_path):
    """One seed, 40 images: the narrow network loses 4 of them at half the spikes, the wide one 2 at a quarter."""
    from figure_claim import LINES, picture
    from plan import COLUMNS, add_row, read_plan

    recipes = (("twin", 100, 40), ("quiet_70", 50, 36), ("wide_twin", 200, 30), ("wide_quiet_70", 50, 28))
    for recipe, spikes, right in recipes:
        row = dict.fromkeys(COLUMNS, "") | {"recipe": recipe, "seed": 0, "spikes_per_image": spikes}
        add_row("width_proxy", row, np.arange(40) < right, tmp_path)
    (axes,) = picture(tmp_path).axes
    points = {tuple(np.round(line.get_xydata()[0], 6)) for line in axes.lines if len(line.get_xdata()) == 1}
    assert {(50.0, 10.0), (75.0, 5.0)} <= points
    made = {(run.campaign, run.recipe) for run in read_plan()[1]}
    assert {(line.campaign, recipe) for line in LINES for recipe in (line.twin, *line.recipes)} <= made
