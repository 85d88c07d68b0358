"""Predicted time and examples to the target against batch size, with the optimum and the plan."""

import math
from collections.abc import Sequence

from batchwright.report.figures.style import (
    BLUE,
    NEUTRAL,
    ORANGE,
    VERMILLION,
    Figure,
    band,
    batch_axis,
    faint,
    log_axis,
    log_range,
    new_plot,
)
from batchwright.report.plan_records import CurveRecord, PlanRecord
from batchwright.report.text import ratio, span

TOLERANCE = 1.1


def prediction_figure(plan: PlanRecord) -> Figure | None:
    """Predicted cost of training against batch size; None where the plan has no curve."""
    curve = usable_curve(plan)
    if not curve:
        return None
    sizes = [point.batch_size for point in curve]
    times = [point.time for point in curve]
    # What is not bounded is drawn to the top of the axis.
    top = 2.5 * max(max(time.value, point.examples) for time, point in zip(times, curve, strict=True))
    plot = new_plot()
    plot.add_trace(
        band(
            sizes,
            [max(time.low, 1e-3) for time in times],
            [min(time.high, 10 * top) for time in times],
            BLUE,
            name="interval",
            showlegend=False,
        )
    )
    plot.add_scatter(
        x=sizes,
        y=[time.value for time in times],
        mode="lines",
        name="time to target",
        line={"color": BLUE, "width": 3},
        text=[
            f"batch size {point.batch_size:,.0f}<br>time {ratio(point.time.value)} × the shortest "
            f"({span(point.time, ratio)})"
            for point in curve
        ],
        hovertemplate="%{text}<extra></extra>",
    )
    plot.add_scatter(
        x=sizes,
        y=[point.examples for point in curve],
        mode="lines",
        name="examples to target",
        line={"color": ORANGE, "width": 2, "dash": "dash"},
        hovertemplate="batch size %{x}<br>examples %{y:.3g} × the fewest<extra></extra>",
    )
    best = min(curve, key=lambda point: point.time.value)
    plot.add_scatter(
        x=[best.batch_size],
        y=[best.time.value],
        mode="markers",
        name=f"shortest time ({best.batch_size:,.0f})",
        marker={"symbol": "diamond-open", "size": 14, "color": BLUE, "line": {"width": 2.5}},
        hovertemplate="shortest time at batch size %{x}<extra></extra>",
    )
    chosen = nearest(curve, float(plan.batch_size))
    plot.add_scatter(
        x=[float(plan.batch_size)],
        y=[chosen.time.value],
        mode="markers",
        name=f"plan ({plan.batch_size:,})",
        marker={"symbol": "star", "size": 17, "color": VERMILLION},
        hovertemplate="plan: batch size %{x}<br>%{y:.3g} × the shortest time<extra></extra>",
    )
    interval = plan.intervals.get("batch_size")
    if interval is not None and 0 < interval.low < interval.high < math.inf:
        plot.add_vrect(x0=interval.low, x1=interval.high, fillcolor=faint(NEUTRAL, 0.12), line_width=0, layer="below")
    plot.update_xaxes(**batch_axis([*sizes, float(plan.batch_size)]))
    shown = [1.0, *(time.value for time in times), *(point.examples for point in curve)]
    plot.update_yaxes(**log_axis([1.0, *shown], "times the smallest"), range=log_range([*shown, 0.85]))
    return Figure(
        name="prediction",
        title="Predicted cost of reaching the target",
        caption="Lower is better: the solid line is the time to the target over the shortest, with its interval as a band; the "
        "dashed line is the examples it takes over the fewest; the grey strip is the interval of the batch size.",
        plot=plot,
        height=430,
    )


def usable_curve(plan: PlanRecord) -> list[CurveRecord]:
    """Points of the curve with a known time, by batch size."""
    points = [
        point
        for point in plan.evidence.curve
        if point.batch_size > 0 and 0 < point.time.value < math.inf and 0 < point.examples < math.inf
    ]
    return sorted(points, key=lambda point: point.batch_size)


def nearest(curve: Sequence[CurveRecord], batch_size: float) -> CurveRecord:
    """The point of the curve nearest to a batch size on a logarithmic scale."""
    return min(curve, key=lambda point: abs(math.log(point.batch_size / batch_size)))


def flat_part(curve: Sequence[CurveRecord], tolerance: float = TOLERANCE) -> tuple[float, float]:
    """Smallest and largest batch size around the fastest whose predicted time is within ``tolerance`` of it."""
    fastest = min(range(len(curve)), key=lambda i: curve[i].time.value)
    limit = tolerance * curve[fastest].time.value
    first = last = fastest
    while first > 0 and curve[first - 1].time.value <= limit:
        first -= 1
    while last < len(curve) - 1 and curve[last + 1].time.value <= limit:
        last += 1
    return curve[first].batch_size, curve[last].batch_size
