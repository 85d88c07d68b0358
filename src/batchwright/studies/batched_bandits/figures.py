"""Figures of the study, as data."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from batchwright.core.statistics import mean_interval
from batchwright.core.study_record import Panel, Series, StudyFigure
from batchwright.studies.batched_bandits.presets import METHODS
from batchwright.studies.batched_bandits.rows import Results

NAMES = {
    "bpe": "BPE, a round's own values",
    "bpe-all": "BPE, all values",
    "gp-bucb": "GP-BUCB",
    "ucb-pe": "UCB-PE",
    "thompson": "Thompson",
    "gp-ucb": "GP-UCB, a round a trial",
}


def _series(name: str, x: Sequence[float], columns: Sequence[Sequence[float]], **look: Any) -> Series:
    """Means of columns of values with their 95 % intervals, which end at a tenth of the mean."""
    found = [mean_interval(list(values)) for values in columns]
    return Series(
        name=name,
        x=tuple(float(each) for each in x),
        y=tuple(each.value for each in found),
        low=tuple(max(each.low, each.value / 10) if np.isfinite(each.low) else each.value for each in found),
        high=tuple(each.high if np.isfinite(each.high) else each.value for each in found),
        **look,
    )


def batches_figure(results: Results) -> StudyFigure | None:
    """Cumulative regret along the trials, by the number of batches."""
    panels = []
    for kernel, title in (("se", "squared exponential"), ("matern", "Matérn 5/2")):
        series = []
        for number, plan in enumerate(("batches-2", "batches-3", "batches-4", "batches-6", "sqrt", "gp-ucb")):
            found = results.get(f"regret/{kernel}/beta-6/{plan}")
            if found is not None:
                words = {"sqrt": f"square root ({len(found['plan'])} batches)", "gp-ucb": "GP-UCB"}
                curves = np.array(found["curve"])
                name = words.get(plan, plan.replace("batches-", "B = "))
                series.append(_series(name, found["marks"][6:], curves.T[6:].tolist(), colour=number, markers=False))
        if series:
            panels.append(
                Panel(title=title, x_name="trials", y_name="cumulative regret", series=tuple(series), x_log=True)
            )
    if not panels:
        return None
    return StudyFigure(
        name="batches",
        title="Cumulative regret by the number of batches, beta = 6",
        caption="Means over the functions with 95 % intervals. A batch that nothing was learnt before costs most.",
        panels=tuple(panels),
        columns=2,
    )


def horizon_figure(results: Results) -> StudyFigure | None:
    """Regret over the root of the horizon, plain and robust."""
    grown = sorted(
        (result for key, result in results.items() if key.startswith("growth/")),
        key=lambda each: int(each["arguments"]["horizon"]),
    )
    robust = sorted(
        (result for key, result in results.items() if key.startswith("robust/")),
        key=lambda each: int(each["arguments"]["horizon"]),
    )
    series = []
    if grown:
        horizons = [int(each["arguments"]["horizon"]) for each in grown]
        series.append(_series("BPE", horizons, [each["regret"] for each in grown], colour=0))
    if robust:
        horizons = [int(each["arguments"]["horizon"]) for each in robust]
        series.append(_series("robust BPE, robust regret", horizons, [each["cumulative"] for each in robust], colour=1))
    if not series:
        return None
    x = np.array([min(each.x[0] for each in series), max(each.x[-1] for each in series)])
    level = series[0].y[0] * (x / series[0].x[0]) ** 0.5
    series.append(Series(name="root of T", x=tuple(x), y=tuple(level), colour=4, dash=1, markers=False))
    return StudyFigure(
        name="horizon",
        title="Cumulative regret against the horizon, square-root schedule, noise 0.1",
        caption="Means over the functions with 95 % intervals; dashed is the root of T through the first point.",
        panels=(Panel(title="", x_name="T", y_name="R_T", series=tuple(series), x_log=True, y_log=True),),
    )


def methods_figure(results: Results) -> StudyFigure | None:
    """Simple regret against rounds, all methods with the same plan."""
    panels = []
    for horizon in sorted({int(key.split("/")[1][2:]) for key in results if key.startswith("equal/")}):
        series = []
        for number, name in enumerate(METHODS):
            found = results.get(f"equal/T-{horizon}/{name}")
            if found is None:
                continue
            simple = np.maximum(np.array(found["simple"]), 0)
            rounds = np.arange(1, simple.shape[1] + 1)
            kept = np.unique(np.round(np.geomspace(1, len(rounds), 16)).astype(int)) - 1
            series.append(_series(NAMES[name], rounds[kept].tolist(), simple.T[kept].tolist(), colour=number % 6))
        if series:
            panels.append(
                Panel(
                    title=f"T = {horizon}",
                    x_name="rounds",
                    y_name="simple regret",
                    series=tuple(series),
                    x_log=True,
                )
            )
    if not panels:
        return None
    return StudyFigure(
        name="methods",
        title="Simple regret of the recommendation after each round, noise 0.1",
        caption="All but GP-UCB have the rounds of the square-root schedule; all recommend the maximum of the posterior mean.",
        panels=tuple(panels),
        columns=2,
    )
