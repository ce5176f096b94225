"""`make rename` makes a clone a project of its own, or changes nothing and says why."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
OLD, NEW = "spikesparse", "quietnet_2"

#: Every line that may hold the old name afterwards: what it was made from.
STAY = {"README.md": r"Made from the spikesparse template, .*"}
#: With KEEP=all, also what was measured, and whom to cite.
KEPT = {
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
KEPT |= {f: ROW for c in CAMPAIGNS if (ROOT / (f := f"results/{c}.csv")).exists()}


def run(*command, cwd, **environment):
    return subprocess.run(
        [*map(str, command)], cwd=cwd, capture_output=True, text=True, check=False, env={**os.environ, **environment}
    )


def script():
    """The module of tools/rename.py."""
    spec = importlib.util.spec_from_file_location("rename_script", ROOT / "tools/rename.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rename(project, name, **environment):
    environment = {"KEEP": "", "FORCE": "", **environment}
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


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """Renamed, with the template's results."""
    project = clone(tmp_path_factory.mktemp("kept"))
    done = rename(project, NEW, KEEP="all")
    assert done.returncode == 0, done.stderr
    return project, done.stdout


def files(project):
    return run("git", "ls-files", cwd=project).stdout.splitlines()


def template_files():
    """Those of the working tree, under their new names."""
    listed = run("git", "ls-files", "--cached", "--others", "--exclude-standard", cwd=ROOT).stdout.splitlines()
    return {name.replace(OLD, NEW) for name in listed if (ROOT / name).is_file()}


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


def test_only_all_can_be_kept(untouched):
    done = rename(untouched, NEW, KEEP="results")
    assert (done.returncode, done.stdout) == (2, "")
    assert "KEEP=results: say KEEP=all" in done.stderr
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


@pytest.mark.parametrize(("clone_of", "may"), [("renamed", STAY), ("kept", KEPT)])
def test_the_old_name_stays_only_where_it_is_due(clone_of, may, request):
    project, _ = request.getfixturevalue(clone_of)
    found = {}
    for path in files(project):
        assert OLD not in path.lower()
        raw = (project / path).read_bytes()
        for line in raw.decode(errors="replace").splitlines():
            if OLD in line.lower():
                found.setdefault(path, []).append(line)
    stray = {path: [x for x in lines if not re.fullmatch(may.get(path, "$."), x)] for path, lines in found.items()}
    assert not any(stray.values()), stray
    assert set(found) == set(may)


@pytest.mark.parametrize("clone_of", ["renamed", "kept"])
def test_what_only_renaming_needs_goes(clone_of, request):
    project, said = request.getfixturevalue(clone_of)
    for name in ("LICENSE", f"src/{NEW}/data/digits.npz"):
        assert (project / name).read_bytes() == (ROOT / name.replace(NEW, OLD)).read_bytes(), name
    for name in ("tools/rename.py", "tests/project/test_rename.py", f"src/{OLD}"):
        assert not (project / name).exists()
    mentions = run("git", "grep", "-lE", "make rename|template only|<!-- end", cwd=project).stdout.split()
    assert mentions in ([], ["CHANGELOG.md"])
    assert "make rename" not in run("make", "help", cwd=project).stdout
    assert (project / "README.md").read_text().startswith(f"# {NEW}\n\nMade from the {OLD} template")
    assert f"moved    src/{OLD} to src/{NEW}" in said
    assert "make test" in said
    assert "git commit" in said


def test_what_is_the_template_s_goes_and_nothing_that_is_left_names_it(renamed):
    project, said = renamed
    left = set(files(project))
    gone = template_files() - left
    folders = {"benchmarks", "results", "tests/benchmarks"}
    assert not any((project / name).exists() for name in (*folders, "CITATION.cff", "docs/results.md"))
    assert {"docs/claim.png", "configs/campaign/vgg7_iso.yaml", "benchmarks/kill.py", "results/soak.csv"} <= gone
    assert left >= {"docs/dashboard.png", "configs/campaign/digits_loop.yaml", "tests/commands/test_campaign.py"}
    folded = ("benchmarks/", "results/", "tests/benchmarks/", "docs/", "configs/campaign/", "CITATION.cff")
    done = {"tools/rename.py", "tests/project/test_rename.py"} | {x for x in gone if "earlier_version" in x}
    assert not [name for name in gone - done if not name.startswith(folded)]
    targets = r"make (crosscheck|overhead|peers|benchmark|fuzz|soak|reproduce|kill)\b"
    plans = {Path(name).stem for name in gone if name.startswith("configs/campaign/")}
    asked = rf"campaign ({'|'.join(plans)})\b|PLAN=({'|'.join(plans)})\b"
    pages = "|".join(re.escape(Path(name).name) for name in gone if name.startswith("docs/"))
    pattern = re.compile(rf"benchmarks/|{targets}|{asked}|CITATION|[( /]({pages})\b")
    named = {
        name: match[0]
        for name in left
        if name.endswith((".py", ".md", ".yml", ".yaml", ".toml", "Makefile", ".sbatch", "run"))
        if (match := pattern.search((project / name).read_text()))
    }
    assert not named
    help_text = run("make", "help", cwd=project).stdout
    assert "make campaign" in help_text
    assert not re.search(targets, help_text)
    assert f"removed  {len(gone - done)} files of {OLD}'s own" in said
    lines = (project / "Makefile").read_text().splitlines()
    assert not [line for line in lines if line.startswith((".crosscheck", ".peers", "WITNESSES", "PEERS"))]


