"""The report as one HTML file that loads nothing from anywhere."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from bokeh.embed import components
from bokeh.plotting import figure
from bokeh.resources import Resources

from spikesparse.commands.report.compare import ABSENT, common, differences, differences_from_base
from spikesparse.commands.report.plots import BARS, CURVES, SPLITS, Drawn
from spikesparse.commands.report.results import Cell, headline, long_origins, origins, results
from spikesparse.settings.plain import mapping, readable

_FILES = Path(__file__).parent


@dataclass(frozen=True)
class Origin:
    """How a report was made.

    Attributes:
        command: the whole command line.
        versions: of what made it, a line.
        date: with its time zone.
    """

    command: str
    versions: str
    date: str


def page(runs: list[Drawn], charts: dict[str, figure], origin: Origin) -> str:
    """The whole file."""
    script, places = components(charts, wrap_script=False) if charts else ("", {})
    # js_raw would be empty for the mode "cdn": everything is in the file, and nothing but the core is needed.
    scripts = [*Resources(mode="inline", components=["bokeh"]).js_raw, script, (_FILES / "page.js").read_text()]
    body = [_header(runs, origin), _legend(runs), "<main>", _missing(runs)]
    body += [_section("Results", _results(runs)), _section("Settings", _settings(runs))]
    body += [_section(*_charts("Over the epochs", [(c.name, c.title) for c in CURVES], places, _dashes()))]
    bars = "The counts of bill.json." + (" Point at a bar to see its change against the baseline." if runs[1:] else "")
    body += [_section(*_charts("Layer by layer", [(b.name, b.title) for b in BARS], places, bars))]
    pareto = "Each run at its end; no run lies above and to the left of the dotted line."
    body += [_section(*_charts("Accuracy against spikes", [("pareto", "")], places, pareto))]
    body += [_section("Provenance", _table(*origins(runs), runs, "origins", long=True))]
    body += [_section("What is counted", _definitions(runs)), _section("How this report was made", _origin(origin))]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_policy(scripts)}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_text(_title(runs))}</title>\n<style>\n{(_FILES / 'page.css').read_text()}</style>\n</head>\n<body>\n"
        + "\n".join(part for part in body if part)
        + "\n</main>\n"
        + "\n".join(f"<script>{script}</script>" for script in scripts)
        + "\n</body>\n</html>\n"
    )


def _policy(scripts: Sequence[str]) -> str:
    """Nothing is loaded, and no script runs but the report's own: what a run folder smuggles in stays text."""
    hashes = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in hashes)
    return f"default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; script-src {allowed}"


def _text(value: object) -> str:
    return escape(readable(str(value)))


def _title(runs: list[Drawn]) -> str:
    first, others = runs[0].label, len(runs) - 1
    return f"spikesparse: {first}" + (f" and {others} other run{'s' if others > 1 else ''}" if others else "")


def _header(runs: list[Drawn], origin: Origin) -> str:
    told = headline(runs)
    number = f"{len(runs)} run{'s' if len(runs) > 1 else ''}"
    lead = f'<p class="lead">{_text(told)}</p>' if told else ""
    return f'<header><p class="kind">spikesparse report · {number} · {_text(origin.date)}</p>{lead}</header>'


def _swatch(each: Drawn) -> str:
    return f'<span class="swatch {each.marker}" style="--colour: {each.colour}"></span>'


def _name(each: Drawn, runs: list[Drawn]) -> str:
    note = ' <span class="note">baseline</span>' if len(runs) > 1 and not each.index else ""
    return f"{_swatch(each)}{_text(each.label)}{note}"


def _legend(runs: list[Drawn]) -> str:
    if len(runs) == 1:
        return ""
    buttons = (f'<button aria-pressed="true" data-run="{each.key}">{_name(each, runs)}</button>' for each in runs)
    return f'<nav aria-label="runs"><span class="hint">click hides a run</span>{"".join(buttons)}</nav>'


def _section(title: str, content: str) -> str:
    return f"<section><h2>{_text(title)}</h2>{content}</section>" if content else ""


def _missing(runs: list[Drawn]) -> str:
    lines = "".join(f"<li>{_text(line)}</li>" for each in runs for line in each.run.missing)
    return f'<section class="missing"><h2>What is missing</h2><ul>{lines}</ul></section>' if lines else ""


