"""`make rename` makes a clone a project of its own, or changes nothing and says why."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
OLD, NEW = "spikesparse", "quietnet_2"

#: Every line that may hold the old name afterwards: what was measured, what it was made from, and whom to cite.
STAY = {
    "CHANGELOG.md": r".*",
    "CITATION.cff": r'title: "spikesparse: .*|  - name: The spikesparse authors',
    "README.md": r"Made from the spikesparse template \(\[citation\]\(CITATION.cff\)\), .*",
    "results/cifar10_vgg7_cpu.csv": r"cifar10_vgg7_.*,spikesparse train --config .*",
    "results/pareto_digits.csv": r"\d+,complete,.*,spikesparse fit --config .*",
    "results/train_step.csv": r"(spikesparse|limit|spikingjelly|snntorch|norse|sinabs).*,(cpu|cuda),.*",
    "results/train_step_profile.csv": r"(spikesparse|limit).*,cuda,.*",
    "results/kill.csv": r"# spikesparse: .*",
    "results/soak.csv": r"epoch,seconds,.*,spikesparse,torch,.*",
    "results/crosscheck.csv": r"# 8 images, T=4; spikesparse \S+, torch .*",
}
CAMPAIGNS = sorted(path.stem for path in (ROOT / "configs/campaign").glob("*.yaml"))  # each that has rows
ROW = r"\w+,\d+,.*,\"?spikesparse (train --config|exits) .*"
STAY |= {f: ROW for c in CAMPAIGNS if (ROOT / (f := f"results/{c}.csv")).exists()}


def run(*command, cwd, **environment):
    return subprocess.run(
        [*map(str, command)], cwd=cwd, capture_output=True, text=True, check=False, env={**os.environ, **environment}
    )


def rename(project, name, **environment):
    return run(sys.executable, "tools/rename.py", name, cwd=project, **environment)


def clone(folder):
    """The working tree as it is now, committed: what is not committed yet is tested too."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=ROOT).stdout
    for name in listed.split("\0"):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    for command in (["init", "-q"], ["add", "--all"], ["commit", "-q", "-m", "template"]):
        done = run("git", "-c", "user.name=t", "-c", "user.email=t@example.org", *command, cwd=folder)
        assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def untouched(tmp_path_factory):
    """A clone that every refusal must leave as it was."""
    return clone(tmp_path_factory.mktemp("untouched"))


@pytest.fixture(scope="module")
def renamed(tmp_path_factory):
    project = clone(tmp_path_factory.mktemp("renamed"))
    done = rename(project, NEW)
    assert done.returncode == 0, done.stderr
    return project, done.stdout


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("", "NAME=: no name for a Python package"),
        ("My_project", "NAME=My_project: no name for a Python package"),
        ("my-project", "NAME=my-project: no name"),
        ("2nets", "NAME=2nets: no name"),
        ("lambda", "NAME=lambda: no name"),
        ("match", "NAME=match: no name"),
        ("json", "NAME=json: a module of that name"),
        ("torch", "NAME=torch: a module of that name"),
        ("oracle", "NAME=oracle: a module of that name"),  # tests/oracle.py
        ("docs", "NAME=docs: the repository has a file or folder of that name"),
        (OLD, "the template's own name"),
    ],
)
def test_a_name_that_cannot_be_is_refused(untouched, name, words):
    done = rename(untouched, name)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert words in done.stderr
    assert run("git", "status", "--porcelain", cwd=untouched).stdout == ""


def test_changes_that_are_not_committed_are_refused_unless_forced(tmp_path):
    project = clone(tmp_path)
    (project / "src" / OLD / "mine.py").write_text(f"import {OLD}.nn\n")
    done = rename(project, NEW)
    assert done.returncode == 2
    assert f"1 files differ from the last commit, the first is src/{OLD}/mine.py; commit or stash" in done.stderr
    assert rename(project, NEW, FORCE="1").returncode == 0
    assert (project / "src" / NEW / "mine.py").read_text() == f"import {NEW}.nn\n"


