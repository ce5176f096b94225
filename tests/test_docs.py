"""The code of the documentation's pages runs."""

import re
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import pytest

DOCS = Path(__file__).resolve().parents[1] / "docs"


# The pages on parts of one's own are files and commands: tests/test_own_parts.py runs these.
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


def test_counting_page_is_one_screen_and_its_links_lead_somewhere():
    text = (DOCS / "counting.md").read_text()
    assert len(text.splitlines()) <= 60
    for link in re.findall(r"\]\((\.\./[^)]+)\)", text):
        assert (DOCS / link).resolve().is_file(), link
