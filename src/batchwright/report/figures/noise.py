"""Noise scale over the pilot of a plan, and over runs."""

import math
from collections.abc import Sequence

from plotly.subplots import make_subplots

from batchwright.report.figures.noise_band import noise_limits, noise_traces
from batchwright.report.figures.style import (
    BLUE,
    GREEN,
    NEUTRAL,
    Figure,
    colour_of,
    dash_of,
    faint,
    inert,
    log_axis,
    new_plot,
)
from batchwright.report.plan_records import PlanRecord
from batchwright.report.record_values import thin
from batchwright.report.run_records import RunRecords
from batchwright.report.text import natural_key, with_span

MAX_RUNS = 8


def pilot_noise_figure(plan: PlanRecord) -> Figure | None:
    """Noise scale and training loss along the pilot; None where neither was recorded."""
    points, losses = plan.evidence.noise, plan.evidence.pilot_losses
    if not points and not losses:
        return None
    both = bool(points) and bool(losses)
    plot = new_plot()
    if both:
        plot = make_subplots(
            rows=2, cols=1, shared_xaxes=True, row_heights=[0.68, 0.32], vertical_spacing=0.06, figure=new_plot()
        )
    place = {"row": 1, "col": 1} if both else {}
    used = plan.intervals.get("noise_scale")
    if points:
        intervals = [point.noise_scale for point in points]
        limits = noise_limits(intervals, [used.value] if used else [])
        for trace in noise_traces(
            [point.step for point in points],
            intervals,
            colour=BLUE,
            name="noise scale",
            limits=limits,
            x_word="pilot step",
        ):
            plot.add_trace(trace, **place)
        axis = log_axis(limits, "noise scale (examples)")
        plot.update_yaxes(**axis, range=[math.log10(limits[0]), math.log10(limits[1])], **place)
        if used is not None and 0 < used.value < math.inf:
            if used.low > 0 and math.isfinite(used.high):
                plot.add_hrect(
                    y0=used.low, y1=used.high, fillcolor=faint(NEUTRAL, 0.13), line_width=0, layer="below", **place
                )
            ends = [min(point.step for point in points), max(point.step for point in points)]
            plot.add_scatter(
                x=ends,
                y=[used.value, used.value],
                mode="lines",
                name=f"used by the plan: {with_span(used)}",
                line={"color": NEUTRAL, "dash": "dash", "width": 1.5},
                hoverinfo="skip",
                **place,
            )
    if losses:
        steps = thin(range(1, len(losses) + 1))
        plot.add_scatter(
            x=steps,
            y=[losses[step - 1] for step in steps],
            mode="lines",
            name="training loss",
            line={"color": GREEN, "width": 1.5},
            hovertemplate="pilot step %{x}<br>training loss %{y:.4g}<extra></extra>",
            **({"row": 2, "col": 1} if both else {}),
        )
        plot.update_yaxes(title_text="loss", nticks=4, **({"row": 2, "col": 1} if both else {}))
    plot.update_xaxes(title_text="pilot step", **({"row": 2, "col": 1} if both else {}))
    return Figure(
        name="pilot-noise",
        title="Gradient noise scale along the pilot",
        caption="The noise scale is the batch size at which gradient and noise weigh the same: the band is its interval, and a "
        "triangle marks a point that is only known to lie above it.",
        plot=plot,
        height=470 if both else 380,
    )


def run_noise_figure(runs: Sequence[RunRecords]) -> Figure | None:
    """Noise scale along the runs that recorded it, one run a label; None where none did."""
    known = sorted((run for run in runs if run.noise), key=lambda run: (natural_key(run.label), run.seed))
    if not known:
        return None
    first_of_label = list({run.label: run for run in reversed(known)}.values())[::-1]
    drawn = sorted(first_of_label, key=lambda run: natural_key(run.label))[:MAX_RUNS]
    limits = noise_limits([point.noise_scale for run in drawn for point in run.noise])
    plot = new_plot()
    for index, run in enumerate(drawn):
        points = thin(run.noise, 120)
        for trace in noise_traces(
            [point.num_examples for point in points],
            [point.noise_scale for point in points],
            colour=colour_of(index),
            dash=dash_of(index),
            name=inert(f"{run.label}, seed {run.seed}"),
            limits=limits,
            x_word="examples",
        ):
            plot.add_trace(trace)
    axis = log_axis(limits, "noise scale (examples)")
    plot.update_yaxes(**axis, range=[math.log10(limits[0]), math.log10(limits[1])])
    plot.update_xaxes(title_text="training examples", rangemode="tozero")
    left_out = len(known) - len(drawn)
    return Figure(
        name="run-noise",
        title="Gradient noise scale along the runs",
        caption="A batch far below the curve averages too little, one far above it wastes examples: the band is the interval, "
        "and a triangle marks a point that is only known to lie above it.",
        plot=plot,
        notes=(f"One seed of each label is drawn, {len(drawn)} of {len(known)} runs.",) if left_out else (),
    )
