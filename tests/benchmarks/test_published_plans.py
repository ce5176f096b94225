"""The plans behind the published results."""

from pathlib import Path

import pytest
import yaml

from spikesparse.commands.campaign.lookup import find_plan
from spikesparse.commands.campaign.plan import read_plan
from spikesparse.commands.main import main

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.filterwarnings("ignore")  # LightningCLI's, of being called from Python
@pytest.mark.parametrize("steps", ["eight", "sixteen"])
def test_the_recipe_of_many_steps_is_what_its_rows_were_made_with(steps, capsys):
    def settings(*args):
        with pytest.raises(SystemExit):
            main(["fit", *args, "--print_config"])
        return yaml.safe_load(capsys.readouterr().out)

    runs = read_plan(find_plan(f"vgg7_{steps}_steps")).runs
    run = next(run for run in runs if run.recipe == "started" and run.seed == 0)
    words = [word.replace("configs/", f"{ROOT}/configs/") for word in run.arguments[1:]]
    recipe = settings("--config", str(ROOT / f"configs/experiment/cifar10_vgg7_{steps}_steps.yaml"))
    assert settings(*words) == {**recipe, "seed_everything": 0}


def test_a_shipped_plan_may_let_in_what_it_names(capsys):
    assert main(["campaign", "ideas_proxy", "--list"]) == 0  # of others: test_campaign_plans.py
