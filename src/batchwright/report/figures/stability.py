"""The stability gauge over a run: batch sharpness and sharpness against the two levels of learning rate and momentum."""

import math
from collections.abc import Sequence

import plotly.graph_objects as go

from batchwright.report.figures.style import (
    BLUE,
    GREEN,
    NEUTRAL,
    ORANGE,
    Figure,
    View,
    inert,
    log_axis,
    log_range,
    new_plot,
    shorten,
)
from batchwright.report.run_records import RunRecords, StabilityRecord
from batchwright.report.text import count, estimate, natural_key

MAX_RUNS = 6
ERRORS = "A bar is one standard error."


def stability_figure(runs: Sequence[RunRecords]) -> Figure | None:
    """Readings of the gauge, one run a view and one seed a label; None where no run was watched."""
    watched = sorted((run for run in runs if run.stability), key=lambda run: (natural_key(run.label), run.seed))
    if not watched:
        return None
    first_of_label = list({run.label: run for run in reversed(watched)}.values())[::-1]
    shown = sorted(first_of_label, key=lambda run: natural_key(run.label))[:MAX_RUNS]
    plot = new_plot()
    owners: list[int] = []
    for index, run in enumerate(shown):
        for trace in _traces(run):
            trace.visible = index == 0
            plot.add_trace(trace)
            owners.append(index)
    axes = [_axis(run) for run in shown]
    plot.update_xaxes(title_text="training examples", rangemode="tozero")
    plot.update_yaxes(**axes[0])
    views = tuple(
        View(
            name=shorten(f"{run.label}, seed {run.seed}", 24),
            visible=tuple(owner == index for owner in owners),
            layout={"xaxis.autorange": True, **{f"yaxis.{key}": value for key, value in _flat(axes[index]).items()}},
        )
        for index, run in enumerate(shown)
    )
    return Figure(
        name="stability",
        title="Distance to the edge of stability",
        caption=" ".join(text for text in (_caption(shown, False), _caption(shown, True), ERRORS) if text),
        plot=plot,
        views=views if len(views) > 1 else (),
        notes=_notes(watched, shown),
        height=440,
        wide=True,
    )


def _caption(shown: Sequence[RunRecords], along_step: bool) -> str:
    """What the lines of one form mean; empty where no run has it."""
    if not any(_along_step(run.stability) is along_step for run in shown):
        return ""
    if along_step:
        return (
            "For optimizers other than SGD the curvature along their own step is drawn, times the learning rate and so without a unit; "
            "above 2 the next steps raise the loss."
        )
    return (
        "Batch sharpness settles at the lower level when batches are small and at the upper one when they are large; above its "
        "level the next steps spike. A hollow mark is a largest eigenvalue that had not converged, and the levels move when the "
        "learning rate does."
    )


def _traces(run: RunRecords) -> list[go.Scatter]:
    points = run.stability
    at, low, high = _levels(run)
    measured = [point for point in points if _drawable(point.batch_sharpness)]
    x = [point.num_examples for point in measured]
    floor = min([end for end in (*low, *(point.batch_sharpness for point in measured)) if _drawable(end)], default=1.0)
    if _along_step(points):
        levels = [_level(at, high, "edge", "dash")]
    else:
        levels = [_level(at, high, "level of large batches", "dash"), _level(at, low, "level of small batches", "dot")]
    traces = [
        *levels,
        go.Scatter(
            x=x,
            y=[point.batch_sharpness for point in measured],
            mode="lines+markers",
            name="sharpness along the step" if _along_step(points) else "batch sharpness",
            line={"color": BLUE, "width": 2},
            marker={"size": 7},
            # A bar that reached zero would have no end on a logarithmic axis.
            error_y={
                "type": "data",
                "array": [_error(point) for point in measured],
                "arrayminus": [max(min(_error(point), point.batch_sharpness - floor / 3), 0.0) for point in measured],
                "color": BLUE,
                "thickness": 1.2,
                "width": 4,
            },
            text=[_hover(point) for point in measured],
            hovertemplate="%{text}<extra></extra>",
        ),
    ]
    eigenvalues = [point for point in points if _drawable(point.sharpness)]
    if eigenvalues:
        traces.append(
            go.Scatter(
                x=[point.num_examples for point in eigenvalues],
                y=[point.sharpness for point in eigenvalues],
                mode="lines+markers",
                name="largest eigenvalue",
                line={"color": ORANGE, "width": 1.5},
                marker={
                    "size": 7,
                    "symbol": ["diamond" if point.converged else "diamond-open" for point in eigenvalues],
                },
                text=[
                    f"{count(point.num_examples)} examples<br>largest eigenvalue {estimate(point.sharpness)}"
                    f"{'' if point.converged else ', not converged: a lower bound'}"
                    for point in eigenvalues
                ],
                hovertemplate="%{text}<extra></extra>",
            )
        )
    warned = [decision for decision in run.decisions if decision.warning]
    if warned:
        places = [max((i for i, x in enumerate(at) if x <= each.num_examples), default=0) for each in warned]
        traces.append(
            go.Scatter(
                x=[each.num_examples for each in warned],
                y=[low[place] for place in places],
                mode="markers",
                name="warning before a change",
                marker={"symbol": "x", "size": 10, "color": GREEN},
                text=[inert(each.warning, 200) for each in warned],
                hovertemplate="%{text}<extra></extra>",
            )
        )
    return traces


