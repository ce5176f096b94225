"""Plans of campaigns: those that are shipped, what a plan may say, and where it is found."""

from pathlib import Path

import pytest
import yaml

from refusals import refused_with
from spikesparse.commands.campaign import check
from spikesparse.commands.campaign.lookup import all_plans, find_config, find_plan
from spikesparse.commands.campaign.plan import read_plan, with_configs
from spikesparse.commands.main import main

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "configs/experiment/digits.yaml"


def shipped_runs():
    return [run for path in all_plans() for run in read_plan(path).runs]


def write_plan(folder, name="c", **settings):
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(settings, sort_keys=False))
    return path


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # LightningCLI's, of being called from Python
def test_every_command_of_the_plans_is_understood(cifar_like_npz):
    """One run of each recipe, parsed as the command line parses it."""
    from spikesparse.commands.cli import SpikeCLI

    class Parsed(Exception):
        pass

    class OnlyParse(SpikeCLI):
        def before_instantiate_classes(self):
            raise Parsed

    import sys

    sys.path.append(str(ROOT))  # as if called from the checkout: a recipe may name benchmarks.ideas
    for run in {(run.campaign, run.recipe): run for run in shipped_runs()}.values():
        words = [word.replace("configs/", f"{ROOT}/configs/") for word in run.arguments]
        with pytest.raises(Parsed):
            OnlyParse(["fit", *words[1:], "--data.source=npz", f"--data.data_dir={cifar_like_npz}"])


@pytest.mark.parametrize("recipe", [["--model.init_from={b}"], {"exits_of": "b", "target": 10}])
def test_a_recipe_stands_below_the_one_that_it_starts_from(recipe, tmp_path):
    path = write_plan(tmp_path, config="x.yaml", seeds=[0], recipes={"a": recipe, "b": []})
    with pytest.raises(ValueError, match="c/a/0 needs b"):
        read_plan(path)


