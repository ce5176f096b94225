"""``spikesparse report RUN [RUN ...]``: runs side by side, as one HTML file and PNGs of its charts."""

from __future__ import annotations

import argparse
import platform
import shlex
import time
from importlib import metadata
from pathlib import Path

from spikesparse.commands.report.plots import Drawn, drawn
from spikesparse.commands.report.runs import find_runs, read_run
from spikesparse.errors import UserError
from spikesparse.files.closing import Closing
from spikesparse.files.version import __version__
from spikesparse.files.whole_files import replace_file


def main(args: list[str]) -> None:
    """Command line of ``spikesparse report``.

    Raises:
        UserError: if a path is no run folder, the report cannot be written, or bokeh is not installed.
    """
    parser = argparse.ArgumentParser(prog="spikesparse report", description=__doc__)
    parser.add_argument(
        "runs", metavar="RUN", nargs="+", type=Path, help="runs/<experiment>/seed<k>, or the folder above"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("report.html"), help="the file to write (default: %(default)s)"
    )
    parsed = parser.parse_args(args)
    if parsed.out.suffix != ".html":
        raise UserError(f"--out={parsed.out}: the file to write must end in .html")
    runs = drawn([read_run(folder) for folder in find_runs(parsed.runs)])
    pngs = parsed.out.with_name(f"{parsed.out.stem}_png")
    html = report_page(runs, shlex.join(["spikesparse", "report", *args]))
    try:
        parsed.out.parent.mkdir(parents=True, exist_ok=True)
        replace_file(parsed.out, html)
    except OSError as error:
        raise UserError(f"--out={parsed.out}: cannot be written ({error})") from error
    written: list[Path] = []
    with Closing().part(pngs):  # the charts are in the page too
        from spikesparse.commands.report.png import write_pngs

        written = write_pngs(runs, pngs)
    print(f"report        {parsed.out}: {len(runs)} run(s), {len(html.encode()) / 1e6:.1f} MB, opens in any browser")
    if written:
        print(f"charts        {pngs}/: {', '.join(path.name for path in written)}")
    for sentence in (sentence for each in runs for sentence in each.run.missing):
        print(f"missing       {sentence}")


def report_page(runs: list[Drawn], command: str) -> str:
    """The report as HTML.

    Args:
        runs: what it is about.
        command: the command line that asked for it.

    Raises:
        UserError: if bokeh is not installed.
    """
    try:
        import bokeh  # noqa: F401
    except ImportError as error:
        raise UserError(
            'a report is drawn by bokeh, which is not installed: pip install "spikesparse[report]"'
        ) from error
    from spikesparse.commands.report.charts import charts
    from spikesparse.commands.report.page import Origin, page

    versions = {"spikesparse": __version__, "Python": platform.python_version()}
    versions |= {name: metadata.version(name) for name in ("bokeh", "matplotlib", "tensorboard")}
    told = ", ".join(f"{name} {version}" for name, version in versions.items())
    return page(runs, charts(runs), Origin(command, told, time.strftime("%Y-%m-%d %H:%M %Z")))
