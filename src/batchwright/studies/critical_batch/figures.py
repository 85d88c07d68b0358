"""Figures of the study, as data."""

import math
from collections.abc import Sequence

import numpy as np

from batchwright.core.statistics import Interval
from batchwright.core.study_record import Level, Panel, Series, StudyFigure
from batchwright.studies.critical_batch.race import RaceResult
from batchwright.studies.critical_batch.results import OptimizerResult, geometric
from batchwright.tasks.task import Target


def critical_figure(found: Sequence[OptimizerResult], words: str) -> StudyFigure | None:
    """Steps to the target against the batch size with the fitted laws, and the critical sizes with their intervals."""
    series: list[Series] = []
    names, sizes = [], []
    for colour, each in enumerate(found):
        there = [size for size in each.sizes if size.steps and all(map(math.isfinite, size.steps.values()))]
        if not there:
            continue
        means = [geometric(list(size.steps.values())) for size in there]
        series.append(_marks(each.name, [float(size.batch_size) for size in there], means, colour, line=False))
        law, critical = each.hyperbola(), each.critical()
        if law is None or critical is None:
            continue
        grid = np.geomspace(there[0].batch_size, there[-1].batch_size, 60)
        series.append(
            Series(
                name=f"{each.name}, fitted",
                x=tuple(map(float, grid)),
                y=tuple(law.steps(float(x)) for x in grid),
                colour=colour,
                markers=False,
                legend=False,
            )
        )
        names.append(each.name)
        sizes.append((critical, colour))
    if not series:
        return None
    panels = [
        Panel(
            title=f"Steps to {words}",
            x_name="batch size",
            y_name="steps",
            series=tuple(series),
            x_log=True,
            y_log=True,
        )
    ]
    if sizes:
        panels.append(
            Panel(
                title="Critical batch sizes, 95 % intervals",
                x_name="",
                y_name="examples",
                series=tuple(
                    _marks(name, [float(place)], [interval], colour, line=False, legend=False)
                    for place, (name, (interval, colour)) in enumerate(zip(names, sizes, strict=True))
                ),
                y_log=True,
                x_ticks=tuple(names),
            )
        )
    return StudyFigure(
        name="critical-batch",
        title="Steps to the target against the batch size",
        caption=f"Marks: geometric mean over the seeds with its interval; lines: S_min (1 + B_crit / B). Target: {words}.",
        panels=tuple(panels),
        columns=len(panels),
    )


def race_figure(found: Sequence[RaceResult], target: Target) -> StudyFigure | None:
    """The value against the steps, mean over the seeds that are still under way, and the value that ends the race."""
    series = []
    for colour, each in enumerate(found):
        if not each.curves:
            continue
        # A mean over fewer seeds than before would jump.
        length = min(len(curve) for curve in each.curves.values())
        curves = [curve[:length] for curve in each.curves.values()]
        series.append(
            Series(
                name=each.name,
                x=tuple(float(point[0]) for point in curves[0]),
                y=tuple(float(np.mean([curve[at][1] for curve in curves])) for at in range(length)),
                colour=colour,
                markers=False,
            )
        )
    if not series or not found[0].ends:
        return None
    goal = sum(found[0].ends.values()) / len(found[0].ends)
    return StudyFigure(
        name="race",
        title=f"The race to what {found[0].name} reaches in {found[0].num_steps} steps",
        caption="Mean over the seeds, as far as all of them go: a run ends where it has reached the level.",
        panels=(
            Panel(
                title="",
                x_name="optimizer steps",
                y_name=target.metric,
                series=tuple(series),
                levels=(Level(y=goal, name=f"{found[0].name} after {found[0].num_steps} steps"),),
            ),
        ),
    )


def _marks(
    name: str, x: Sequence[float], found: Sequence[Interval], colour: int, *, line: bool, legend: bool = True
) -> Series:
    # On a logarithmic axis an end at 0 or beyond any number is drawn as far as a factor of 30 goes.
    low = tuple(max(each.low, each.value / 30) for each in found)
    high = tuple(min(each.high, each.value * 30) for each in found)
    return Series(
        name=name,
        x=tuple(x),
        y=tuple(each.value for each in found),
        low=low,
        high=high,
        colour=colour,
        line=line,
        legend=legend,
    )
