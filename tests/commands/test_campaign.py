"""``spikesparse campaign``: plans, the runs that it makes of them, and the statistics of iso-accuracy."""

import csv
import json
import math
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from spikesparse.commands.campaign import crew
from spikesparse.commands.campaign.closing import closing_table
from spikesparse.commands.campaign.command import rows_there, those_for_here
from spikesparse.commands.campaign.comparison import Comparison, compare, drop_interval, table
from spikesparse.commands.campaign.making import Limits, RunFailed, folder_of, is_held, lock_of
from spikesparse.commands.campaign.means import mean_interval, means
from spikesparse.commands.campaign.plan import Run, read_plan
from spikesparse.commands.campaign.queue import Queue
from spikesparse.commands.campaign.rows import COLUMNS, add_row, correct_of, row_of, rows_of
from spikesparse.commands.main import main
from spikesparse.files.locks import FileLock

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "configs/experiment/digits.yaml"


def write_plan(folder, name="c", **settings):
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(settings, sort_keys=False))
    return path


@pytest.mark.parametrize(("cuda", "made"), [(False, ["c/a/0"]), (True, ["c/a/0", "d/a/0"])])
def test_what_is_made_for_cuda_is_left_out_where_there_is_none(cuda, made, monkeypatch, capsys):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    runs = [Run("c", "a", 0, ()), Run("d", "a", 0, (), cuda=True)]
    assert [run.name for run in those_for_here(runs, {"c"})] == made
    assert ("left out, there being no CUDA device: 1 of d" in capsys.readouterr().out) == (not cuda)
    assert those_for_here(runs, {"d"}) == runs
    assert ("d: made for CUDA; without it" in capsys.readouterr().out) == (not cuda)
    assert rows_there([*runs, *runs], runs) == "2 of 4 rows are there, 1 of those missing are made for CUDA"


# Statistics


def test_interval_is_that_of_the_normal_approximation_for_one_seed():
    """10,000 images, 300 lost and 200 won: the drop is 1 point and its standard error sqrt(0.05 - 0.01^2) / 100."""
    twin, sparse = np.ones((1, 10_000), bool), np.ones((1, 10_000), bool)
    sparse[0, :300] = False
    twin[0, 300:500] = False
    low, high = drop_interval(twin, sparse)
    error = 100 * (0.05 - 0.01**2) ** 0.5 / 100
    assert low == pytest.approx(1 - 1.96 * error, abs=0.05)
    assert high == pytest.approx(1 + 1.96 * error, abs=0.05)


def test_interval_sees_the_spread_over_seeds():
    """Drops of 0 and 2 points, without noise within a seed: two seeds drawn have means 0, 1, 1 or 2."""
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
    args = ["train", *[arg for arg in tiny_args if "sparsity.end_value" not in arg], "--sparsity.end_value=0.5", *flags]
    assert main(args) == 0
    (folder,) = Path("runs").glob("*/seed0")
    row = row_of(Run("c", "r", 0, tuple(args)), folder, args, 1.0)
    assert (row["budget"], row["lambda_end"]) == (said, lambda_end)
    result = json.loads((folder / "result.json").read_text())
    assert row["commit"] == (result["commit"] or result["spikesparse"])
    (folder / "result.json").write_text(json.dumps({**result, "commit": ""}))  # of an installed package
    assert row_of(Run("c", "r", 0, tuple(args)), folder, args, 1.0)["commit"] == result["spikesparse"]


def test_rows_and_right_images_are_kept_and_replaced(tmp_path):
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
    recipes = {"twin": ["--sparsity.end_value=0"], "quiet": ["--sparsity.end_value=1", "--model.init_from={twin}"]}
    return write_plan(tmp_path, "tiny", config=str(CONFIG), flags=flags, seeds=[0], recipes=recipes)


def lock_path(plan, number=0):
    runs = read_plan(plan).runs
    return lock_of(Queue(runs, set(), runs, Path("kept"), ([], [])).folder(runs[number])).path


COMMAND = [sys.executable, "-m", "spikesparse", "campaign", "--results", "kept"]


