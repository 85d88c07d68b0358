"""The sweep around a plan: examples and seconds to the target at each batch size and learning rate."""

import math
from collections import defaultdict

import plotly.graph_objects as go

from batchwright.report.figures.style import (
    NEUTRAL,
    VERMILLION,
    Figure,
    View,
    batch_axis,
    log_axis,
    log_range,
    new_plot,
)
from batchwright.report.plan_records import Setting, Trial, VerificationRecord
from batchwright.report.text import Format, count, duration, estimate, plural

MEASURES: tuple[tuple[str, str, Format], ...] = (
    ("examples", "training examples", count),
    ("seconds", "seconds", duration),
)


def verification_figure(found: VerificationRecord) -> Figure | None:
    """Every setting that was tried, coloured by what it took; None where nothing was tried."""
    cells: dict[tuple[float, float], list[Trial]] = defaultdict(list)
    for trial in found.trials:
        if 0 < trial.batch_size < math.inf and 0 < trial.lr < math.inf:
            cells[trial.batch_size, trial.lr].append(trial)
    if not cells:
        return None
    plot = new_plot()
    measures = [measure for measure in MEASURES if any(_mean(trials, measure[0]) for trials in cells.values())] or [
        MEASURES[0]
    ]
    owners: list[str] = []
    for measure, words, write in measures:
        best = found.best_seconds if measure == "seconds" else found.best_examples
        for trace in _traces(found, cells, measure, words, write, best):
            trace.visible = measure == measures[0][0]
            plot.add_trace(trace)
            owners.append(measure)
    views = tuple(
        View(name=f"{measure} to target", visible=tuple(owner == measure for owner in owners), layout={})
        for measure, _, _ in measures
    )
    sizes, lrs = [size for size, _ in cells], [lr for _, lr in cells]
    plot.update_xaxes(**{**batch_axis([*sizes, found.plan_batch_size]), "range": log_range(sizes, 0.12)})
    plot.update_yaxes(range=log_range(lrs, 0.22), **_lr_axis(lrs))
    num_seeds = max(len(trials) for trials in cells.values())
    return Figure(
        name="verification",
        title="The plan against its neighbours",
        caption="Each disc is one setting trained to the target, darker is cheaper; the ring is the plan, the diamond the best "
        "found, and a cross did not get there"
        + (f" (means over {plural(num_seeds, 'seed')})." if num_seeds > 1 else "."),
        plot=plot,
        views=views if len(views) > 1 else (),
        height=460,
    )


def _traces(
    found: VerificationRecord,
    cells: dict[tuple[float, float], list[Trial]],
    measure: str,
    words: str,
    write: Format,
    best: Setting | None,
) -> list[go.Scatter]:
    means = {cell: _mean(trials, measure) for cell, trials in cells.items()}
    reached = {cell: mean for cell, mean in means.items() if mean is not None}
    missed = [cell for cell, mean in means.items() if mean is None]
    hover = "batch size %{x}, learning rate %{y:.3g}<br>%{text}<extra></extra>"
    traces = [
        go.Scatter(
            x=[size for size, _ in reached],
            y=[lr for _, lr in reached],
            mode="markers",
            name="reached",
            showlegend=False,
            text=[
                f"{write(mean)} {words if words == 'training examples' else ''} to target{_share(cells[cell])}"
                for cell, mean in reached.items()
            ],
            hovertemplate=hover,
            marker={
                "size": 24,
                "color": [math.log10(mean) if mean > 0 else 0.0 for mean in reached.values()],
                "colorscale": "Viridis",
                "colorbar": _colour_bar(list(reached.values()), words, write),
                "line": {"width": 1, "color": NEUTRAL},
            },
        )
    ]
    if missed:
        traces.append(
            go.Scatter(
                x=[size for size, _ in missed],
                y=[lr for _, lr in missed],
                mode="markers",
                name="not reached",
                text=[f"target not reached{_share(cells[cell])}" for cell in missed],
                hovertemplate=hover,
                marker={"symbol": "x-thin", "size": 12, "color": NEUTRAL, "line": {"width": 2.5, "color": NEUTRAL}},
            )
        )
    if best is not None:
        traces.append(_mark(best.batch_size, best.lr, "best found", "diamond-open", 40))
    traces.append(_mark(found.plan_batch_size, found.plan_lr, "plan", "circle-open", 36))
    return traces


def _mark(batch_size: float, lr: float, name: str, symbol: str, size: int) -> go.Scatter:
    return go.Scatter(
        x=[batch_size],
        y=[lr],
        mode="markers",
        name=name,
        hoverinfo="skip",
        cliponaxis=False,
        marker={"symbol": symbol, "size": size, "color": VERMILLION, "line": {"width": 3, "color": VERMILLION}},
    )


def _mean(trials: list[Trial], measure: str) -> float | None:
    """Mean over the seeds; None where one of them did not reach the target, as that setting cannot be relied on."""
    values = [getattr(trial, measure) for trial in trials if trial.reached]
    if len(values) < len(trials) or any(value is None or not math.isfinite(value) for value in values):
        return None
    return float(sum(values) / len(values))


def _share(trials: list[Trial]) -> str:
    return (
        f" ({sum(trial.reached for trial in trials)} of {plural(len(trials), 'seed')} reached it)"
        if len(trials) > 1
        else ""
    )


def _colour_bar(values: list[float], words: str, write: Format) -> dict[str, object]:
    known = sorted(value for value in values if value > 0) or [1.0]
    low, high = math.log10(known[0]), math.log10(known[-1])
    ticks = [low + (high - low) * i / 3 for i in range(4)] if high > low else [low]
    return {
        "tickvals": ticks,
        "ticktext": [write(float(f"{10**tick:.3g}")) for tick in ticks],
        "thickness": 12,
        "outlinewidth": 0,
        "title": {"text": "examples" if words == "training examples" else "time", "side": "top"},
    }


def _lr_axis(lrs: list[float]) -> dict[str, object]:
    """Ticks at the learning rates themselves while they are few."""
    axis, different = log_axis(lrs, "learning rate"), sorted(set(lrs))
    if len(different) > 8:
        return axis
    return {**axis, "tickvals": different, "ticktext": [estimate(lr) for lr in different]}