def _levels(run: RunRecords) -> tuple[list[float], list[float], list[float]]:
    """Examples and the two levels: at each reading, and where a decision changed the learning rate between two of them."""
    at, low, high = [0.0], [run.stability[0].low], [run.stability[0].high]
    ends = [point.num_examples for point in run.stability[1:]] + [math.inf]
    for point, end in zip(run.stability, ends, strict=True):
        at.append(point.num_examples)
        low.append(point.low)
        high.append(point.high)
        for decision in run.decisions:
            moves = point.form != "step" and decision.lr > 0
            if moves and point.num_examples <= decision.num_examples < end:
                at.append(decision.num_examples)
                low.append(point.low * point.lr / decision.lr)
                high.append(point.high * point.lr / decision.lr)
    last = max(run.num_examples, at[-1])
    return [*at, last], [*low, low[-1]], [*high, high[-1]]


def _level(x: Sequence[float], y: Sequence[float], name: str, dash: str) -> go.Scatter:
    return go.Scatter(
        x=x,
        y=y,
        mode="lines",
        name=name,
        line={"color": NEUTRAL, "width": 1.5, "dash": dash, "shape": "hv"},
        hovertemplate=f"%{{x:,.0f}} examples<br>{name} %{{y:.3g}}<extra></extra>",
    )


def _hover(point: StabilityRecord) -> str:
    along = point.form == "step"
    levels = f"edge {estimate(point.high)}" if along else f"levels {estimate(point.low)} and {estimate(point.high)}"
    return (
        f"{count(point.num_examples)} examples<br>{'sharpness along the step' if along else 'batch sharpness'} "
        f"{estimate(point.batch_sharpness)} ± {estimate(_error(point))}<br>{levels}: {inert(point.regime)}"
    )


def _along_step(points: Sequence[StabilityRecord]) -> bool:
    """Whether the run was measured along the optimizer's own step, which has no unit and one edge."""
    return any(point.form == "step" for point in points)


def _error(point: StabilityRecord) -> float:
    return point.standard_error if math.isfinite(point.standard_error) else 0.0


def _axis(run: RunRecords) -> dict[str, object]:
    _, low, high = _levels(run)
    values = [*low, *high]
    for point in run.stability:
        values += [point.batch_sharpness, point.batch_sharpness + _error(point), point.sharpness]
    known = [value for value in values if _drawable(value)]
    title = "lr × curvature along the step" if _along_step(run.stability) else "curvature (1 / learning rate)"
    return {**log_axis(known, title), "range": log_range(known)}


def _flat(axis: dict[str, object]) -> dict[str, object]:
    return {key: value for key, value in axis.items() if key not in ("title", "type")}


def _drawable(value: float) -> bool:
    return 0 < value < 1e100


def _notes(watched: Sequence[RunRecords], shown: Sequence[RunRecords]) -> tuple[str, ...]:
    notes = []
    if len(watched) > len(shown):
        notes.append(f"One seed of each label is drawn, {len(shown)} of {len(watched)} watched runs.")
    hidden = sum(not _drawable(point.batch_sharpness) for run in shown for point in run.stability)
    if hidden:
        notes.append(f"{hidden} readings are not positive numbers, so a logarithmic axis cannot show them.")
    return tuple(notes)
