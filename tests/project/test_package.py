"""The package as a whole: what it exports, and what git and a wheel carry."""

import importlib
import subprocess

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


def test_network_code_does_not_import_lightning():
    for path in sorted((REPOSITORY / "src" / "spikesparse").glob("nn/*.py")):
        assert "lightning" not in path.read_text().replace("without Lightning", ""), path
    importlib.import_module("spikesparse.nn")


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
