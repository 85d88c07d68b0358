"""A study's figure, told as data in its record, drawn for the page."""

import math

from plotly.subplots import make_subplots

from batchwright.core.study_record import Level, Panel, Series, StudyFigure
from batchwright.report.figures.style import (
    DASHES,
    NEUTRAL,
    Figure,
    batch_axis,
    colour_of,
    inert,
    log_axis,
    new_plot,
    shorten,
)

MAX_PANELS = 24
SYMBOLS = ("circle", "square", "triangle-up", "diamond")


def study_plot(figure: StudyFigure) -> Figure:
    """The figure with its panels in rows; one legend for all of them."""
    panels = figure.panels[:MAX_PANELS]
    columns = max(1, min(figure.columns, len(panels), 4))
    rows = max(1, math.ceil(len(panels) / columns))
    height = 440 if rows == 1 else 120 + 290 * rows
    plot = new_plot()
    if len(panels) > 1:
        titles = [inert(panel.title, 160 // columns) for panel in panels]
        plot = make_subplots(
            rows=rows,
            cols=columns,
            subplot_titles=titles,
            figure=plot,
            horizontal_spacing=0.28 / columns / columns + 0.02,
            vertical_spacing=0.28 / rows,
        )
        plot.update_annotations(font_size=12 if columns < 4 else 11)
        # The legend stands above the titles of the panels.
        plot.update_layout(margin_t=76, legend={"y": 1 + 32 / (height - 140), "yanchor": "bottom"})
    named: set[str] = set()
    for index, panel in enumerate(panels):
        place = {"row": index // columns + 1, "col": index % columns + 1} if len(panels) > 1 else {}
        for series in panel.series:
            _add_series(plot, series, place, series.legend and series.name not in named)
            named.add(series.name)
        for level in panel.levels:
            _add_level(plot, level, place, panel)
        plot.update_xaxes(**_axis(panel, horizontal=True), **place)
        plot.update_yaxes(**_axis(panel, horizontal=False), **place)
        # A name that the neighbour bears too is said once, at the edge, where it covers nothing.
        if index % columns and panel.y_name == panels[index - 1].y_name:
            plot.update_yaxes(title_text="", **place)
        below = index + columns
        if below < len(panels) and panel.x_name == panels[below].x_name:
            plot.update_xaxes(title_text="", **place)
    return Figure(
        name=figure.name,
        title=shorten(figure.title, 120),
        caption=shorten(figure.caption, 500),
        plot=plot,
        height=height,
        wide=True,
    )


def _add_series(plot: object, series: Series, place: dict[str, int], named: bool) -> None:
    y = [value if math.isfinite(value) else None for value in series.y]
    colour = colour_of(max(series.colour, 0))
    options: dict[str, object] = {}
    if series.low and len(series.low) == len(series.high) == len(series.y):
        options["error_y"] = {
            "type": "data",
            "symmetric": False,
            "array": [_reach(end - value) for value, end in zip(series.y, series.high, strict=True)],
            "arrayminus": [_reach(value - end) for value, end in zip(series.y, series.low, strict=True)],
            "thickness": 1.2,
            "width": 3,
        }
    mode = "+".join(part for part, wanted in (("lines", series.line), ("markers", series.markers)) if wanted)
    plot.add_scatter(  # type: ignore[attr-defined]
        x=list(series.x),
        y=y,
        mode=mode or "markers",
        name=inert(series.name),
        legendgroup=inert(series.name),
        showlegend=named,
        line={"color": colour, "width": 1.8, "dash": DASHES[series.dash % len(DASHES)]},
        marker={"color": colour, "size": 7, "symbol": SYMBOLS[series.dash % len(SYMBOLS)]},
        hovertemplate=f"{inert(series.name)}<br>%{{x:.6g}}: %{{y:.4g}}<extra></extra>",
        **options,
        **place,
    )


def _reach(value: float) -> float:
    return value if math.isfinite(value) and value > 0 else 0.0


def _add_level(plot: object, level: Level, place: dict[str, int], panel: Panel) -> None:
    """A line from the first to the last place of the panel; its name stands at its end and in its hover box."""
    known = [x for series in panel.series for x in series.x if math.isfinite(x)]
    if not known or not math.isfinite(level.y):
        return
    colour = NEUTRAL if level.colour < 0 else colour_of(level.colour)
    plot.add_scatter(  # type: ignore[attr-defined]
        x=[min(known), max(known)],
        y=[level.y, level.y],
        mode="lines+text",
        text=[inert(level.name, 40), ""] if panel.names_at_left(level) else ["", inert(level.name, 40)],
        textposition="top right" if panel.names_at_left(level) else "top left",
        textfont={"size": 10, "color": colour},
        line={"color": colour, "width": 1.2, "dash": DASHES[level.dash % len(DASHES)]},
        hovertemplate=f"{inert(level.name)}: %{{y:.4g}}<extra></extra>",
        showlegend=False,
        **place,
    )


def _axis(panel: Panel, *, horizontal: bool) -> dict[str, object]:
    name = inert(panel.x_name if horizontal else panel.y_name, 60)
    if horizontal and panel.x_ticks:
        return {
            "title": {"text": name},
            "tickvals": list(range(len(panel.x_ticks))),
            "ticktext": [inert(t, 24) for t in panel.x_ticks],
        }
    if horizontal and panel.x_log:
        values = [x for series in panel.series for x in series.x]
        return batch_axis(values, name) if all(x >= 1 for x in values) else log_axis(values, name)
    if not horizontal and panel.y_log:
        values = [y for series in panel.series for y in (*series.y, *series.low, *series.high) if y > 0]
        return log_axis([*values, *(level.y for level in panel.levels)], name)
    return {"title": {"text": name}}