def _table(headings: list[str], rows: list[list[Cell]], runs: list[Drawn], kind: str, long: bool = False) -> str:
    head = "".join(f'<th scope="col">{_text(heading)}</th>' for heading in ["run", *headings])
    body = []
    for each, cells in zip(runs, rows, strict=True):
        columns = "".join(_cell(cell) for cell in cells)
        lines = f'<tr><th scope="row">{_name(each, runs)}</th>{columns}</tr>'
        if long:
            pairs = "".join(f"<dt>{name}</dt><dd>{_text(text)}</dd>" for name, text in long_origins(each.run).items())
            lines += f'<tr><td colspan="{len(cells) + 1}"><dl>{pairs}</dl></td></tr>'
        body.append(f'<tbody data-run="{each.key}">{lines}</tbody>')
    return f'<div class="wide"><table class="{kind}"><thead><tr>{head}</tr></thead>{"".join(body)}</table></div>'


def _cell(cell: Cell) -> str:
    title = f' title="{_text(cell.exact)}"' if cell.exact else ""
    kind = {True: "better", False: "worse", None: "same"}[cell.better]
    change = f'<span class="change {kind}">{_text(cell.change)}</span>' if cell.change else ""
    return f"<td{title}>{_text(cell.text)}{change}</td>"


def _results(runs: list[Drawn]) -> str:
    note = "Point at a value to see all its digits." + (" Small: the change against the baseline." if runs[1:] else "")
    return f'{_table(*results(runs), runs, "numbers")}<p class="note">{note}</p>'


def _dashes() -> str:
    solid, dashed = SPLITS.values()
    return f"Solid: {solid}; dashed: {dashed}, measured while the weights still changed. One value for each epoch."


def _charts(title: str, charts: list[tuple[str, str]], places: dict[str, str], note: str) -> tuple[str, str]:
    cards = [
        f'<figure id="{name}">{f"<h3>{_text(heading)}</h3>" if heading else ""}{places[name]}</figure>'
        for name, heading in charts
        if name in places
    ]
    kind = "single" if len(charts) == 1 else "charts"
    return title, f'<p class="note">{_text(note)}</p><div class="{kind}">{"".join(cards)}</div>' if cards else ""


def _settings(runs: list[Drawn]) -> str:
    told = [each for each in runs if each.run.config]
    if not told:
        return ""
    configs = [each.run.config for each in told]
    if len(told) > 1:
        rows, columns = differences(configs), [_name(each, runs) for each in told]
        about = "where the runs differ" if rows else "the runs have the same settings"
    else:
        rows, columns = differences_from_base(configs[0]), ["configs/base.yaml", _name(told[0], runs)]
        about = "where the run differs from configs/base.yaml, which every run starts from"
    head = "".join(f'<th scope="col">{column}</th>' for column in ["setting", *columns])
    table = _rows(head, rows) if rows else ""
    same = _rows("", {name: [value] for name, value in common(configs).items()})
    summary = "All settings that are the same" if len(told) > 1 else "All settings"
    return f'<p class="note">{about}</p>{table}<details><summary>{summary}</summary>{same}</details>'


def _rows(head: str, rows: dict[str, list[str]]) -> str:
    lines = []
    for name, values in rows.items():
        cells = "".join(f"<td>{_text(value)}</td>" for value in values)
        lines.append(f'<tr><th scope="row">{_text(name)}</th>{cells}</tr>')
    head = f"<thead><tr>{head}</tr></thead>" if head else ""
    return f'<div class="wide"><table class="settings">{head}<tbody>{"".join(lines)}</tbody></table></div>'


def _definitions(runs: list[Drawn]) -> str:
    for each in runs:
        bill = each.run.bill
        if definitions := mapping(bill.get("definitions")):
            energy = f"{bill.get('accumulate_pj', ABSENT)} pJ for each accumulate, "
            energy += f"{bill.get('multiply_accumulate_pj', ABSENT)} pJ for each multiply-accumulate"
            listed = {**definitions, "energy of an operation": energy, "images counted": bill.get("images", ABSENT)}
            return _rows("", {name: [str(text)] for name, text in listed.items()})
    return ""


def _origin(origin: Origin) -> str:
    return f"<pre>{_text(origin.command)}</pre><p>{_text(origin.versions)}<br>{_text(origin.date)}</p>"
