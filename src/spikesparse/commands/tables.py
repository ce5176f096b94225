"""The tables that commands print."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from spikesparse.runs.result import RunResult


def headline(result: RunResult) -> str:
    """Accuracy, steps if not all images ran as many, and energy in a line."""
    share = (
        result.energy_uj / result.ann_energy_uj if result.ann_energy_uj else 0.0
    )  # a MAC may be said to cost nothing
    steps = "" if float(result.timesteps).is_integer() else f"   {result.timesteps:.2f} steps/image"
    return (
        f"{result.split} accuracy {result.accuracy:.2%}{steps}   energy {result.energy_uj:.3g} uJ/image, {share:.1%} "
        f"of the {result.ann_energy_uj:.3g} uJ that the same network without spikes spends"
    )


def comparison_table(twin: RunResult, sparse: RunResult) -> Table:
    """The sparse network beside its accuracy-only twin."""
    table = Table(title="sparse network beside its accuracy-only twin", title_justify="left")
    for column in ("", "twin (lambda 0)", "sparse", "change"):
        table.add_column(column, justify="left" if not column else "right")
    points = 100 * (sparse.accuracy - twin.accuracy)
    table.add_row(f"{twin.split} accuracy", f"{twin.accuracy:.2%}", f"{sparse.accuracy:.2%}", f"{points:+.2f} points")
    if not float(sparse.timesteps).is_integer():
        table.add_row("steps/image", f"{twin.timesteps:.4g}", f"{sparse.timesteps:.2f}", "")
    for text, before, after in (
        ("spikes/image", twin.spikes, sparse.spikes),
        ("SynOps/image", twin.synops, sparse.synops),
        ("energy uJ/image", twin.energy_uj, sparse.energy_uj),
    ):
        change = f"{after / before - 1:+.1%}" if before else "-"
        digits = ".3g" if "energy" in text else ",.1f"
        table.add_row(text, f"{before:{digits}}", f"{after:{digits}}", change)
    return table


def console() -> Console:
    """A console for tables: wide enough for them where the output is no terminal."""
    plain = Console()
    return plain if plain.is_terminal else Console(width=110)
