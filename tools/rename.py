"""Make a fresh clone of the template a project of your own: ``make rename NAME=my_project``.

Package folder, imports, class paths, console script, distribution, configurations, tests and pages take the new name.
What shows or measures the template itself goes: its results and the pages and pictures of them, its benchmarks and
their tests, its published campaigns, its citation. The changelog and the version start again, and the README says
where the project comes from. ``KEEP=all`` keeps all that, under the old name where it was measured. Last, this file,
its test and its target in the Makefile go: they are needed once. Checkpoints trained before name classes of the old
package, so rename before you train.

In a file that stays, a comment ``template only`` at the end of a line marks that line, and on a line of its own all
lines down to a comment ``end``.
"""

from __future__ import annotations

import argparse
import ast
import importlib.util
import keyword
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TEMPLATE = "spikesparse"
#: What shows or measures the template itself: files, and folders with all that is in them.
TEMPLATE_ONLY = (
    *("benchmarks/", "tests/benchmarks/", "results/", "configs/campaign/", "CITATION.cff"),
    *("docs/results.md", "docs/claim.png", "docs/exits.png", "docs/pareto.png", "docs/quiet.png"),
)
#: The plan that stays of those in configs/campaign, as an example; the tests of campaigns read it.
EXAMPLE = "configs/campaign/digits_loop.yaml"
#: Files that keep the old name with KEEP=all: what was measured under it, and its history.
OLD_NAME = ("CITATION.cff", "CHANGELOG.md", "results/")
#: What only this step needs, and runs of earlier versions, whose checkpoints name classes of the old package.
DONE = (
    *("tools/rename.py", "tests/project/test_rename.py"),
    *("tests/runs/test_earlier_version.py", "tests/runs/earlier_version/"),
)
CHANGELOG = """# Changelog

After [Keep a Changelog](https://keepachangelog.com/en/1.1.0/); versions after
[Semantic Versioning](https://semver.org/spec/v2.0.0.html).

## Unreleased
"""
ORIGIN = (
    f"Made from the {TEMPLATE} template{{citation}}, which implements Allred, Spencer, Srinivasan and Roy,\n"
    "*Explicitly Trained Spiking Sparsity in Spiking Neural Networks with Backpropagation*\n"
    "([arXiv 2003.01250](https://arxiv.org/abs/2003.01250)).\n"
)
#: A comment of Python, YAML, make or Markdown; in a row of a table, a | stands behind it.
_MARK = re.compile(r"[ \t]*(?:# template only|<!-- template only -->)(?P<row>(?: \|)?)$")
_END = re.compile(r"[ \t]*(?:# end|<!-- end -->)$")


class Refusal(Exception):
    """Why nothing was changed, in one line."""


def git(*args: str) -> str:
    """What git answers, run in this repository."""
    return subprocess.run(["git", "-C", str(ROOT), *args], capture_output=True, text=True, check=True).stdout


def project_files() -> list[str]:
    """What git tracks, and what it would if it were added (there is such a file only with FORCE=1)."""
    listed = git("ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0")
    return sorted({name for name in listed if name and (ROOT / name).is_file() and not (ROOT / name).is_symlink()})


def imported(files: list[str]) -> set[str]:
    """Top-level modules that the project imports, which a bare interpreter may not have."""
    names: set[str] = set()
    for file in files:
        if file.endswith(".py"):
            for node in ast.walk(ast.parse((ROOT / file).read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import):
                    names.update(alias.name.partition(".")[0] for alias in node.names)
                elif isinstance(node, ast.ImportFrom) and node.module:
                    names.add(node.module.partition(".")[0])
    return names


def check(name: str, force: bool) -> list[str]:
    """The project's files, if it can take this name.

    Raises:
        Refusal: if it cannot.
    """
    if name == TEMPLATE:
        raise Refusal(f"NAME={name}: that is the template's own name; choose another.")
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name) or keyword.issoftkeyword(name):
        raise Refusal(
            f"NAME={name}: no name for a Python package; use lower-case letters, digits and _, a letter first, and no "
            "keyword: NAME=my_project."
        )
    if not (ROOT / "src" / TEMPLATE).is_dir():
        raise Refusal(f"NAME={name}: this project was renamed already: there is no src/{TEMPLATE}.")
    try:
        changed, files = git("status", "--porcelain"), project_files()
    except (OSError, subprocess.CalledProcessError):
        raise Refusal(f"NAME={name}: {ROOT} is no git repository; clone it, or git init, add and commit.") from None
    if changed and not force:
        raise Refusal(
            f"NAME={name}: {len(changed.splitlines())} files differ from the last commit, the first is "
            f"{changed.splitlines()[0][3:]}; commit or stash them, or say FORCE=1."
        )
    if name in sys.stdlib_module_names or name in imported(files) or importlib.util.find_spec(name) is not None:
        raise Refusal(f"NAME={name}: a module of that name can be imported already and one would hide the other.")
    if any((ROOT / folder / name).exists() for folder in ("", "src")):
        raise Refusal(f"NAME={name}: the repository has a file or folder of that name; choose another.")
    return files