def test_twice_is_refused(renamed, tmp_path):
    project = shutil.copytree(renamed[0], tmp_path / "again")
    shutil.copy(ROOT / "tools" / "rename.py", project / "tools" / "rename.py")
    done = rename(project, "another")
    assert done.returncode == 2
    assert f"renamed already: there is no src/{OLD}" in done.stderr


def test_outside_a_repository_it_says_how_to_make_one(untouched, tmp_path):
    project = shutil.copytree(untouched, tmp_path / "zip", ignore=shutil.ignore_patterns(".git"))
    done = rename(project, NEW, GIT_CEILING_DIRECTORIES=str(tmp_path))
    assert done.returncode == 2
    assert "is no git repository" in done.stderr


def test_the_old_name_stays_only_where_it_is_due(renamed):
    project, _ = renamed
    found = {}
    for path in run("git", "ls-files", cwd=project).stdout.splitlines():
        assert OLD not in path.lower()
        raw = (project / path).read_bytes()
        for line in raw.decode(errors="replace").splitlines():
            if OLD in line.lower():
                found.setdefault(path, []).append(line)
    stray = {path: [x for x in lines if not re.fullmatch(STAY.get(path, "$."), x)] for path, lines in found.items()}
    assert not any(stray.values()), stray
    assert set(found) == set(STAY)


def test_what_is_the_template_s_stays_and_what_only_it_needs_goes(renamed):
    project, said = renamed
    for name in ("LICENSE", "CITATION.cff", "CHANGELOG.md", "results/crosscheck.csv", f"src/{NEW}/data/digits.npz"):
        assert (project / name).read_bytes() == (ROOT / name.replace(NEW, OLD)).read_bytes(), name
    for name in ("tools/rename.py", "tests/project/test_rename.py", f"src/{OLD}"):
        assert not (project / name).exists()
    mentions = run("git", "grep", "-l", "make rename", cwd=project).stdout.split()
    assert mentions in ([], ["CHANGELOG.md"])
    assert "make rename" not in run("make", "help", cwd=project).stdout
    assert (project / "README.md").read_text().startswith(f"# {NEW}\n\nMade from the {OLD} template")
    assert f"moved    src/{OLD} to src/{NEW}" in said
    assert "make test" in said
    assert "git commit" in said


def test_it_is_imported_and_run_by_its_new_name(renamed):
    project, _ = renamed
    command = (sys.executable, "-m", NEW)
    assert run(*command, "--version", cwd=project, PYTHONPATH="src").stdout.startswith(f"{NEW} 0.")
    lines = [
        f"import sys, {NEW}",
        f"assert {NEW}.LIF.__module__ == '{NEW}.nn.neurons'",
        f"assert '{OLD}' not in sys.modules",
        f"print({NEW}.__file__)",
    ]
    done = run(sys.executable, "-c", "\n".join(lines), cwd=project, PYTHONPATH="src")
    assert done.stdout.strip() == str(project / "src" / NEW / "__init__.py"), done.stderr
    text = (project / "pyproject.toml").read_text()
    assert f'name = "{NEW}"' in text
    assert f'{NEW} = "{NEW}.__main__:entry"' in text
    assert f"class_path: {NEW}.SpikingVGG" in (project / "configs" / "base.yaml").read_text()


def test_a_renamed_project_is_clean_once_formatted(renamed, tmp_path):
    project = shutil.copytree(renamed[0], tmp_path / "formatted")
    ruff, code = (sys.executable, "-m", "ruff"), ("src", "tests", "benchmarks", "tools", "examples")
    for command in (("check", "--fix", *code), ("format", *code)):
        done = run(*ruff, *command, cwd=project)
        assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_the_tests_of_a_renamed_project_pass(tmp_path):
    project = clone(tmp_path)
    assert rename(project, NEW).returncode == 0
    done = run(sys.executable, "-m", "pytest", "-q", "-x", cwd=project, PYTHONPATH=str(project / "src"))
    assert done.returncode == 0, done.stdout[-3000:]