def campaign(*args):
    return subprocess.run([*COMMAND, *map(str, args)], capture_output=True, text=True, check=False, timeout=300)


@pytest.mark.slow
def test_missing_rows_are_made_once_and_a_stopped_run_goes_on(tiny_plan):
    stopped = campaign(tiny_plan, "--budget", "2s")  # not long enough to import torch and train
    assert stopped.returncode == 0, stopped.stderr
    assert "the time is over: tiny/twin/0" in stopped.stdout
    made = campaign(tiny_plan)
    assert made.returncode == 0, made.stderr
    assert "2 of 2 rows are there" in made.stdout
    with Path("kept/tiny.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["recipe"] for row in rows] == ["twin", "quiet"]
    assert all(float(row["spikes_per_image"]) > 0 and 0 <= float(row["accuracy_val"]) <= 1 for row in rows)
    assert "checkpoints/best.ckpt" in rows[1]["command"]
    assert "nothing to do" in campaign(tiny_plan).stdout
    again = campaign(f"{tiny_plan}/twin/0")
    assert f"accuracy_test {rows[0]['accuracy_test']}   kept row: {rows[0]['accuracy_test']}" in again.stdout
    assert f"spikes_per_image {rows[0]['spikes_per_image']}   kept" in again.stdout
    assert len(list(Path("runs").glob("digits-*/seed0-earlier1"))) >= 1


@pytest.mark.slow
def test_a_row_made_anew_is_begun_once_and_gone_on_with(tiny_plan):
    """Stopped, it is not begun a second time; once it has come to its end, it is."""
    assert campaign(f"{tiny_plan}/twin/0").returncode == 0
    lock = lock_path(tiny_plan)
    begun = lock.with_name(f"{lock.name}.anew")
    assert not begun.exists()
    begun.touch()  # as a run that was stopped leaves it
    again = campaign(f"{tiny_plan}/twin/0")
    assert "not trained again" in again.stdout
    assert not begun.exists()
    assert "not trained again" not in campaign(f"{tiny_plan}/twin/0").stdout
    # A fresh checkout has the rows that were kept, and no checkpoint.
    shutil.rmtree("runs")
    kept = Path("kept/tiny.csv").read_text()
    Path("kept/tiny.csv").write_text("".join(kept.splitlines(keepends=True)[:2]))
    elsewhere = campaign(tiny_plan)
    assert elsewhere.returncode == 0, elsewhere.stderr
    assert "=== tiny/twin/0: a checkpoint that others need" in elsewhere.stdout
    assert "2 of 2 rows are there" in elsewhere.stdout
    assert Path("kept/tiny.csv").read_text().splitlines()[1] == kept.splitlines()[1]


@pytest.mark.slow
def test_exits_of_a_network_are_a_row_without_training_it_again(tiny_plan):
    plan = yaml.safe_load(tiny_plan.read_text())
    plan["recipes"] = {
        "twin": ["--sparsity.end_value=0"],
        "stopped": {"exits_of": "twin", "target": 1e6, "measure": "margin"},
    }
    tiny_plan.write_text(yaml.safe_dump(plan, sort_keys=False))
    made = campaign(tiny_plan)
    assert made.returncode == 0, made.stderr
    assert made.stdout.count(": spikesparse train") == 1
    assert "tiny/stopped/0 (2 of 2): early exits of twin at 1e+06 spikes" in made.stdout
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
    assert campaign(f"{tiny_plan}/stopped/0", "--keep").returncode == 0
    with Path("kept/tiny.csv").open() as file:
        assert [row["hardware"] for row in csv.DictReader(file)] == [
            twin["hardware"],
            f"a GPU; exits on {twin['hardware']}",
        ]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_the_training_too(tiny_plan, number):
    with subprocess.Popen([*COMMAND, str(tiny_plan)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline().startswith("=== tiny/twin/0")
        lock = FileLock(lock_path(tiny_plan))
        assert is_held(lock)
        process.send_signal(number)
        rest = process.communicate(timeout=60)[0]
    assert process.returncode == (-signal.SIGINT if number == signal.SIGINT else 143)
    assert "0 of 2 rows are there" in rest
    assert "stopped by a signal: tiny/twin/0 goes on from its last epoch the next time" in rest
    assert not is_held(lock)  # which the training holds as well, as long as it lives


@pytest.mark.slow
def test_two_processes_share_the_runs(tiny_plan):
    plan = yaml.safe_load(tiny_plan.read_text())
    plan["seeds"] = [0, 1]
    tiny_plan.write_text(yaml.safe_dump(plan, sort_keys=False))
    both = [subprocess.Popen([*COMMAND, str(tiny_plan)], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    printed = [process.communicate(timeout=300)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], printed
    made = [[line.split()[1] for line in text.splitlines() if "spikesparse train" in line] for text in printed]
    assert all(made)  # neither was idle
    assert sorted(made[0] + made[1]) == ["tiny/quiet/0", "tiny/quiet/1", "tiny/twin/0", "tiny/twin/1"]
    with Path("kept/tiny.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 4


def test_a_checkpoint_that_is_needed_is_made_even_if_its_row_is_there(tiny_plan, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    twin, quiet = plan = read_plan(tiny_plan).runs
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
    monkeypatch.chdir(tmp_path)
    twin, quiet = plan = read_plan(tiny_plan).runs
    queue = Queue([quiet], set(), plan, tmp_path, ([], []))
    with lock_of(queue.folder(twin)):
        assert queue.take() is None
    folder = folder_of(queue.command(twin), 0)
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints/best.ckpt").touch()  # of an epoch that is not the last
    with lock_of(queue.folder(twin)):
        assert queue.take() is None
    (folder / "result.json").touch()
    run, lock = queue.take()
    assert (run, queue.runs) == (quiet, [])
    assert Queue([quiet], set(), plan, tmp_path, ([], [])).take() is None  # it is taken
    lock.close()


def test_list_and_unknown_names(tiny_plan, capsys):
    assert main(["campaign", str(tiny_plan), "--list"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        *("missing  tiny/twin/0", "missing  tiny/quiet/0", "0 of 2 rows are there")
    ]
    assert main(["campaign", str(tiny_plan), "--dry-run"]) == 0
    twin, quiet = capsys.readouterr().out.splitlines()
    assert twin.startswith(f"tiny/twin/0: spikesparse train --config {CONFIG} --data.source=npz ")
    assert "/seed0/checkpoints/best.ckpt --seed_everything=0" in quiet
    for words, said in (
        ([f"{tiny_plan}/twinn/0"], "tiny/twinn/0: not in the plan. Did you mean tiny/twin/0?"),
        ([str(tiny_plan), "--only", "nothing"], "--only=nothing: no run"),
        ([str(tiny_plan), "--seeds", "7"], "--seeds 7: of no plan that is named"),
        ([str(tiny_plan), "--workers", "0"], "--workers=0: it must be 1 or more"),
    ):
        assert main(["campaign", *words]) == 2
        assert said in capsys.readouterr().err
    assert not Path("runs").exists()


def test_plans_are_listed_without_waiting_for_torch():
    code = (
        "import sys\nfrom spikesparse.commands.main import main\nassert main(['--help']) == 0\n"
        "assert main(['campaign']) == 0\nassert main(['campaign', 'digits_loop', '--list']) == 0\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "digits_loop            0 of 18  rows  the digits, T=4, 16 epochs" in done.stdout
    assert "missing  digits_loop/budget_85/2" in done.stdout


@pytest.mark.parametrize(
    "flags",
    [
        ["nothing"],
        ["digits_loop", "--twin", "nothing"],
        ["digits_loop", "--twin", "no/twin"],
        ["digits_loop", "--seeds", "99"],
    ],
)
def test_a_comparison_of_no_rows_is_refused(flags, capsys):
    assert main(["campaign", *flags, "--table-only", "--results", str(ROOT / "results")]) == 2
    assert "has no rows of" in capsys.readouterr().err


def test_the_table_of_rows_that_are_there_needs_no_plan(tmp_path, capsys):
    """Two seeds, ten images: 9 and 7 right beside 10 and 9, so 1.5 of 10 lost; a quarter of the spikes."""
    rows = ("twin", 0, 100, 10), ("quiet", 0, 30, 9), ("twin", 1, 300, 9), ("quiet", 1, 70, 7)
    for recipe, seed, spikes, right in rows:
        row = dict.fromkeys(COLUMNS, "") | {"recipe": recipe, "seed": seed, "spikes_per_image": spikes}
        add_row("mine", row, np.arange(10) < right, tmp_path / "kept")
    assert main(["campaign", "mine", "--table-only", "--results", "kept"]) == 0
    heading, _, twin, quiet = capsys.readouterr().out.splitlines()
    assert heading == "| recipe | seeds | test accuracy | spikes/image | change | drop in points [95 %] | verdict |"
    assert twin == "| twin | 2 | 95.00 % | 200 |  |  |  |"
    assert quiet.startswith("| quiet | 2 | 80.00 % | 50 | -75.0 % | +15.00 [")
    assert quiet.endswith("] | open: 2 of 5 seeds |")


def test_half_the_interval_of_a_mean_is_that_of_student_s_t():
    """By hand: 1, 2, 4 have the mean 7/3 and the deviation sqrt(7/3); t is 4.3027, so 3.795."""
    mean, half = mean_interval([1.0, 2.0, 4.0])
    assert (mean, half) == (pytest.approx(7 / 3), pytest.approx(4.3027 * math.sqrt(7 / 3) / math.sqrt(3)))
    assert mean_interval([3.0]) == (3.0, math.inf)
    for freedom in (1, 4, 9, 30):  # with x = sqrt(freedom) tan(angle), the density beyond t is a cosine's power
        values = np.arange(freedom + 1.0)
        _, half = mean_interval(list(values))
        t = half / (values.std(ddof=1) / math.sqrt(len(values)))
        angle, step = np.linspace(math.atan(t / math.sqrt(freedom)), math.pi / 2, 10_001, retstep=True)
        scale = math.gamma((freedom + 1) / 2) / (math.sqrt(math.pi) * math.gamma(freedom / 2))
        beyond = scale * np.trapezoid(np.cos(angle) ** (freedom - 1), dx=step)
        assert beyond == pytest.approx(0.025, abs=2e-6)


def test_a_campaign_without_a_twin_ends_with_means(tmp_path):
    for seed, accuracy, spikes in ((0, 0.9, 100), (1, 0.8, 140)):
        numbers = {"accuracy_test": accuracy, "spikes_per_image": spikes, "synops_per_image": 5e6}
        row = dict.fromkeys(COLUMNS, "") | {"recipe": "r", "seed": seed, "energy_uj_per_image": 2} | numbers
        add_row("c", row, np.ones(3, bool), tmp_path)
    *_, line = means("c", tmp_path).splitlines()
    # t = 12.7062 and two values: half of the interval is t times half of their difference
    same = "5,000,000 [5,000,000, 5,000,000] | 2.000 [2.000, 2.000]"
    assert line == f"| r | 2 | 85.00 [21.47, 148.53] | 120.0 [-134.1, 374.1] | {same} |"
    assert closing_table("c", None, "spikes_per_image", tmp_path, None) == means("c", tmp_path)
    assert means("c", tmp_path, [1]).splitlines()[-1] == "| r | 1 | 80.00 | 140.0 | 5,000,000 | 2.000 |"
    early = closing_table("c", "twin", "spikes_per_image", tmp_path, None, at_any_rate=True)
    assert early.endswith("no comparison yet: there is no row of twin")


def test_another_table_of_that_name_is_refused(tmp_path, capsys):
    (tmp_path / "digits_loop.csv").write_text("run,seed\na,0\n")
    assert main(["campaign", "digits_loop", "--list", "--results", str(tmp_path)]) == 2
    assert "digits_loop.csv: a table with other columns than a campaign's" in capsys.readouterr().err


# Without training


@pytest.fixture
def faked(monkeypatch):
    """Runs that take no time: the names of the runs whose training was asked for, in order; some that fail."""
    asked, failing, running, at_once = [], set(), [], []

    def train(words, fresh, attempt):
        seed = int(words[-1].removeprefix("--seed_everything="))
        folder = folder_of(words, seed)
        with attempt.lock.path.with_suffix(".seen").open("a") as file:
            file.write("x")
        asked.append((folder, fresh))
        running.append(folder)
        at_once.append(len(running))
        attempt.limits.stop.wait(0.05)
        running.remove(folder)
        if any(word in failing for word in words):
            raise RunFailed("`spikesparse train` ended with status 2; what it said stands above")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "result.json").touch()
        return True

    def finish(run, words, exits, results, keep):
        numbers = {name: 1 + run.seed for name in COLUMNS if name.endswith(("_image", "_test"))}
        row = dict.fromkeys(COLUMNS, "") | {"recipe": run.recipe, "seed": run.seed} | numbers
        add_row(run.campaign, row, np.ones(4, bool), results)

    monkeypatch.setattr(crew, "train", train)
    monkeypatch.setattr(crew, "finish", finish)
    return asked, failing, at_once


MANY = {
    "config": str(CONFIG),
    "seeds": [0, 1, 2],
    "recipes": {"twin": ["--a=0"], "quiet": ["--a=1", "--b={twin}"], "loud": ["--a=2"], "late": ["--c={quiet}"]},
}


def test_two_workers_share_a_plan_and_make_each_run_once(faked, tmp_path, capsys):
    asked, _, at_once = faked
    plan = write_plan(tmp_path, "many", **MANY)
    assert main(["campaign", str(plan), "--workers", "2"]) == 0
    assert len(asked) == len({folder for folder, _ in asked}) == 12
    assert max(at_once) == 2
    assert {path.read_text() for path in Path("runs/.locks").glob("*.seen")} == {"x"}
    assert {(r["recipe"], r["seed"]) for r in rows_of("many", Path("results"))} == {
        (recipe, str(seed)) for recipe in MANY["recipes"] for seed in range(3)
    }
    said = capsys.readouterr().out
    assert "=== many/twin/0 (1 of 12): spikesparse train --config" in said
    assert "12 of 12 rows are there" in said
    assert "0 to begin\n" in said
    assert "| quiet | 3 | 100.00 % | 2 | +0.0 % | +0.00 [+0.00, +0.00] | open: 3 of 5 seeds |" in said
    asked.clear()
    assert main(["campaign", str(plan), "digits_loop", "--only=many", "--workers", "2"]) == 0
    assert asked == []
    said = capsys.readouterr().out
    assert "nothing to do: 12 of 12 rows are there" in said
    assert "| quiet | 3 |" in said
    assert "digits_loop" not in said


def test_a_run_that_fails_stops_those_alone_that_need_it(faked, tmp_path, capsys):
    asked, failing, _ = faked
    failing.add("--a=1")
    plan = write_plan(tmp_path, "many", **{**MANY, "seeds": [0]})
    assert main(["campaign", str(plan)]) == 2
    assert len(asked) == 3
    assert {r["recipe"] for r in rows_of("many", Path("results"))} == {"twin", "loud"}
    said = capsys.readouterr()
    assert "=== many/quiet/0 failed: `spikesparse train` ended with status 2" in said.out
    assert "2 of 4 runs failed, the first many/quiet/0: " in said.err
    failing.clear()
    assert main(["campaign", str(plan)]) == 0  # once that is mended, the same command goes on
    assert len(asked) == 5


def test_a_training_that_leaves_no_result_is_a_run_that_failed(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("spikesparse.commands.campaign.making.call", lambda words, attempt: True)
    plan = write_plan(tmp_path, config=str(CONFIG), seeds=[3], recipes={"a": ["--trainer.fast_dev_run=true"]})
    assert main(["campaign", str(plan)]) == 2
    assert "c/a/3: it left no runs/digits-" in capsys.readouterr().err


def test_it_gives_up_when_nothing_works(faked, tmp_path, capsys):
    asked, failing, _ = faked
    failing |= {"--a=0", "--a=1", "--a=2"}
    plan = write_plan(tmp_path, "many", **MANY, flags=[])
    assert main(["campaign", str(plan)]) == 2
    assert len(asked) < 12
    assert "given up: 3 runs failed and none came to its end" in capsys.readouterr().out


def test_two_campaigns_do_not_make_one_run_at_once(tmp_path):
    """The same command in two plans has one run folder, and so one lock."""
    queues = []
    for name in ("one", "two"):
        runs = read_plan(write_plan(tmp_path, name, config=str(CONFIG), seeds=[0], recipes={"a": []})).runs
        queues.append(Queue(runs, set(), runs, tmp_path, ([], [])))
    _, lock = queues[0].take()
    assert queues[1].take() is None
    lock.close()
    run, lock = queues[1].take()
    assert run.name == "two/a/0"
    lock.close()


@pytest.mark.parametrize(("number", "left_by"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_a_signal_is_noted_until_the_runs_are_put_away(number, left_by):
    limits, before = Limits(), signal.getsignal(number)
    seen = []

    def run():
        with crew.stopped_by_signals(limits):
            for _ in range(2):
                signal.raise_signal(number)
                seen.append((limits.stop.is_set(), limits.hurry.is_set()))

    with pytest.raises(left_by):
        run()
    assert seen == [(True, False), (True, True)]
    assert signal.getsignal(number) == before


@pytest.mark.parametrize("fresh", [[], ["--fresh"]])
@pytest.mark.filterwarnings("ignore")
def test_seeds_of_a_training_and_of_a_comparison(faked, fresh, capsys):
    asked, *_ = faked
    args = ["--config", str(CONFIG), "--sparsity.end_value=3"]
    assert main(["train", *args, "--seeds=2", *fresh]) == 0
    assert [(folder.name, anew) for folder, anew in asked] == [("seed0", bool(fresh)), ("seed1", bool(fresh))]
    assert "| digits | 2 | 150.00 [" in capsys.readouterr().out
    asked.clear()
    assert main(["compare", *args, "--seeds=4,7", "--workers=2", *fresh]) == 0
    assert sorted((f.name, f.parent.name == asked[0][0].parent.name) for f, _ in asked) == [
        *(("seed4", False), ("seed4", True), ("seed7", False), ("seed7", True))
    ]
    assert "| sparse | 2 | 100.00 % | 6 | +0.0 % |" in capsys.readouterr().out
    assert len(list(Path("results").glob("digits-*_compare.csv"))) == 1


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--seeds=0"], "--seeds=0: a number of seeds, as 5 for 0 to 4, or several of them, as 3,4"),
        (["--seeds=1,1"], "--seeds=1,1: a number of seeds"),
        (["--seeds"], "--seeds=: a number of seeds"),
        (["--seeds=2", "--seed_everything=3"], "--seeds and --seed_everything: name the seeds by one of them"),
        (["--seeds=2", "--workers=0"], "--workers=0: it must be 1 or more"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_seeds_that_are_none_are_refused(flags, said, capsys):
    assert main(["train", "--config", str(CONFIG), *flags]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_two_seeds_of_a_tiny_training_end_with_their_mean(tiny_args, capfd):
    args = ["train", "--config", str(CONFIG), *tiny_args]
    assert main([*args, "--seeds=2", "--workers=2"]) == 0
    said = capfd.readouterr().out
    (csv_file,) = Path("results").glob("digits-*_seeds.csv")
    assert f"{csv_file}\n" in said
    first, second = (float(row["spikes_per_image"]) for row in rows_of(csv_file.stem, Path("results")))
    mean, half = (first + second) / 2, 12.7062 * abs(first - second) / 2
    assert f"{mean:,.1f} [{mean - half:,.1f}, {mean + half:,.1f}]" in said
    assert main([*args, "--seed_everything=1"]) == 0  # the very run of the second seed
    assert "seed1 is this very run, finished" in capfd.readouterr().out
