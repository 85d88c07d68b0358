"""Training curves of the runs of one task: loss and metric against examples and seconds, with a band over seeds."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from batchwright.core.statistics import student_quantile
from batchwright.report.figures.choice import choose_labels
from batchwright.report.figures.style import (
    NEUTRAL,
    Figure,
    View,
    band,
    colour_of,
    dash_of,
    inert,
    log_axis,
    new_plot,
    shorten,
)
from batchwright.report.run_records import RunRecords, TargetRecord
from batchwright.report.text import estimate

MAX_LABELS = 14
MAX_SEED_LINES = 40
GRID = 60

Array = NDArray[np.float64]
AXES = (("examples", "training examples"), ("seconds", "seconds of training"))


def training_figure(runs: Sequence[RunRecords]) -> Figure | None:
    """Evaluations of the runs of one task; None where no run was evaluated."""
    evaluated = [run for run in runs if run.evaluations]
    if not evaluated:
        return None
    labels = choose_labels(evaluated, MAX_LABELS)
    groups = {label: [run for run in evaluated if run.label == label] for label in labels}
    metric = evaluated[0].metric
    target = evaluated[0].target
    names = ["loss"] if metric == "loss" else [metric, "loss"]
    kinds = [(name, axis, words) for name in names for axis, words in AXES]
    num_drawn = _seed_lines(groups)

    plot = new_plot()
    owners: list[tuple[str, str]] = []
    for name, axis, _ in kinds:
        for index, (label, group) in enumerate(groups.items()):
            for trace in _label_traces(group, label, index, name, axis, num_drawn[label]):
                trace.visible = (name, axis) == kinds[0][:2]
                plot.add_trace(trace)
                owners.append((name, axis))
        if target is not None and target.metric == name:
            plot.add_trace(_target_line(evaluated, target, axis, visible=(name, axis) == kinds[0][:2]))
            owners.append((name, axis))
    views = tuple(
        View(
            name=f"{shorten(name, 24)} by {axis}",
            visible=tuple(owner == (name, axis) for owner in owners),
            layout={
                "xaxis.title.text": words,
                "yaxis.title.text": inert(name, 40),
                **{f"yaxis.{key}": value for key, value in _value_axis(evaluated, name).items() if key != "title"},
                "xaxis.autorange": True,
                "yaxis.autorange": True,
            },
        )
        for name, axis, words in kinds
    )
    first_name, _, first_words = kinds[0]
    plot.update_xaxes(title_text=first_words, rangemode="tozero")
    plot.update_yaxes(**_value_axis(evaluated, first_name))
    return Figure(
        name="training",
        title="Training curves",
        caption="One colour a label: thin lines are single seeds, a thick line is their mean while all of them still train, and "
        "its band the 95 % interval of that mean; the dashed line is the target.",
        plot=plot,
        views=views,
        notes=_notes(evaluated, groups, num_drawn),
        height=440,
        wide=True,
    )


def _label_traces(
    runs: Sequence[RunRecords], label: str, index: int, name: str, axis: str, num_lines: int
) -> list[go.Scatter]:
    """Thin lines of some seeds, then the band and the mean of all of them."""
    colour, dash, words = colour_of(index), dash_of(index), inert(label)
    unit = "examples" if axis == "examples" else "s"
    curves = [(run, curve) for run in runs if len((curve := _curve(run, name, axis))[0])]
    single = len(curves) == 1
    traces = [
        go.Scatter(
            x=curve[0],
            y=curve[1],
            mode="lines",
            name=words,
            legendgroup=words,
            showlegend=single,
            line={"color": colour, "width": 2.5 if single else 1, "dash": dash},
            opacity=1.0 if single else 0.5,
            hovertemplate=f"%{{x:,.4g}} {unit}<br>%{{y:.4g}}<extra>{_verbatim(words)}, seed {run.seed}</extra>",
        )
        for run, curve in curves[:num_lines]
    ]
    if len(curves) < 2:
        return traces
    x, mean, half = _mean_curve([curve for _, curve in curves])
    traces.append(
        band(x.tolist(), (mean - half).tolist(), (mean + half).tolist(), colour, legendgroup=words, showlegend=False)
    )
    traces.append(
        go.Scatter(
            x=x,
            y=mean,
            mode="lines",
            name=words,
            legendgroup=words,
            line={"color": colour, "width": 3, "dash": dash},
            text=[f"{estimate(float(at))} ± {estimate(float(wide))}" for at, wide in zip(mean, half, strict=True)],
            hovertemplate=f"%{{x:,.4g}} {unit}<br>%{{text}}<extra>{_verbatim(words)}, mean</extra>",
        )
    )
    return traces


def _curve(run: RunRecords, name: str, axis: str) -> tuple[Array, Array]:
    points = [
        (point.num_examples if axis == "examples" else point.train_s, point.values[name])
        for point in run.evaluations
        if name in point.values
    ]
    found = np.array([point for point in points if np.isfinite(point).all()], dtype=np.float64).reshape(-1, 2)
    return found[:, 0], found[:, 1]


def _mean_curve(curves: Sequence[tuple[Array, Array]]) -> tuple[Array, Array, Array]:
    """Mean over seeds and half its Student interval, on a grid over what all of them cover."""
    first, last = max(x[0] for x, _ in curves), min(x[-1] for x, _ in curves)
    # Early changes are fast, so the grid is finer there.
    grid = first + max(last - first, 0.0) * np.linspace(0.0, 1.0, GRID) ** 2
    values = np.stack([np.interp(grid, x, y) for x, y in curves])
    half = student_quantile(0.95, float(len(curves) - 1)) * values.std(axis=0, ddof=1) / np.sqrt(len(curves))
    return grid, values.mean(axis=0), half


def _target_line(runs: Sequence[RunRecords], target: TargetRecord, axis: str, *, visible: bool) -> go.Scatter:
    end = max(run.num_examples if axis == "examples" else run.train_s for run in runs)
    return go.Scatter(
        x=[0.0, end],
        y=[target.value, target.value],
        mode="lines",
        name=f"target {estimate(target.value)}",
        line={"color": NEUTRAL, "width": 1.5, "dash": "dash"},
        hoverinfo="skip",
        visible=visible,
    )


def _value_axis(runs: Sequence[RunRecords], name: str) -> dict[str, Any]:
    """Logarithmic for a positive loss, whose late changes are small."""
    values = [point.values[name] for run in runs for point in run.evaluations if name in point.values]
    if name == "loss" and values and min(values) > 0:
        return log_axis(values, inert(name, 40))
    return {"type": "linear", "title": {"text": inert(name, 40)}, "tickvals": None, "ticktext": None}


def _seed_lines(groups: dict[str, list[RunRecords]]) -> dict[str, int]:
    """Seeds drawn of each label, so that all lines together stay readable."""
    num_lines: dict[str, int] = defaultdict(int)
    room = MAX_SEED_LINES
    for place in range(max(len(group) for group in groups.values())):
        for label, group in groups.items():
            # One line of each label is always drawn: a label with one run has nothing else.
            if place < len(group) and (room > 0 or place == 0):
                num_lines[label] += 1
                room -= 1
    return num_lines


def _notes(
    runs: Sequence[RunRecords], groups: dict[str, list[RunRecords]], num_drawn: dict[str, int]
) -> tuple[str, ...]:
    notes = []
    num_labels = len({run.label for run in runs})
    if num_labels > len(groups):
        notes.append(
            f"{len(groups)} of {num_labels} labels are drawn, those that reached the target with fewest examples."
        )
    num_runs, num_lines = sum(len(group) for group in groups.values()), sum(num_drawn.values())
    if num_runs > num_lines:
        notes.append(
            f"Thin lines are drawn for {num_lines} of {num_runs:,} runs; means and bands are over all of them."
        )
    if len({(run.target.value, run.target.metric) for run in runs if run.target}) > 1:
        notes.append("The runs have different targets; the line is that of the first.")
    return tuple(notes)


def _verbatim(text: str) -> str:
    """Text inside a hover template, where %{...} would be read as a variable."""
    return text.replace("%{", "% {")
