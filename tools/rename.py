"""Make a fresh clone of the template a project of one's own: ``make rename NAME=my_project``.

Package folder, imports, class paths, console script, distribution, configurations, tests and pages take the new name.
What the template measured (results/), its history (CHANGELOG.md) and its citation (CITATION.cff) keep the old one, and
the README says where the project comes from. Last, this file, its test and its target in the Makefile go: they have
done their work. Checkpoints trained before name classes of the old package, so rename before you train.
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
#: Files that are about the template itself, whatever the project's name.
KEPT = ("CITATION.cff", "CHANGELOG.md", "LICENSE", "results/")
#: Files that only this step needs.
DONE = ("tools/rename.py", "tests/project/test_rename.py")
ORIGIN = (
    f"Made from the {TEMPLATE} template ([citation](CITATION.cff)), which implements Allred, Spencer, Srinivasan and "
    "Roy,\n*Explicitly Trained Spiking Sparsity in Spiking Neural Networks with Backpropagation*\n"
    "([arXiv 2003.01250](https://arxiv.org/abs/2003.01250)).\n"
)


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


def rewrite(file: str, name: str) -> bool:
    """Rename inside one text file; whether that changed it."""
    path = ROOT / file
    raw = path.read_bytes()
    try:
        before = raw.decode("utf-8")
    except UnicodeDecodeError:
        return False
    if "\0" in before:
        return False
    after = before.replace(TEMPLATE, name).replace(TEMPLATE.upper(), name.upper())
    if file == "Makefile":
        after = re.sub(r"^rename:.*\n(\t.*\n)+\n", "", after, flags=re.MULTILINE).replace(" rename ", " ")
    elif file == "README.md":
        lines = [line for line in after.splitlines(keepends=True) if "make rename" not in line]
        after = lines[0] + "\n" + ORIGIN + "".join(lines[1:])
    if after != before:
        path.write_bytes(after.encode("utf-8"))
    return after != before


def rename(name: str, files: list[str]) -> list[str]:
    """Do it; the lines that say what was changed."""
    changed = [file for file in files if not file.startswith(KEPT) and file not in DONE and rewrite(file, name)]
    git("mv", f"src/{TEMPLATE}", f"src/{name}")
    git("rm", "--quiet", "--force", "--ignore-unmatch", *DONE)
    git("add", "--all")
    return [
        f"moved    src/{TEMPLATE} to src/{name}",
        f"changed  {len(changed)} files: "
        + ", ".join(file for file in changed if "/" not in file)
        + " and in "
        + ", ".join(sorted({file.partition("/")[0] + "/" for file in changed if "/" in file})),
        "removed  " + ", ".join(DONE) + " and `make rename`",
        "kept     " + ", ".join(KEPT) + f": they are {TEMPLATE}'s",
    ]


def main() -> int:
    """Rename; 2 if nothing was done because it could not be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="the new package, such as my_project")
    name = parser.parse_args().name
    try:
        lines = rename(name, check(name, os.environ.get("FORCE", "") not in ("", "0")))
    except Refusal as refusal:
        print(f"make rename: {refusal}", file=sys.stderr)
        return 2
    print("\n".join(lines))
    print(
        "Next: make lint ARGS=--fix && make format    (another name sorts and fits otherwise)\n"
        "      make test\n"
        f"      git commit -am 'Made from the {TEMPLATE} template'\n"
        "Then put your title, your description and your names into README.md, pyproject.toml and CITATION.cff."
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
