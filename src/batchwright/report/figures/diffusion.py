"""Distance of the weights from where they began, with its laws, and the loss as a random potential."""

import math
from collections.abc import Sequence

from plotly.subplots import make_subplots

from batchwright.report.figures.style import Figure, colour_of, inert, log_axis, new_plot
from batchwright.report.run_records import RunRecords
from batchwright.report.text import estimate, natural_key
from batchwright.report.travel_records import LawRecord

MAX_RUNS = 6
FITTED = (("log", "log t", "dash"), ("square-root", "sqrt t", "dot"))


def diffusion_figure(runs: Sequence[RunRecords]) -> Figure | None:
    """Distances of the runs that recorded them, one run a label; None where none did."""
    known = sorted((run for run in runs if len(run.distances) > 1), key=lambda run: (natural_key(run.label), run.seed))
    if not known:
        return None
    first_of_label = list({run.label: run for run in reversed(known)}.values())[::-1]
    drawn = sorted(first_of_label, key=lambda run: natural_key(run.label))[:MAX_RUNS]
    potentials = [run for run in drawn if run.potential is not None]
    plot = new_plot()
    if potentials:
        plot = make_subplots(rows=1, cols=2, figure=plot, horizontal_spacing=0.1)
    first, second = ({"row": 1, "col": 1}, {"row": 1, "col": 2}) if potentials else ({}, {})
    for index, run in enumerate(drawn):
        name, colour = inert(f"{run.label}, seed {run.seed}"), colour_of(index)
        plot.add_scatter(
            x=[point.step for point in run.distances],
            y=[point.distance for point in run.distances],
            mode="lines+markers",
            name=name,
            legendgroup=name,
            line={"color": colour, "width": 2},
            marker={"color": colour, "size": 4},
            hovertemplate=f"step %{{x:,}}<br>distance %{{y:.4g}}<extra>{name}</extra>",
            **first,
        )
        for law, words, dash in FITTED:
            found = run.laws.get(law)
            if found is not None:
                steps = [point.step for point in run.distances if point.step <= run.fitted_to]
                plot.add_scatter(
                    x=steps,
                    y=[_law(found, law, step) for step in steps],
                    mode="lines",
                    name=f"{words} fitted",
                    legendgroup=words,
                    showlegend=index == 0,
                    line={"color": colour, "width": 1, "dash": dash},
                    hovertemplate=f"{words}, R² {found.r_squared:.3f}<extra>{name}</extra>",
                    **first,
                )
        if run.potential is not None:
            ends = [each for each in run.potential.deviations if each.value > 0 and math.isfinite(each.value)]
            radii = [
                radius
                for radius, each in zip(run.potential.radii, run.potential.deviations, strict=True)
                if each in ends
            ]
            plot.add_scatter(
                x=radii,
                y=[each.value for each in ends],
                error_y={
                    "type": "data",
                    "symmetric": False,
                    "array": [each.high - each.value for each in ends],
                    "arrayminus": [each.value - each.low for each in ends],
                    "thickness": 1.2,
                    "width": 3,
                },
                mode="lines+markers",
                name=name,
                legendgroup=name,
                showlegend=False,
                line={"color": colour, "width": 1.5},
                marker={"color": colour, "size": 6},
                hovertemplate=f"distance %{{x:.3g}}<br>scatter of the loss %{{y:.3g}}<extra>{name}</extra>",
                **second,
            )
    steps = [float(point.step) for run in drawn for point in run.distances]
    plot.update_xaxes(**log_axis(steps, "step"), **first)
    plot.update_yaxes(title_text="distance from the beginning", rangemode="tozero", **first)
    if potentials:
        radii = [radius for run in potentials if run.potential for radius in run.potential.radii]
        scatter = [each.value for run in potentials if run.potential for each in run.potential.deviations]
        plot.update_xaxes(**log_axis(radii, "distance from the beginning"), **second)
        plot.update_yaxes(**log_axis(scatter, "scatter of the loss over directions"), **second)
    return Figure(
        name="diffusion",
        title="How far the weights have come",
        caption="On a logarithmic axis of steps a straight line is log t, which a walk in a random potential of alpha = 2 follows; a "
        "free walk follows sqrt t."
        + (" On the right the loss about the beginning: its slope is alpha / 2." if potentials else ""),
        plot=plot,
        notes=_notes(drawn, len(known)),
        height=430,
        wide=True,
    )


def _law(found: LawRecord, law: str, step: float) -> float:
    return found.offset + found.slope * (math.log(step) if law == "log" else math.sqrt(step))


def _notes(drawn: Sequence[RunRecords], number: int) -> tuple[str, ...]:
    notes = []
    for run in drawn:
        if run.diffusion_told:
            alpha = run.potential.alpha if run.potential is not None else None
            more = ""
            if alpha is not None and math.isfinite(alpha.value):
                more = f"; alpha about the beginning {estimate(alpha.value)} ({estimate(alpha.low)} to {estimate(alpha.high)})"
            notes.append(f"{run.label}, seed {run.seed}: {run.diffusion_told}{more}.")
    if number > len(drawn):
        notes.append(f"One seed of each label is drawn, {len(drawn)} of {number} runs.")
    return tuple(notes)
