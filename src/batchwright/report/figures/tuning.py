"""What a search knows: the model on a slice and along each axis, with what is eliminated, and the optima."""

import math
from collections.abc import Mapping
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from batchwright.report.figures.style import (
    BLUE,
    GREEN,
    NEUTRAL,
    ORANGE,
    VERMILLION,
    Figure,
    View,
    band,
    inert,
    log_axis,
    new_plot,
)
from batchwright.report.text import estimate
from batchwright.report.tuning_records import Profile, TrialRecord, TuningRecords

MAX_PROFILES = 8
# From good to bad, readable on white and on black, and in grey.
SCALE = "Viridis"


def slice_figure(found: TuningRecords) -> Figure | None:
    """Posterior mean, uncertainty, worst mean and surviving region on the two axes that matter most."""
    drawn = found.slice
    if drawn is None:
        return None
    across, up = drawn.names
    width = len(drawn.x)
    rows = range(len(drawn.y))
    plot = new_plot(margin={"l": 72, "r": 16, "t": 46, "b": 56})
    values: list[tuple[str, tuple[float, ...], str]] = [
        ("posterior mean", drawn.view.mean, found.metric),
        ("uncertainty", drawn.view.std, "standard deviation" + (" (of the logarithm)" if found.log_scale else "")),
        ("worst when off", drawn.view.worst, f"worst {found.metric}"),
    ]
    views = []
    for number, (_, each, words) in enumerate(values):
        shown = _shades(each, log=found.log_scale and number != 1)
        plot.add_heatmap(
            x=list(drawn.x),
            y=list(drawn.y),
            z=[list(shown[row * width : (row + 1) * width]) for row in rows],
            customdata=[list(each[row * width : (row + 1) * width]) for row in rows],
            hovertemplate=f"{inert(across)} %{{x:.4g}}, {inert(up)} %{{y:.4g}}: {inert(words)} %{{customdata:.4g}}<extra></extra>",
            colorscale=SCALE,
            reversescale=number == 1 or not found.below,
            colorbar=_colorbar(each, words, log=found.log_scale and number != 1),
            visible=number == 0,
            zsmooth=False,
        )
    dead = [[0.0 if drawn.view.alive[row * width + i] else 1.0 for i in range(width)] for row in rows]
    plot.add_heatmap(
        x=list(drawn.x),
        y=list(drawn.y),
        z=dead,
        colorscale=[[0, "rgba(0,0,0,0)"], [1, "rgba(125,133,144,0.62)"]],
        zmin=0,
        zmax=1,
        showscale=False,
        hoverinfo="skip",
    )
    marks = [*_trials(found.trials, across, up), *_optima(found, across, up)]
    for mark in marks:
        plot.add_trace(mark)
    _axes(plot, drawn.x, across, drawn.logs[0], horizontal=True)
    _axes(plot, drawn.y, up, drawn.logs[1], horizontal=False)
    rest = (True,) * (1 + len(marks))
    views = [
        View(name=name, visible=tuple(i == number for i in range(len(values))) + rest, layout={})
        for number, (name, _, _) in enumerate(values)
    ]
    off = ", ".join(f"{name} by {words}" for name, words in found.perturbed_by.items())
    return Figure(
        name="slice",
        title=f"What the search knows of {inert(across)} and {inert(up)}",
        caption="The model through the recommended setting, the other settings held there; grey is eliminated, discs are trials "
        f"(projected; crosses failed or diverged). Worst when off: {off}.",
        plot=plot,
        views=tuple(views),
        height=520,
        wide=True,
    )