def test_changelog_and_version_begin_anew_and_nobody_else_s_points_are_drawn(renamed):
    project, said = renamed
    assert [x for x in (project / "CHANGELOG.md").read_text().splitlines() if x.startswith("#")] == [
        *("# Changelog", "## Unreleased")
    ]
    version = (project / "src" / NEW / "files/version.py").read_text()
    assert '__version__ = "0.1.0"' in version
    code = f"from {NEW}.commands.pareto.published import *; print(RELATIVE, ABSOLUTE)"
    assert run(sys.executable, "-c", code, cwd=project, PYTHONPATH="src").stdout == "() ()\n"
    assert "CHANGELOG.md and the version" in said


def test_keep_all_keeps_what_was_measured(kept):
    project, said = kept
    for name in ("CITATION.cff", "CHANGELOG.md", "results/crosscheck.csv", "docs/claim.png"):
        assert (project / name).read_bytes() == (ROOT / name).read_bytes(), name
    gone = template_files() - set(files(project))
    assert {x for x in gone if "earlier_version" not in x} == {"tools/rename.py", "tests/project/test_rename.py"}
    assert "make kill" in run("make", "help", cwd=project).stdout
    for name in ("README.md", "docs/speed.md", "Makefile", "mkdocs.yml"):  # as it was, without the marks
        before = (ROOT / name).read_text().replace(OLD, NEW).replace(OLD.upper(), NEW.upper()).splitlines()
        after = set((project / name).read_text().splitlines())
        lost = [re.sub(r" ?(# template only|<!-- template only -->)", "", line) for line in before]
        lost = [x for x in lost if x and x not in after and x not in ("# end", "<!-- end -->") and "rename" not in x]
        assert not lost, name
    assert "kept     CITATION.cff" in said


@pytest.mark.parametrize(
    ("text", "without", "kept"),
    [
        ("a\nb # template only\nc\n", "a\nc\n", "a\nb\nc\n"),
        ("| a |\n| b <!-- template only --> |\n| c |\n", "| a |\n| c |\n", "| a |\n| b |\n| c |\n"),
        (
            *("a\n\n<!-- template only -->\nb\n\nc\n<!-- end -->\n\nd\n\n\ne\n", "a\n\nd\n\n\ne\n"),
            "a\n\nb\n\nc\n\nd\n\n\ne\n",
        ),
        ("x = (\n    # template only\n    1,\n    # end\n)\n", "x = (\n)\n", "x = (\n    1,\n)\n"),
        ("it names `# template only` only\n# end\n", *["it names `# template only` only\n# end\n"] * 2),
    ],
)
def test_marked_passages_by_hand(text, without, kept):
    module = script()
    assert module.without_marked(text, keep=False) == without
    assert module.without_marked(text, keep=True) == kept


def test_a_passage_without_an_end_is_no_passage():
    with pytest.raises(ValueError, match="no comment `end`"):
        script().without_marked("a\n# template only\nb\n", keep=False)


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


@pytest.mark.parametrize("clone_of", ["renamed", "kept"])
def test_a_renamed_project_is_clean_once_formatted(clone_of, tmp_path, request):
    project = shutil.copytree(request.getfixturevalue(clone_of)[0], tmp_path / "formatted")
    for target in ("lint", "format"):
        done = run("make", target, "ARGS=--fix", "VENV=none", f"PYTHON={sys.executable}", cwd=project)
        assert done.returncode == 0, done.stdout


@pytest.mark.slow
@pytest.mark.launches  # it uses all cores, and some of its tests have a time by which they must be done
@pytest.mark.timeout(3600)
def test_the_tests_of_a_renamed_project_pass(tmp_path):
    project = clone(tmp_path)
    assert rename(project, NEW).returncode == 0
    python = ("VENV=none", f"PYTHON={sys.executable}")
    for command in (("lint", "ARGS=--fix"), ("format",), ("docs",), ("test", "ARGS=-x")):
        done = run("make", *command, *python, cwd=project, NO_MKDOCS_2_WARNING="1")
        assert done.returncode == 0, (command, done.stdout[-3000:], done.stderr[-3000:])
