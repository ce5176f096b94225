"""The interactive charts of a report, by bokeh."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bokeh.models import ColumnDataSource, DataRange1d, FactorRange, HoverTool, NumeralTickFormatter
from bokeh.plotting import figure
from bokeh.transform import dodge

from spikesparse.commands.report.plots import (
    BARS,
    CURVES,
    SPLITS,
    Bars,
    Curve,
    Drawn,
    count,
    final_points,
    layers,
    marked,
    pareto_front,
    percent,
    side_by_side,
)

_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
_TICKS = "0,0.[0000]"  # whole: the "m" of its short form would be read as a thousandth, not a million
_HATCHES = {"circle": "blank", "square": "/", "triangle": "\\", "diamond": "x"}  # of bars of the same colour
_INK, _FAINT = "#3a3f47", "#e7e9ec"
# The columns are escaped by bokeh (as long as they are not marked {safe}).
_TIP = (
    '<div style="font: 13px/1.5 {font}; color: #1c2026; white-space: nowrap">'
    '<span style="color: @colour">&#9632;</span> @run<br>@where: <b>@exact</b></div>'
)


def charts(runs: list[Drawn]) -> dict[str, figure]:
    """Name -> chart, for each that has anything to show."""
    drawn = {curve.name: _curves(curve, runs) for curve in CURVES}
    drawn |= {bars.name: _bars(bars, runs) for bars in BARS}
    drawn["pareto"] = _scatter(runs)
    return {name: chart for name, chart in drawn.items() if chart is not None}


def _empty(x: str, y: str, height: int, **ranges: object) -> figure:
    chart = figure(
        height=height,
        sizing_mode="stretch_width",
        tools="pan,box_zoom,wheel_zoom,reset,save",
        active_drag=None,  # a page is scrolled over its charts
        active_scroll=None,
        background_fill_color=None,
        border_fill_color=None,
        outline_line_color=None,
        **ranges,
    )
    chart.toolbar.autohide, chart.toolbar.logo = True, None
    for axis, title in ((chart.xaxis, x), (chart.yaxis, y)):
        axis.axis_label = title
        axis.axis_label_text_font, axis.major_label_text_font = _FONT, _FONT
        axis.axis_label_text_font_size, axis.major_label_text_font_size = "13px", "12px"
        axis.axis_label_text_font_style = "normal"
        axis.axis_label_text_color = axis.major_label_text_color = _INK
        axis.axis_line_color, axis.major_tick_line_color, axis.minor_tick_line_color = "#aab0b8", "#aab0b8", None
    chart.xgrid.grid_line_color, chart.ygrid.grid_line_color = None, _FAINT
    return chart


def _add_hover(chart: figure, renderers: list[object]) -> None:
    tip = _TIP.replace("{font}", _FONT)
    chart.add_tools(HoverTool(renderers=renderers, tooltips=tip, line_policy="nearest", point_policy="follow_mouse"))


def _source(each: Drawn, **columns: Sequence[object]) -> ColumnDataSource:
    length = len(next(iter(columns.values())))
    return ColumnDataSource({"run": [each.label] * length, "colour": [each.colour] * length, **columns})


def _curves(curve: Curve, runs: list[Drawn]) -> figure | None:
    chart = _empty("epoch", curve.unit, 300, y_range=DataRange1d(**({"start": 0} if curve.from_zero else {})))
    targets = []
    for each in reversed(runs):  # the baseline on top, since the others are compared with it
        for split, split_name in reversed(SPLITS.items()):
            epochs, values = curve.points(each.run, split)
            if not epochs:
                continue
            where = [f"epoch {epoch:g}{f', {split_name}' if len(curve.tags) > 1 else ''}" for epoch in epochs]
            source = _source(each, x=epochs, y=values, where=where, exact=[curve.exact(v) for v in values])
            solid = split == "val"
            chart.line(
                "x",
                "y",
                source=source,
                color=each.colour,
                width=2.2 if solid else 1.4,
                line_dash="solid" if solid else "4 3",
                name=each.key,
            )
            if solid:
                shown = {"x": epochs[:: marked(epochs)], "y": values[:: marked(epochs)]}
                look = {"color": each.colour, "marker": each.marker, "size": 5}
                chart.scatter("x", "y", source=ColumnDataSource(shown), name=each.key, **look)
            # A line as thin as drawn is hard to hit.
            targets.append(chart.line("x", "y", source=source, width=16, alpha=0, name=each.key))
    if not targets:
        return None
    chart.yaxis.formatter = NumeralTickFormatter(format=_TICKS)
    chart.xaxis.ticker.min_interval = 1
    _add_hover(chart, targets)
    return chart


def _bars(bars: Bars, runs: list[Drawn]) -> figure | None:
    names = layers(bars, runs)
    if not names:
        return None
    chart = _empty("layer", bars.unit, 340, x_range=FactorRange(factors=names), y_range=DataRange1d(start=0))
    chart.yaxis.formatter = NumeralTickFormatter(format=_TICKS)
    width, beside = side_by_side(runs)
    targets = []
    for each, offset in beside:
        heights = {layer: bars.height(each.run, layer) for layer in names}
        there = {layer: height for layer, height in heights.items() if height is not None}
        exact = [_beside(height, bars.height(runs[0].run, layer), each) for layer, height in there.items()]
        source = _source(each, layer=list(there), y=list(there.values()), where=list(there), exact=exact)
        x = dodge("layer", offset, range=chart.x_range)
        look: dict[str, Any] = {"fill_color": each.colour, "line_color": "white", "name": each.key}
        look |= {"hatch_pattern": _HATCHES[each.marker], "hatch_color": "white", "hatch_scale": 10, "hatch_alpha": 0.8}
        targets.append(chart.vbar(x=x, top="y", width=width, source=source, **look))
    if len(names) > 8:
        chart.xaxis.major_label_orientation = 0.8
    _add_hover(chart, targets)
    return chart


def _beside(value: float, baseline: float | None, each: Drawn) -> str:
    """A value, and its change against the baseline's."""
    return count(value) + (f" ({value / baseline - 1:+.1%})" if each.index and baseline else "")


def _scatter(runs: list[Drawn]) -> figure | None:
    points = final_points(runs)
    if not points:
        return None
    ranges = {"x_range": DataRange1d(range_padding=0.15), "y_range": DataRange1d(range_padding=0.2)}
    chart = _empty("spikes/image", "accuracy [%]", 340, **ranges)
    chart.xaxis.formatter = NumeralTickFormatter(format=_TICKS)
    front = pareto_front(list(points.values()))
    if len(front) > 1:
        chart.step(
            [x for x, _ in front], [y for _, y in front], mode="after", color="#8a919b", line_dash="2 3", width=1.5
        )
    targets = []
    for each in reversed(runs):
        if each.index in points:
            spikes, accuracy = points[each.index]
            texts = {"where": [f"{percent(accuracy)} at spikes/image"], "exact": [count(spikes)]}
            source = _source(each, x=[spikes], y=[accuracy], **texts)
            look = {"size": 14, "fill_color": each.colour, "line_color": "white", "marker": each.marker}
            targets.append(chart.scatter("x", "y", source=source, name=each.key, **look))
    _add_hover(chart, targets)
    return chart
