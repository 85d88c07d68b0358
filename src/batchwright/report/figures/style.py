"""What all figures share: colours, axes, bands, marks, and text from records made inert.

Source of the colours: Okabe & Ito (2008), "Color Universal Design"; without black and yellow, which
would not show on a dark and on a light page.
"""

import html
import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import plotly.graph_objects as go

from batchwright.report.text import estimate

BLUE, ORANGE, GREEN, VERMILLION, PURPLE, SKY = COLOURS = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#CC79A7",
    "#56B4E9",
)
DASHES = ("solid", "dash", "dot", "dashdot")
NEUTRAL = "#7d8590"  # reads on white and on black


@dataclass(frozen=True, kw_only=True, slots=True)
class View:
    """One of several ways to see a figure, behind a button.

    Attributes:
        name: On the button.
        visible: One truth value a trace.
        layout: Layout attributes of the view, such as axis titles.
    """

    name: str
    visible: tuple[bool, ...]
    layout: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """A figure of the page.

    Attributes:
        name: Short, for anchors.
        title: What it shows.
        caption: One sentence that says how to read it.
        plot: Traces and layout.
        views: Choices of its reader; the first is drawn first.
        notes: What was left out, a sentence each.
        height: Of the plot in pixels.
        wide: Whether it takes the whole width of the page.
    """

    name: str
    title: str
    caption: str
    plot: go.Figure
    views: tuple[View, ...] = ()
    notes: tuple[str, ...] = field(default=())
    height: int = 400
    wide: bool = False


def new_plot(**layout: Any) -> go.Figure:
    """An empty plot with the page's layout; colours of text and grid are set by the page, for light and dark."""
    return go.Figure(
        layout={
            "template": None,
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "margin": {"l": 64, "r": 16, "t": 12, "b": 52},
            "font": {"size": 13, "family": "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif"},
            "legend": {"orientation": "h", "x": 0, "y": 1.02, "xanchor": "left", "yanchor": "bottom"},
            "hovermode": "closest",
            **layout,
        }
    )


def colour_of(index: int) -> str:
    """Colour of the series with this number."""
    return COLOURS[index % len(COLOURS)]


def dash_of(index: int) -> str:
    """Dash pattern of the series with this number, so that two series of one colour differ."""
    return DASHES[index // len(COLOURS) % len(DASHES)]


def faint(colour: str, opacity: float = 0.18) -> str:
    """The colour for a band."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity:g})"


def inert(text: str, at_most: int = 60) -> str:
    """Text of a record for a plot: plotly reads a little HTML in its texts, so that is escaped; long text is cut."""
    return html.escape(shorten(text, at_most), quote=False)


def inert_lines(text: str, width: int = 52, at_most: int = 400) -> str:
    """Text of a record for a hover box, in lines."""
    lines = textwrap.wrap(shorten(text, at_most), width) or [""]
    return "<br>".join(html.escape(line, quote=False) for line in lines)


def shorten(text: str, at_most: int) -> str:
    """The text in one line, cut with an ellipsis."""
    line = " ".join(text.split())
    return line if len(line) <= at_most else line[: at_most - 1] + "…"


def band(x: Sequence[float], low: Sequence[float], high: Sequence[float], colour: str, **options: Any) -> go.Scatter:
    """A filled band between two curves."""
    return go.Scatter(
        x=[*x, *reversed(x)],
        y=[*high, *reversed(low)],
        fill="toself",
        fillcolor=faint(colour),
        line={"width": 0},
        mode="lines",
        hoverinfo="skip",
        **options,
    )


# Decades within which the names of two marks need a side of the lines each.
SIDE_BY_SIDE = 0.2


def mark_batch_size(
    plot: go.Figure, value: float, text: str, *, low: float | None = None, high: float | None = None
) -> None:
    """A vertical line at a batch size with its name, and its interval shaded."""
    if low is not None and high is not None and math.isfinite(high) and 0 < low < high:
        plot.add_vrect(x0=low, x1=high, fillcolor=faint(NEUTRAL, 0.12), line_width=0, layer="below")
    if math.isfinite(value) and value > 0:
        plot.add_vline(x=value, line={"color": NEUTRAL, "width": 1.5, "dash": "dash"})
        # On a logarithmic axis plotly places shapes by their value, but annotations by its logarithm.
        place, side = math.log10(value), "right"
        for other in plot.layout.annotations:
            if other.x is not None and abs(other.x - place) < SIDE_BY_SIDE:  # two names there would lie on each other
                if other.x > place:
                    other.xanchor = "left"
                else:
                    side = "left"
        plot.add_annotation(
            x=place,
            xref="x",
            xanchor=side,
            y=0.98,
            yref="y domain",
            yanchor="top",
            text=text,
            textangle=-90,
            showarrow=False,
            font={"size": 12},
        )


def batch_axis(values: Iterable[float], title: str = "batch size (examples)") -> dict[str, Any]:
    """A logarithmic axis with a tick at powers of two, never more than nine of them."""
    known = [value for value in values if 1e-300 < value < 1e300]
    axis: dict[str, Any] = {"type": "log", "title": {"text": title}}
    if not known:
        return axis
    first, last = math.floor(math.log2(min(known)) + 1e-9), math.ceil(math.log2(max(known)) - 1e-9)
    gap = max(1, math.ceil((last - first) / 8))
    ticks = [2.0**exponent for exponent in range(first, last + 1, gap)]
    return {**axis, "tickvals": ticks, "ticktext": [tick_text(tick) for tick in ticks]}


def tick_text(value: float) -> str:
    """A batch size on an axis: 512, 4k, 1M."""
    for scale, letter in ((2**20, "M"), (2**10, "k")):
        if value >= 4 * scale or (value >= scale and letter == "M"):
            return f"{value / scale:g}{letter}"
    return f"{value:g}"


def log_axis(values: Iterable[float], title: str) -> dict[str, Any]:
    """A logarithmic axis with few round ticks: powers of ten, or 1, 2, 5 where there are not many of them."""
    axis: dict[str, Any] = {"type": "log", "title": {"text": title}, "tickvals": None, "ticktext": None}
    known = [value for value in values if 1e-300 < value < 1e300]  # powers of ten beyond these are not numbers
    if not known:
        return axis
    low, high = min(known), max(known)
    powers = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
    for steps in ((1,), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9)):
        ticks = [
            tick for power in powers for step in steps if low / 1.05 <= (tick := step * 10.0**power) <= high * 1.05
        ]
        if len(ticks) >= 4:
            gap = math.ceil(len(ticks) / 10)
            return {**axis, "tickvals": ticks[::gap], "ticktext": [short_number(tick) for tick in ticks[::gap]]}
    return axis


def short_number(value: float) -> str:
    """A number on an axis: 0.05, 200, 20k, 3M."""
    for scale, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= (1e4 if letter == "k" else scale):
            return f"{value / scale:.3g}{letter}"
    return estimate(value)


def log_range(values: Iterable[float], margin: float = 0.06) -> list[float] | None:
    """Range of a logarithmic axis that holds every positive finite value; None if there is none."""
    known = [math.log10(value) for value in values if 0 < value < math.inf]
    if not known:
        return None
    room = max(margin * (max(known) - min(known)), 0.05)
    return [min(known) - room, max(known) + room]
