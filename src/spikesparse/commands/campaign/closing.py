"""The table that a campaign ends with."""

from __future__ import annotations

from pathlib import Path

from spikesparse.commands.campaign.comparison import compare, table
from spikesparse.commands.campaign.means import means
from spikesparse.commands.campaign.rows import rows_of
from spikesparse.errors import UserError


def closing_table(
    campaign: str, twin: str | None, metric: str, results: Path, seeds: list[int] | None, at_any_rate: bool = False
) -> str:
    """The recipes of a campaign beside their twin; where there is none, their means over seeds.

    Args:
        campaign: its name.
        twin: a recipe, or <campaign>/<recipe> of another; None for one called twin, if there are rows of it.
        metric: column of the count, one of ``METRICS``.
        results: folder of the rows.
        seeds: these alone; None for all.
        at_any_rate: give the means where the twin has no row yet.

    Raises:
        UserError: if there are no rows to make it of.
    """
    path = f"{results}/{campaign}.csv"
    under = "" if seeds is None else f" of seeds {', '.join(map(str, seeds))}"
    if twin is None and any(row["recipe"] == "twin" for row in rows_of(campaign, results)):
        twin = "twin"
    if twin is not None:
        if found := compare(campaign, twin, metric, results, seeds):
            return table(found, metric)
        if not at_any_rate:
            raise UserError(f"{path} has no rows of {twin}{under}.")
    text = means(campaign, results, seeds)
    if not text:
        raise UserError(f"{path} has no rows of a campaign{under}.")
    return text if twin is None else f"{text}\nno comparison yet: there is no row of {twin}{under}"
