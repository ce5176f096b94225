"""Makes pages that are written for reading in the repository fit for the site: a hook of mkdocs.

The README is the site's first page. Files outside docs/ that pages link to, such as examples/quickstart.ipynb, are
copied into the site's files/, so that one link serves in both places. Cross-references in docstrings become links.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
_LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)#\s]+)")
_FENCE = re.compile(r"(^```.*?^```)", re.MULTILINE | re.DOTALL)
_ROLE = re.compile(r":(?:class|meth|attr|func|data|mod):<code>([^<]+)</code>")


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the README, and the files outside docs/ that pages link to."""
    text = (ROOT / "README.md").read_text(encoding="utf-8").replace("<details>", '<details markdown="1">')
    files.append(File.generated(config, "index.md", content=text))
    pages = list(files.documentation_pages())
    for page in pages:  # grows by the pages outside docs/ that it meets
        for target in _LINK.findall("".join(_FENCE.split(page.content_string)[::2])):
            source = _source(page.src_uri, target)
            if source.is_file() and files.get_file_from_path(_uri(source)) is None:
                file = File.generated(config, _uri(source), abs_src_path=str(source))
                file.inclusion = InclusionLevel.NOT_IN_NAV
                files.append(file)
                pages += [file] if file.is_documentation_page() else []
    return files


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Lead links to where their targets lie in the site; mkdocs warns of those that lead nowhere."""
    uri = page.file.src_uri

    def lead(match: re.Match[str]) -> str:
        source = _source(uri, match[1])
        return posixpath.relpath(_uri(source), posixpath.dirname(uri) or ".") if source.is_file() else match[1]

    parts = _FENCE.split(markdown)  # code, at odd places, stays as it is
    return "".join(part if i % 2 else _LINK.sub(lead, part) for i, part in enumerate(parts))


def on_page_content(html: str, **_: Any) -> str:
    """Make a docstring's :class:`x` a link if x has an entry, else just x."""
    return _ROLE.sub(r'<autoref identifier="\1" optional><code>\1</code></autoref>', html)


def _source(uri: str, target: str) -> Path:
    """The file in the repository that a link on a page means."""
    if uri == "index.md":
        return (ROOT / target).resolve()
    page = ROOT / uri.removeprefix("files/") if uri.startswith("files/") else DOCS / uri
    return (page.parent / target).resolve()


def _uri(source: Path) -> str:
    """Where a file of the repository lies in the site."""
    if source == ROOT / "README.md":
        return "index.md"
    if source.is_relative_to(DOCS):
        return source.relative_to(DOCS).as_posix()
    return f"files/{source.relative_to(ROOT).as_posix()}"