def without_marked(text: str, keep: bool) -> str:
    """A text without the passages that are marked, or, to keep them, without the marks.

    Raises:
        ValueError: if a passage that is marked has no end.
    """
    left: list[str] = []
    inside, joins = False, False
    for line in text.splitlines(keepends=True):
        bare = line.rstrip("\n")
        mark = _MARK.search(bare)
        if inside:
            inside = not _END.fullmatch(bare)
            left += [line] if inside and keep else []
            joins = not inside and not keep and left[-1:] == ["\n"]
        elif joins and not bare:  # a blank line before the passage and one behind it: one is enough
            joins = False
        elif mark is None:
            left.append(line)
            joins = False
        elif not bare[: mark.start()]:
            inside = True
        elif keep:
            left.append(bare[: mark.start()] + mark["row"] + line[len(bare) :])
    if inside:
        raise ValueError("template only: there is no comment `end` behind it.")
    return "".join(left)


def rewrite(file: str, name: str, keep: bool) -> bool:
    """Rename inside one text file; whether that changed it."""
    path = ROOT / file
    raw = path.read_bytes()
    try:
        before = raw.decode("utf-8")
    except UnicodeDecodeError:
        return False
    if "\0" in before:
        return False
    after = before
    if file == "CHANGELOG.md":  # only without KEEP=all, as the version's
        after = CHANGELOG
    elif file.endswith("files/version.py") and not keep:
        after = re.sub(r'^__version__ = ".*"$', '__version__ = "0.1.0"', before, flags=re.MULTILINE)
    after = without_marked(after, keep).replace(TEMPLATE, name).replace(TEMPLATE.upper(), name.upper())
    if file == "Makefile":
        after = re.sub(r"^\.PHONY: rename\nrename:.*\n(\t.*\n)+\n", "", after, flags=re.MULTILINE)
    elif file in ("README.md", "CONTRIBUTING.md"):
        after = re.sub(r"^.*make rename.*\n", "", after, flags=re.MULTILINE)
    if file == "README.md":
        title, rest = after.split("\n", 1)
        after = f"{title}\n\n{ORIGIN.format(citation=' ([citation](CITATION.cff))' if keep else '')}{rest}"
    if after != before:
        path.write_bytes(after.encode("utf-8"))
    return after != before


def remove(file: str) -> None:
    """Remove a file, and the folders that it leaves empty."""
    path = ROOT / file
    path.unlink()
    for folder in path.parents:
        if folder == ROOT or any(folder.iterdir()):
            break
        folder.rmdir()


def rename(name: str, files: list[str], keep: bool) -> list[str]:
    """Do it; the lines that say what was changed."""
    own = [file for file in files if file.startswith(TEMPLATE_ONLY) and file != EXAMPLE and not keep]
    gone = own + [file for file in files if file.startswith(DONE)]
    same = ("LICENSE", *gone, *(OLD_NAME if keep else ()))
    changed = [file for file in files if not file.startswith(same) and rewrite(file, name, keep)]
    for file in gone:
        remove(file)
    git("mv", f"src/{TEMPLATE}", f"src/{name}")
    git("add", "--all")
    lines = [
        f"moved    src/{TEMPLATE} to src/{name}",
        f"changed  {len(changed)} files: "
        + ", ".join(file for file in changed if "/" not in file)
        + " and in "
        + ", ".join(sorted({file.partition("/")[0] + "/" for file in changed if "/" in file})),
        "removed  " + ", ".join(DONE) + " and `make rename`",
    ]
    if keep:
        return [*lines, "kept     " + ", ".join(OLD_NAME) + f": they are {TEMPLATE}'s"]
    return [
        *lines,
        f"removed  {len(own)} files of {TEMPLATE}'s own results and benchmarks, and what the rest says of them: "
        + ", ".join(TEMPLATE_ONLY)
        + f" (but {EXAMPLE})",
        "removed  others' points in the figure of `make pareto`",
        "began    CHANGELOG.md and the version, 0.1.0, anew",
    ]


def main() -> int:
    """Rename; 2 if nothing was done because it could not be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="the new package, such as my_project")
    name = parser.parse_args().name
    keep = os.environ.get("KEEP", "")
    try:
        if keep not in ("", "all"):
            raise Refusal(f"KEEP={keep}: say KEEP=all, which keeps results, benchmarks and what belongs to them.")
        lines = rename(name, check(name, os.environ.get("FORCE", "") not in ("", "0")), keep == "all")
    except Refusal as refusal:
        print(f"make rename: {refusal}", file=sys.stderr)
        return 2
    print("\n".join(lines))
    print(
        "Next: make lint ARGS=--fix && make format    (another name sorts and fits otherwise)\n"
        "      make test\n"
        f"      git commit -am 'Made from the {TEMPLATE} template'\n"
        "Then put your title, your description and your names into README.md, pyproject.toml and "
        + ("CITATION.cff." if keep else "mkdocs.yml.")
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