def test_a_recipe_may_take_flags_from_a_list_that_several_share(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(
        "config: x.yaml\n"
        "shared: &shared [--a=1, --b=2]\n"
        "seeds: [3]\n"
        "recipes:\n"
        "  own: [y.yaml, *shared, --c=3]\n"
        "  exits: {exits_of: own, target: 3.0e+7, by: synops}\n"
    )
    own, exits = read_plan(path).runs
    assert own.arguments == ("train", "--config", "y.yaml", "--a=1", "--b=2", "--c=3", "--seed_everything=3")
    assert (exits.exits_of, exits.needs, exits.target, exits.by) == ("own", ["own"], 3e7, "synops")


def test_a_recipe_of_once_is_run_under_the_first_seed(tmp_path):
    plan = {"config": "x.yaml", "seeds": [5, 6], "recipes": {"a": []}, "once": {"b": {"exits_of": "a", "target": 9}}}
    paths = write_plan(tmp_path, "c", **plan), write_plan(tmp_path, "d", **plan, cuda=True)
    runs = [run for path in paths for run in read_plan(path).runs]
    assert [run.name for run in runs] == [f"{c}/{run}" for c in "cd" for run in ("a/5", "b/5", "a/6")]
    assert [run.cuda for run in runs] == [False] * 3 + [True] * 3


PLAN = {"config": "x.yaml", "seeds": [0, 1], "recipes": {"twin": [], "quiet": ["--a=1"]}}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"recipe": {}}, "recipe: unknown. Did you mean recipes? There are: about, config, flags, shared, seeds, "),
        ({"config": None}, "config is missing: a plan needs config, seeds and recipes"),
        ({"seeds": []}, "seeds is missing"),
        ({"recipes": {}}, "recipes is missing"),
        ({"seeds": 5}, "seeds: 5 is no list of whole numbers from 0, such as [0, 1, 2]"),
        ({"seeds": [0, "1"]}, "seeds: [0, '1'] is no list of whole numbers"),
        ({"seeds": [0, -1]}, "is no list of whole numbers from 0"),
        ({"seeds": [0, 1, 0]}, "seeds: [0, 1, 0] names a seed twice"),
        ({"cuda": "yes"}, "cuda: 'yes' is neither true nor false"),
        ({"about": 3}, "about: 3 is no text"),
        ({"flags": "--a=1"}, "flags: '--a=1' is no list of flags"),
        ({"flags": [{"--a": 1}]}, "flags: {'--a': 1} is no flag: write --name=value"),
        ({"flags": ["--seed_everything=3"]}, "--seed_everything=3: the seeds of a campaign are its `seeds`"),
        ({"recipes": ["twin"]}, "recipes: no mapping of a name to flags"),
        ({"recipes": {"a": None}}, "a: None is no list of flags, such as [--sparsity.end_value=0], or [] for none"),
        ({"recipes": {"a-b": []}}, "recipe 'a-b': a name is a text of letters, digits and _"),
        ({"recipes": {True: []}}, "recipe True: a name is a text"),
        ({"recipes": {"a": ["--b", 3]}}, "a: 3 is no flag: write --name=value"),
        ({"once": {"quiet": []}}, "quiet: in recipes and in once"),
        ({"twin": "twinn"}, "twin: there is no recipe twinn. Did you mean twin? There are: twin, quiet"),
        ({"once": {"e": {"exits": "twin"}}}, "e: exits: unknown. Did you mean exits_of? There are: exits_of, target, "),
        ({"once": {"e": {"target": 3}}}, "e: exits_of is missing"),
        ({"once": {"e": {"exits_of": "twin"}}}, "e: target: None is no number above 0"),
        ({"once": {"e": {"exits_of": "twin", "target": "3e7"}}}, "e: target: '3e7' is no number above 0"),
        ({"once": {"e": {"exits_of": "twin", "target": 3, "by": "ops"}}}, "e: by: 'ops' is none of spikes, synops"),
        ({"once": {"e": ["--b={quite}"]}}, "c/e/0 needs quite: there is no recipe quite. Did you mean quiet?"),
        ({"once": {"e": ["--b={e}"]}}, "c/e/0 needs e: a circle, e needs e"),
        (
            {"recipes": {"twin": [], "a": ["--x={b}"], "b": ["--x={d}"], "d": {"exits_of": "a", "target": 1}}},
            "c/a/0 needs b: a circle, a needs b needs d needs a",
        ),
        ({"recipes": {"a": ["--x={e}"]}, "once": {"e": []}}, "c/a/0 needs e, which is run once, under the first seed"),
        (
            {"once": {"e": {"exits_of": "quiet", "target": 1}, "f": {"exits_of": "e", "target": 1}}},
            "c/f/0 needs e, which trains nothing: name the recipe of that network, quiet",
        ),
        ({"first": PLAN, "second": PLAN}, "a plan is one campaign: give each of first, second a file of its own"),
    ],
)
def test_what_is_no_plan_is_refused_in_a_line_that_names_the_file(change, said, tmp_path, capsys):
    path = write_plan(tmp_path, **{**PLAN, **change})
    assert main(["campaign", str(path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"spikesparse: error: {path}: ")
    assert said in error
    assert error.count("\n") == 1


def test_a_plan_knows_what_can_be_counted_and_measured():
    from spikesparse.nn.early_exit import MEASURES
    from spikesparse.sparsity.controllers import COUNTED

    assert check.MEASURES == MEASURES
    assert tuple(COUNTED) == check.COUNTED


def test_a_shipped_plan_is_found_by_name_and_a_file_of_that_path_wins(tmp_path, capsys):
    shipped = ROOT / "configs/campaign/digits_loop.yaml"
    for name in ("digits_loop", "digits_loop.yaml", "configs/campaign/digits_loop.yaml"):
        assert find_plan(name) == shipped
    run = with_configs(read_plan(shipped), shipped).runs[0]
    assert run.arguments[2] == str(CONFIG)  # there is no configs/ in this folder
    mine = write_plan(tmp_path, "digits_loop", **{**PLAN, "config": str(CONFIG)})
    assert find_plan("digits_loop") == shipped
    assert find_plan("digits_loop.yaml") == Path(mine.name)
    folder = Path("configs/campaign")
    folder.mkdir(parents=True)
    here = write_plan(folder, "digits_loop", **PLAN)
    assert find_plan("digits_loop") == here
    with refused_with(r"PLAN digits_lop: no such file, .*\. Did you mean digits_loop"):
        find_plan("digits_lop")
    assert main(["campaign", str(mine), "digits_loop", "--list"]) == 2
    assert "two plans of one name, whose rows would mix" in capsys.readouterr().err


def test_the_configuration_of_a_plan_is_found_here_beside_it_or_by_name(tmp_path):
    (tmp_path / "plans").mkdir()
    plan = write_plan(tmp_path / "plans", **PLAN)
    with refused_with(r"config x\.yaml: no such file, neither here nor beside the plan"):
        with_configs(read_plan(plan), plan)
    beside = tmp_path / "plans/x.yaml"
    beside.touch()
    assert with_configs(read_plan(plan), plan).runs[0].arguments[2] == str(beside)
    Path("x.yaml").touch()
    assert with_configs(read_plan(plan), plan) == read_plan(plan)
    assert find_config("digits", plan) == find_config("configs/experiment/digits.yaml", plan) == str(CONFIG)
    with refused_with("Did you mean digits"):
        find_config("digit", plan)


def test_a_plan_lets_nothing_in_by_itself(tmp_path, capsys):
    recipes = {"own": ["--model.penalty=mine.Own", "--allow-import=mine,other"]}
    path = write_plan(tmp_path, **{**PLAN, "config": str(CONFIG), "recipes": recipes})
    assert main(["campaign", str(path), "--list", "--allow-import", "other"]) == 2
    assert (
        "own: --allow-import=mine: a plan cannot allow that by itself. If you trust it, add" in capsys.readouterr().err
    )
    assert main(["campaign", str(path), "--list", "--allow-import", "other,mine"]) == 0


def test_a_plan_is_read_as_settings_are(tmp_path, capsys):
    path = tmp_path / "c.yaml"
    path.write_text("config: x.yaml\nrecipes: &all {a: *all}\n")
    assert main(["campaign", str(path), "--list"]) == 2
    assert f"{path}: *all holds itself" in capsys.readouterr().err