def profile_figure(found: TuningRecords) -> Figure | None:
    """Mean, uncertainty and worst mean along each numeric axis."""
    profiles = [each for each in found.profiles if len(each.x) > 1][:MAX_PROFILES]
    if not profiles:
        return None
    columns = min(2, len(profiles))
    heights = [height for each in profiles for height in (*each.view.mean, *each.view.worst)]
    rows = math.ceil(len(profiles) / columns)
    plot = make_subplots(
        rows=rows,
        cols=columns,
        figure=new_plot(),
        vertical_spacing=0.24 / rows,
        horizontal_spacing=0.12,
        shared_yaxes="all",
    )
    for index, profile in enumerate(profiles):
        place = {"row": index // columns + 1, "col": index % columns + 1}
        for trace in _profile(found, profile, named=index == 0):
            plot.add_trace(trace, **place)
        axis = log_axis(profile.x, inert(profile.name)) if profile.log else {"title": {"text": inert(profile.name)}}
        plot.update_xaxes(**axis, **place)
        if found.log_scale:
            plot.update_yaxes(**log_axis(heights, ""), **place)
        if index % columns == 0:
            plot.update_yaxes(title_text=inert(found.metric), **place)
    return Figure(
        name="profiles",
        title="Along each setting",
        caption="The model through the recommended setting, with two standard deviations; dashed: the worst mean when all settings are "
        "off; vertical lines: the recommended, the plain and the robust optimum.",
        plot=plot,
        height=120 + 270 * rows,
        wide=True,
    )


def _profile(found: TuningRecords, profile: Profile, *, named: bool) -> list[go.Scatter]:
    mean, std = profile.view.mean, profile.view.std
    pairs = list(zip(mean, std, strict=True))
    if found.log_scale:
        low, high = [m * math.exp(-2 * s) for m, s in pairs], [m * math.exp(min(2 * s, 50.0)) for m, s in pairs]
    else:
        low, high = [m - 2 * s for m, s in pairs], [m + 2 * s for m, s in pairs]
    x = list(profile.x)
    ends = [min(*low, *profile.view.worst), max(*high, *profile.view.worst)]
    traces = [
        band(x, low, high, BLUE, showlegend=False),
        go.Scatter(x=x, y=list(mean), mode="lines", name="posterior mean", legendgroup="mean", showlegend=named,
                   line={"color": BLUE, "width": 2}),
        go.Scatter(x=x, y=list(profile.view.worst), mode="lines", name="worst when off", legendgroup="worst", showlegend=named,
                   line={"color": VERMILLION, "width": 1.6, "dash": "dash"}),
    ]  # fmt: skip
    for name, values, colour, dash in _named(found):
        at = _number(values, profile.name)
        if at is not None:
            traces.append(
                go.Scatter(x=[at, at], y=ends, mode="lines", name=name, legendgroup=name, showlegend=named,
                           line={"color": colour, "width": 1.6, "dash": dash})
            )  # fmt: skip
    return traces


def _named(found: TuningRecords) -> list[tuple[str, Mapping[str, Any], str, str]]:
    named = [("recommended", found.values, GREEN, "solid")]
    if found.plain and dict(found.plain) != dict(found.values):
        named.append(("plain optimum", found.plain, NEUTRAL, "dot"))
    if found.robust_values and dict(found.robust_values) != dict(found.values):
        named.append(("robust optimum", found.robust_values, ORANGE, "dashdot"))
    return named


def _trials(trials: tuple[TrialRecord, ...], across: str, up: str) -> list[go.Scatter]:
    marks = []
    for name, statuses, symbol in (
        ("trial", ("done", "stopped"), "circle"),
        ("failed or diverged", ("failed", "diverged"), "x"),
    ):
        chosen = [each for each in trials if each.status in statuses]
        places = [(_number(each.values, across), _number(each.values, up), each) for each in chosen]
        known = [(x, y, each) for x, y, each in places if x is not None and y is not None]
        if known:
            marks.append(
                go.Scatter(
                    x=[x for x, _, _ in known],
                    y=[y for _, y, _ in known],
                    mode="markers",
                    name=name,
                    text=[_told(each) for _, _, each in known],
                    hovertemplate="%{text}<extra></extra>",
                    marker={"symbol": symbol, "size": 8, "color": "white", "line": {"color": "black", "width": 1.4}},
                )
            )  # fmt: skip
    return marks


def _told(trial: TrialRecord) -> str:
    return f"trial {trial.id}, round {trial.round + 1}: {estimate(trial.value)} ({inert(trial.status)})"


def _optima(found: TuningRecords, across: str, up: str) -> list[go.Scatter]:
    marks = []
    symbols = {"recommended": "star", "plain optimum": "square", "robust optimum": "diamond"}
    for name, values, colour, _ in _named(found):
        x, y = _number(values, across), _number(values, up)
        if x is not None and y is not None:
            marks.append(
                go.Scatter(
                    x=[x],
                    y=[y],
                    mode="markers",
                    name=name,
                    hovertemplate=f"{name}: %{{x:.4g}}, %{{y:.4g}}<extra></extra>",
                    marker={
                        "symbol": symbols[name],
                        "size": 16,
                        "color": colour,
                        "line": {"color": "white", "width": 1.6},
                    },
                )
            )
    return marks


def _shades(values: tuple[float, ...], *, log: bool) -> tuple[float, ...]:
    return tuple(math.log10(max(each, 1e-300)) for each in values) if log else values


def _colorbar(values: tuple[float, ...], title: str, *, log: bool) -> dict[str, Any]:
    bar: dict[str, Any] = {"title": {"text": inert(title), "side": "right"}, "thickness": 14}
    if log:
        axis = log_axis(values, "")
        if not axis["tickvals"] and (known := [each for each in values if 0 < each < math.inf]):
            # Too narrow for round ticks: even ones, else the bar would carry logarithms under the metric's name.
            low, high = min(known), max(known)
            axis["tickvals"] = [low * (high / low) ** (step / 4) for step in range(5)]
            axis["ticktext"] = [estimate(each) for each in axis["tickvals"]]
        if axis["tickvals"]:
            bar |= {"tickvals": [math.log10(each) for each in axis["tickvals"]], "ticktext": axis["ticktext"]}
    return bar


def _axes(plot: go.Figure, places: tuple[float, ...], name: str, log: bool, *, horizontal: bool) -> None:
    axis = log_axis(places, inert(name)) if log else {"title": {"text": inert(name)}}
    (plot.update_xaxes if horizontal else plot.update_yaxes)(**axis)


def _number(values: Mapping[str, Any], name: str) -> float | None:
    value = values.get(name)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
