"""The package as a whole: what it exports, and what git and a wheel carry."""

import re
import subprocess
import tomllib

import pytest

import spikesparse
from spikesparse.files.paths import PACKAGE

REPOSITORY = PACKAGE.parents[1]
SETTLED = [
    *("SpikingVGG", "LIF", "IF", "SpikingOutput", "SpikeTally", "SpikingClassifier", "CIFAR10DataModule"),
    *("DirectEncoder", "PoissonEncoder", "SpikePenalty", "SparsityAnnealing", "SpikeBudget", "SpikeRate"),
    *("SynapticOperations", "Energy", "load_run"),
]


@pytest.mark.parametrize("name", SETTLED)
def test_public_name_is_exported_and_documented(name):
    assert name in spikesparse.__all__
    assert name in dir(spikesparse)
    assert getattr(spikesparse, name).__doc__


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="Nothing"):
        _ = spikesparse.Nothing


def git(*args):
    return subprocess.run(["git", "-C", str(REPOSITORY), *args], capture_output=True, text=True, check=True).stdout


def test_every_module_under_src_is_tracked_by_git():
    """A pattern such as `data/` in .gitignore would leave a package out of every clone."""
    if not (REPOSITORY / ".git").exists():
        pytest.skip("not a git checkout")
    tracked = set(git("ls-files", "src").split())
    source = REPOSITORY / "src" / "spikesparse"
    present = {str(p.relative_to(REPOSITORY)) for p in source.rglob("*") if p.suffix in (".py", ".npz", ".md")}
    assert len(present) > 30
    assert present <= tracked, f"not tracked: {sorted(present - tracked)}"


def test_the_floor_of_lightning_and_not_its_twin():
    """2.6.6 has the allow-list of load_from_checkpoint; of `lightning`, 2.6.2 and 2.6.3 were malware (SECURITY.md)."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    asked = [*project["dependencies"], *(each for extra in project["optional-dependencies"].values() for each in extra)]
    names = {re.split(r"[\[<>=~!; ]", each)[0].lower(): each for each in asked}
    assert names["pytorch-lightning"] == "pytorch-lightning>=2.6.6"
    assert "lightning" not in names
    for file in ("constraints.txt", "constraints-oldest.txt"):
        pins = dict(line.split("==") for line in (REPOSITORY / file).read_text().splitlines() if "==" in line)
        assert tuple(map(int, pins["pytorch-lightning"].split("."))) >= (2, 6, 6), file
        assert "lightning" not in pins, file


def test_make_help_lists_every_target():
    text = subprocess.run(["make", "-C", str(REPOSITORY)], capture_output=True, text=True, check=True).stdout
    for target in (
        "train",
        "compare",
        "campaign",
        "test",
        "test-all",
        "lint",
        "format",
        "types",
        "docs",
        "tensorboard",
    ):
        assert f"make {target} " in text
