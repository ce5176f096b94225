"""The documentation's site: every public name has its entry, and it builds without a warning and without a network."""

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import pytest

import spikesparse

ROOT = Path(__file__).resolve().parents[2]
ENTRIES = [
    entry
    for page in sorted((ROOT / "docs" / "reference").glob("*.md"))
    for entry in re.findall(r"^::: (\S+)$", page.read_text(), re.MULTILINE)
]


def public_names():
    """(where it can be imported from, the object) of all in the package's and its subpackages' __all__."""
    folders = sorted(path.parent.name for path in Path(spikesparse.__file__).parent.glob("*/__init__.py"))
    packages = [spikesparse, *(importlib.import_module(f"{spikesparse.__name__}.{name}") for name in folders)]
    assert len(packages) > 4
    for package in packages:
        for name in getattr(package, "__all__", ()):
            if name != "__version__":
                yield f"{package.__name__}.{name}", getattr(package, name)


def named(path):
    """The object of a dotted path; a top-level name hides where it is defined."""
    package, _, name = path.rpartition(".")
    return getattr(importlib.import_module(package), name)


def test_every_public_name_has_one_entry_in_the_reference():
    documented = [named(entry) for entry in ENTRIES]
    missing = [path for path, thing in public_names() if not any(thing is known for known in documented)]
    assert not missing, "docs/reference/ lacks: " + ", ".join(f"::: {path}" for path in missing)
    assert len({id(thing) for thing in documented}) == len(documented), "an entry twice"


def test_the_reference_names_only_what_is_public():
    assert set(ENTRIES) <= {path for path, _ in public_names()}


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_needs_no_network(tmp_path):
    pytest.importorskip("mkdocs", reason="the docs extra is not installed")
    site = tmp_path / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--config-file", ROOT / "mkdocs.yml"]
    done = subprocess.run(
        [*map(str, command), "--site-dir", str(site)],
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    pages = sorted(site.rglob("*.html"))
    assert {"index.html", "counting.html", "reference/metrics.html"} <= {str(page.relative_to(site)) for page in pages}
    for page in pages:
        text = page.read_text()
        fetched = re.findall(r'(?:<(?:script|img|iframe)[^>]* src|<link[^>]* href)="?(https?:[^" >]+)', text)
        assert not fetched, (page, fetched)
        if page.name != "404.html":  # whose links are those of the server's root
            for link in re.findall(r'(?:href|src)="(?![a-z]+:|#)([^"#?]+)', text):
                assert (page.parent / unquote(link)).exists(), (page, link)
        assert not re.search(r":(class|meth|attr|func|data|math):", text), page
    start = (site / "index.html").read_text()
    assert "<details" in start
    assert "```" not in start
    assert (site / "files" / "examples" / "quickstart.ipynb").is_file()
