"""Counts of the same frozen networks by spikesparse, NeuroBench, SpikingJelly and sinabs, side by side.

    make crosscheck

builds an environment for each tool, lets it count, prints the table, writes results/crosscheck.csv, and fails where a
tool should agree and does not.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path

from networks import IMAGES, TIMESTEPS, export
from rich.console import Console
from rich.table import Table

from spikesparse import __version__
from spikesparse.files.whole_files import replace_file

Counts = dict[str, dict[str, float]]  # network -> count -> value
HERE = Path(__file__).parent
TOOLS = ("neurobench", "spikingjelly", "sinabs")
COLUMNS = ["network", "count", "ours", *TOOLS, "agree", "where a tool differs by its own definition"]

ANALOG = "sinabs adds up the first layer's analog values as operations"
TWICE_POOLED = "sinabs multiplies by the window behind any average pool, though pooling neurons fire anew"
#: (network, count, tool) -> why it differs.
DIFFERENCES = {
    ("max pool, constant current in", "synops", "sinabs"): ANALOG,
    ("max pool, another current in each step", "synops", "sinabs"): ANALOG,
    ("spiking average pool", "synops", "sinabs"): TWICE_POOLED,
    ("spiking average pool", "synops behind the first layer", "sinabs"): TWICE_POOLED,
    ("max pool, signed spikes in", "synops", "spikingjelly"): "SpikingJelly counts 0 for a layer whose input holds -1",
    ("max pool, signed spikes in", "synops", "sinabs"): "sinabs adds up values: spikes of -1 cancel those of +1",
    ("plain average pool", "nonzero synops", "neurobench"): "NeuroBench calls pooled spikes, being no 0 or 1, MACs",
    ("plain average pool", "macs", "neurobench"): "NeuroBench: MACs, one for each nonzero average and synapse",
    ("plain average pool", "dense operations", "neurobench"): "NeuroBench counts dense operations behind the pool",
    ("plain average pool", "synops", "spikingjelly"): "SpikingJelly counts 0 for a layer whose input is no 0 or 1",
}


def witness(tool: str, python: str, folder: Path) -> Counts:
    """Let a tool count, in its own environment."""
    script = HERE / f"{tool}_counts.py"
    ended = subprocess.run([python, str(script), str(folder)], capture_output=True, text=True, check=False)
    if ended.returncode:
        sys.exit(f"{tool} could not count:\n{ended.stderr[-3000:]}")
    counts: Counts = json.loads((folder / f"{tool}.json").read_text())
    return counts


def verdicts(ours: Counts, theirs: dict[str, Counts]) -> list[dict[str, object]]:
    """A row for each network and count."""
    rows = []
    for network, counts in ours.items():
        for name, own in counts.items():
            cells = {tool: theirs[tool][network].get(name) for tool in TOOLS}
            if all(value is None for value in cells.values()):
                continue
            reasons = {tool: DIFFERENCES[network, name, tool] for tool in TOOLS if (network, name, tool) in DIFFERENCES}
            wrong = [
                tool
                for tool, value in cells.items()
                if value is not None and (round(value, 3) == own) == (tool in reasons)
            ]
            rows.append(
                {
                    **{"network": network, "count": name, "ours": own},
                    **{tool: "" if value is None else round(value, 3) for tool, value in cells.items()},
                    "agree": "NO: " + ", ".join(wrong) if wrong else "yes" if not reasons else "as explained",
                    COLUMNS[-1]: "; ".join(reasons.values()),
                }
            )
    return rows


def write_csv(path: Path, rows: list[dict[str, object]], versions: dict[str, str]) -> None:
    """The table, under a header that says what it is."""
    text = io.StringIO()
    text.write("# make crosscheck: the same frozen networks counted by each tool; counts are sums over the batch\n")
    text.write(f"# {IMAGES} images, T={TIMESTEPS}; " + ", ".join(f"{n} {v}" for n, v in versions.items()) + "\n")
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    replace_file(path, text.getvalue())


def show(rows: list[dict[str, object]]) -> None:
    """The table for a terminal."""
    table = Table(title=f"sums over {IMAGES} images, T={TIMESTEPS}", title_justify="left")
    for column in COLUMNS:
        table.add_column(column, justify="right" if column in ("ours", *TOOLS) else "left")
    network = None
    for row in rows:
        if row["network"] != network:
            network = row["network"]
            table.add_section()
        cells = (f"{v:,}" if isinstance(v, int | float) else str(v) for v in row.values())
        table.add_row(*(c.removesuffix(".0") for c in cells))
    Console(width=190).print(table)


def main() -> None:
    """Count, compare, and exit with 1 where a tool should agree and does not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for tool in TOOLS:
        parser.add_argument(f"--{tool}", required=True, metavar="PYTHON", help="interpreter of its environment")
    parser.add_argument("--csv", type=Path, default=HERE.parents[1] / "results" / "crosscheck.csv")
    args = parser.parse_args()
    versions = {"spikesparse": __version__, "torch": metadata.version("torch")}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ours = export(folder)
        theirs = {}
        for tool in TOOLS:
            python = getattr(args, tool)
            theirs[tool] = witness(tool, python, folder)
            query = f"from importlib.metadata import version; print(version({tool!r}))"
            versions[tool] = subprocess.check_output([python, "-c", query], text=True).strip()
    rows = verdicts(ours, theirs)
    show(rows)
    write_csv(args.csv, rows, versions)
    wrong = [f"{row['network']}, {row['count']}: {row['agree']}" for row in rows if str(row["agree"]).startswith("NO")]
    if wrong:
        sys.exit("\n".join(["counts that should agree do not, or the other way round:", *wrong]))
    print(f"{len(rows)} counts of {len(ours)} networks agree, or differ as explained; the table is {args.csv}")


if __name__ == "__main__":
    main()
