"""The figures of the study: the learning curves beside the published ones, and what single updates gave beside their promise."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from batchwright.core.study_record import Level, Panel, Series, StudyFigure
from batchwright.studies.safe_pg.experiments import BOUNDS, DIMENSIONS
from batchwright.studies.safe_pg.guarantee_rows import TITLES, updates_of
from batchwright.studies.safe_pg.published import MARKS, RUNS

Results = Mapping[str, Mapping[str, Any]]

PANELS = (
    ("Bernstein and Hoeffding, δ = 0.95", [name for name in RUNS if name.split("-")[0] in ("bernstein", "hoeffding")]),
    ("Chebyshev, G(PO)MDP", [name for name in RUNS if name.startswith("chebyshev")]),
    ("Chebyshev, REINFORCE", [name for name in RUNS if name.startswith("reinforce")]),
)
BEST = -13.20675


def curve_figure(results: Results) -> StudyFigure | None:
    """J against trajectories; points are the authors' curves."""
    panels = []
    for title, names in PANELS:
        series: list[Series] = []
        for number, name in enumerate(names):
            found = next((result for cell, result in results.items() if cell.startswith(f"table/{name}/")), None)
            if found is None:
                continue
            label = (
                RUNS[name].title.removesuffix(", δ = 0.95")
                if "Bernstein" in title
                else RUNS[name].title.split(", ")[-1]
            )
            curve = found["curve"]
            series.append(
                Series(
                    name=label,
                    x=tuple(point[0] for point in curve),
                    y=tuple(point[1] for point in curve),
                    colour=number,
                    markers=False,
                )
            )
            shown = [i for i, mark in enumerate(MARKS) if mark <= 1.01 * curve[-1][0]]
            series.append(
                Series(
                    name=f"{label}, published",
                    x=tuple(MARKS[i] for i in shown),
                    y=tuple(RUNS[name].curve[i] for i in shown),
                    colour=number,
                    line=False,
                    legend=False,
                )
            )
        if series:
            panels.append(
                Panel(
                    title=title,
                    x_name="trajectories",
                    y_name="J, no boxes and no end",
                    series=tuple(series),
                    levels=(Level(y=BEST, name="best"),),
                    x_log=True,
                )
            )
    if not panels:
        return None
    return StudyFigure(
        name="curves",
        title="The runs of the paper: our curves, and the published points",
        caption="Each line is one run with rule, constants and mistakes of the public code; points are the authors' curves.",
        panels=tuple(panels),
        columns=3,
    )


def promise_figure(results: Results) -> StudyFigure | None:
    """Realised over guaranteed improvement by bound, a panel a dimension."""
    panels = []
    for dim, (horizon, delta) in DIMENSIONS.items():
        found = {bound: updates_of(results, dim, bound) for bound in BOUNDS}
        there = {bound: each for bound, each in found.items() if each is not None and len(each.ratio)}
        if not there:
            continue
        quantiles = {bound: np.quantile(each.ratio, (0.05, 0.5, 0.95)) for bound, each in there.items()}
        panels.append(
            Panel(
                title=f"dimension {dim}, horizon {horizon}, δ = {delta:g}",
                x_name="",
                y_name="realised over guaranteed",
                series=(
                    Series(
                        name="median, 5 to 95 % of updates",
                        x=tuple(float(i) for i in range(len(there))),
                        y=tuple(float(each[1]) for each in quantiles.values()),
                        low=tuple(float(each[0]) for each in quantiles.values()),
                        high=tuple(float(each[2]) for each in quantiles.values()),
                        line=False,
                    ),
                ),
                levels=(Level(y=1.0, name="exact"),),
                y_log=True,
                x_ticks=tuple(TITLES[bound].removesuffix(" (no guarantee)") for bound in there),
            )
        )
    if not panels:
        return None
    return StudyFigure(
        name="promise",
        title="How conservative the bounds are",
        caption="Single updates from random parameters at the batch size that the rule asks for: true change of the return over the "
        "promised one.",
        panels=tuple(panels),
        columns=3,
    )


def audit_figure(results: Results) -> StudyFigure | None:
    """Exact return along the audited runs."""
    series = []
    for number, (name, delta) in enumerate(
        (name, delta) for name in ("as-specified", "default") for delta in (0.95, 0.05)
    ):
        runs = [result for cell, result in results.items() if cell.startswith(f"audit/{name}/delta-{delta:g}/")]
        title = "constant of 2017" if name == "as-specified" else "defaults"
        for place, run in enumerate(runs):
            series.append(
                Series(
                    name=f"{title}, δ = {delta:g}",
                    x=tuple(point[0] for point in run["curve"]),
                    y=tuple(point[1] for point in run["curve"]),
                    colour=number,
                    markers=False,
                    legend=place == 0,
                )
            )
    if not series:
        return None
    return StudyFigure(
        name="audit",
        title="Runs that keep their promise",
        caption="Exact return of what is sampled, boxes and horizon included, along each run; no line falls.",
        panels=(Panel(title="", x_name="trajectories", y_name="J", series=tuple(series)),),
    )
