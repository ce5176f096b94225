"""The code of the documentation's pages runs, and their links lead somewhere."""

import re
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"


# The pages on parts of one's own are files and commands: tests/settings/test_own_parts.py runs these.
PAGES = sorted(set(DOCS.glob("*.md")) - set(DOCS.glob("own_*.md")))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_python_of_a_page_runs(page, capsys):
    mpl.use("Agg")
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    if not blocks:
        pytest.skip("a page without Python")
    for block in blocks:
        exec(compile(block, str(page), "exec"), {})
    plt.close("all")
    assert capsys.readouterr().out


def prose(page):
    """A page without its code."""
    return re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)


def heading_ids(page):
    """What GitHub and the site make of a page's headings, for links to lead to."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", [*ROOT.glob("*.md"), *DOCS.rglob("*.md")], ids=lambda page: page.stem)
def test_links_of_a_page_lead_to_a_file_and_a_heading_in_it(page):
    for link in re.findall(r"\]\((?![a-z]+:)([^)\s]+)\)", prose(page)):
        target, _, heading = link.partition("#")
        file = page.parent / target if target else page
        assert file.is_file(), f"{target}: a folder or nothing"  # the site takes no folder for a page
        assert not heading or heading in heading_ids(file), f"{target}#{heading}"


def test_counting_page_is_one_screen():
    assert len((DOCS / "counting.md").read_text().splitlines()) <= 60
