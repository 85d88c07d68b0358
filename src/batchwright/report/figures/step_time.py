"""Step time against batch size: the measurements, the line through them, and the knee where an example begins to cost."""

import math

from batchwright.report.figures.style import (
    BLUE,
    ORANGE,
    Figure,
    batch_axis,
    log_axis,
    mark_batch_size,
    new_plot,
)
from batchwright.report.plan_records import PlanRecord
from batchwright.report.text import count, estimate, seconds_with_span


def step_time_figure(plan: PlanRecord) -> Figure | None:
    """Measured and fitted step time; None where it was not measured."""
    points, evidence = plan.evidence.step_times, plan.evidence
    if not points:
        return None
    sizes = [point.batch_size for point in points]
    plot = new_plot()
    curve = [(point.batch_size, point.step_time_s) for point in evidence.curve if point.step_time_s > 0]
    fit = _affine(plan, sizes)
    if curve and (not fit or _differs(plan, curve)):
        plot.add_scatter(
            x=[size for size, _ in curve],
            y=[1e3 * seconds for _, seconds in curve],
            mode="lines",
            name="used by the plan",
            line={"color": BLUE, "width": 2},
            hovertemplate="batch size %{x}<br>%{y:.4g} ms<extra>used by the plan</extra>",
        )
    if fit:
        plot.add_scatter(
            x=[size for size, _ in fit],
            y=[1e3 * seconds for _, seconds in fit],
            mode="lines",
            name="a + b · batch size",
            line={"color": ORANGE, "width": 2, "dash": "dot" if curve and _differs(plan, curve) else "solid"},
            hovertemplate="batch size %{x:.0f}<br>%{y:.4g} ms<extra>a + b · batch size</extra>",
        )
    times = [point.step_time_s for point in points]
    plot.add_scatter(
        x=sizes,
        y=[1e3 * time.value for time in times],
        error_y={
            "type": "data",
            "symmetric": False,
            "array": [1e3 * _finite(time.high - time.value) for time in times],
            "arrayminus": [1e3 * _finite(time.value - time.low) for time in times],
            "thickness": 1.5,
        },
        mode="markers",
        name="measured",
        marker={"color": BLUE, "size": 9},
        text=[
            f"batch size {count(point.batch_size)}<br>{seconds_with_span(point.step_time_s)}<br>"
            f"{estimate(point.batch_size / point.step_time_s.value)} examples a second"
            if point.step_time_s.value > 0
            else ""
            for point in points
        ],
        hovertemplate="%{text}<extra></extra>",
    )
    knee = knee_batch_size(plan)
    if knee is not None:
        mark_batch_size(plot, knee, f"knee {estimate(knee)}")
    mark_batch_size(plot, float(plan.batch_size), f"plan {plan.batch_size:,}")
    shown = [*sizes, float(plan.batch_size), *([knee] if knee is not None else [])]
    plot.update_xaxes(**batch_axis(shown))
    plot.update_yaxes(**log_axis([1e3 * time.value for time in times], "milliseconds a step"))
    rule = "left of the knee a step costs about the same at any size, right of it each example costs more time"
    return Figure(
        name="step-time",
        title="Time of one optimizer step",
        caption=f"Points are medians with their intervals; {rule}."
        if knee is not None
        else "Points are medians with their intervals: where the line is flat, larger batches are free.",
        plot=plot,
        height=380,
    )


def knee_batch_size(plan: PlanRecord) -> float | None:
    """Batch size at which the examples of a step cost as much as its overhead, ``a / b``; None where it is not known."""
    overhead, slope = plan.evidence.overhead_s, plan.evidence.per_example_s
    if overhead is None or slope is None or not slope.value > 0 or not overhead.value > 0:
        return None
    knee = overhead.value / slope.value
    return knee if math.isfinite(knee) else None


def _affine(plan: PlanRecord, sizes: list[float]) -> list[tuple[float, float]]:
    overhead, slope = plan.evidence.overhead_s, plan.evidence.per_example_s
    if overhead is None or slope is None or not math.isfinite(overhead.value + slope.value):
        return []
    first, last = math.log(max(min(sizes), 1.0)), math.log(max(*sizes, plan.batch_size, 2.0))
    grid = [math.exp(first + (last - first) * i / 60) for i in range(61)]
    return [(size, seconds) for size in grid if (seconds := overhead.value + slope.value * size) > 0]


def _differs(plan: PlanRecord, curve: list[tuple[float, float]]) -> bool:
    """Whether the plan's step time is another curve than ``a + b B``, a piecewise one."""
    overhead, slope = plan.evidence.overhead_s, plan.evidence.per_example_s
    assert overhead is not None
    assert slope is not None
    return any(abs(overhead.value + slope.value * size - seconds) > 0.01 * seconds for size, seconds in curve)


def _finite(value: float) -> float:
    return value if math.isfinite(value) else 0.0
