"""The traces of a noise scale with its interval, also where only one end of it is known."""

import math
from collections.abc import Sequence

import plotly.graph_objects as go

from batchwright.core.statistics import Interval
from batchwright.report.figures.style import band
from batchwright.report.text import with_span


def noise_traces(
    x: Sequence[float],
    intervals: Sequence[Interval],
    *,
    colour: str,
    name: str,
    limits: tuple[float, float],
    x_word: str,
    dash: str = "solid",
) -> list[go.Scatter]:
    """A band, a line, and arrows at the lower bounds of points without a value.

    Args:
        x: One number a point.
        intervals: Noise scales, in examples.
        colour: Of all of it.
        name: In the legend, already inert.
        limits: Ends of the axis: a bound that is not known is drawn there.
        x_word: What ``x`` counts.
        dash: Pattern of the line.
    """
    bottom, top = limits
    values = [interval.value if _known(interval.value) else None for interval in intervals]
    hover = [
        f"{x_word} {at:,.0f}<br>noise scale {with_span(interval)}" for at, interval in zip(x, intervals, strict=True)
    ]
    traces = [
        band(
            x,
            [min(max(_or(interval.low, bottom), bottom), top) for interval in intervals],
            [min(max(_or(interval.high, top), bottom), top) for interval in intervals],
            colour,
            legendgroup=name,
            showlegend=False,
        ),
        go.Scatter(
            x=x,
            y=values,
            mode="lines+markers",
            name=name,
            legendgroup=name,
            text=hover,
            hovertemplate="%{text}<extra></extra>",
            line={"color": colour, "width": 2, "dash": dash},
            marker={"size": 5},
            connectgaps=False,
        ),
    ]
    open_ended = [i for i, interval in enumerate(intervals) if math.isinf(interval.high)]
    if open_ended:
        at = [intervals[i].low if intervals[i].low > bottom else bottom for i in open_ended]
        traces.append(
            go.Scatter(
                x=[x[i] for i in open_ended],
                y=at,
                mode="markers",
                name="no upper bound",
                legendgroup=f"{name}, no upper bound",
                text=[hover[i] for i in open_ended],
                hovertemplate="%{text}<extra></extra>",
                marker={"symbol": "triangle-up-open", "size": 11, "color": colour, "line": {"width": 2}},
            )
        )
    return traces


def noise_limits(intervals: Sequence[Interval], others: Sequence[float] = ()) -> tuple[float, float]:
    """Ends of an axis that holds every known end of the intervals, with room for what is open."""
    ends = [end for interval in intervals for end in (interval.low, interval.value, interval.high)]
    known = [end for end in (*ends, *others) if _known(end)] or [1.0]
    # A lower end near zero would squeeze all the rest to the top of a logarithmic axis.
    centre = [interval.value for interval in intervals if _known(interval.value)] or known
    low, high = min(centre), max(centre)
    bottom, top = max(min(known), low / 30, high * 1e-9), min(max(known), high * 30)
    return bottom / 1.3, top * 1.6


def _known(value: float) -> bool:
    return 0 < value < math.inf


def _or(value: float, other: float) -> float:
    return value if _known(value) else other
