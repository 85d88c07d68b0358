"""Figures of the runs of a language model, as data."""

import math
from collections.abc import Sequence

import numpy as np

from batchwright.core.statistics import Interval, mean_interval
from batchwright.core.study_record import Panel, Series, StudyFigure
from batchwright.studies.conditional_gradient.curves import Curve, Results, curves
from batchwright.studies.conditional_gradient.language_rows import LANGUAGE, WHO, budget_name, by_budget


def language_figure(
    results: Results, prefix: str = LANGUAGE, name: str = "language", who: str = WHO
) -> StudyFigure | None:
    """Loss at the best step size against batch; best step size against 1/K; best batch against tokens."""
    budgets = by_budget(curves(results, prefix))
    if not budgets:
        return None
    losses, steps = [], []
    for colour, (tokens, seeds) in enumerate(budgets.items()):
        sizes = tuple(float(size) for size in seeds[0].batch_sizes)
        losses.append(_mean_series(budget_name(tokens), sizes, [each.losses for each in seeds], colour))
        num_steps = tuple(float(number) for number in seeds[0].num_steps)
        logs = [tuple(math.log2(lr) for lr in each.lrs) for each in seeds]
        steps.append(_powers(_mean_series(budget_name(tokens), num_steps, logs, colour)))
    last = steps[-1]
    middle = last.x[len(last.x) // 2], last.y[len(last.y) // 2]
    steps.append(_line("proportional to 1/K", [x for each in steps for x in each.x], *middle, -1.0))
    panels = [
        Panel(
            title="", x_name="batch size (sequences)", y_name="loss held out (nats)", series=tuple(losses), x_log=True
        ),
        Panel(
            title="", x_name="steps of a run, K", y_name="best step size", series=tuple(steps), x_log=True, y_log=True
        ),
    ]
    if len(budgets) > 1:
        panels.append(_best_batches(budgets))
    return StudyFigure(
        name=name,
        title=f"{who}: budgets of tokens",
        caption="Left the loss at the best step size of each batch; then that step size against the number of steps; then "
        "the best batch against the budget. Means over seeds, from three on with 95 % intervals of a mean.",
        panels=tuple(panels),
        columns=3,
    )


def grid_figure(
    results: Results, prefix: str = LANGUAGE, name: str = "language-grid", who: str = WHO
) -> StudyFigure | None:
    """Loss of every run, mean over seeds, a panel a budget."""
    budgets = by_budget(curves(results, prefix))
    if not budgets:
        return None
    panels = []
    for tokens, seeds in budgets.items():
        whole = {each.seed for each in seeds}
        cells = [
            cell
            for key, cell in results.items()
            if key.startswith(prefix)
            and "loss" in cell
            and cell["arguments"]["budgets"][-1] == tokens
            and cell["arguments"]["seed"] in whole
        ]
        series = []
        for colour, lr in enumerate(sorted({float(cell["arguments"]["lr"]) for cell in cells})):
            own = [cell for cell in cells if float(cell["arguments"]["lr"]) == lr]
            sizes = sorted({int(cell["arguments"]["batch_size"]) for cell in own})
            means = [
                float(np.mean([float(cell["loss"]) for cell in own if cell["arguments"]["batch_size"] == size]))
                for size in sizes
            ]
            series.append(Series(name=f"step size {lr:g}", x=tuple(map(float, sizes)), y=tuple(means), colour=colour))
        panels.append(
            Panel(
                title=budget_name(tokens),
                x_name="batch size (sequences)",
                y_name="loss held out (nats)",
                series=tuple(series),
                x_log=True,
            )
        )
    return StudyFigure(
        name=name,
        title=f"{who}: every step size",
        caption="Mean over seeds of the loss held out.",
        panels=tuple(panels),
        columns=2,
    )


def _best_batches(budgets: dict[int, list[Curve]]) -> Panel:
    tokens = tuple(float(each) for each in budgets)
    series = []
    for colour, (name, value) in enumerate(
        (("best batch", Curve.best_batch), ("largest batch that costs 0.03 nats", Curve.free_batch))
    ):
        columns = [[math.log2(value(curve)) for curve in seeds] for seeds in budgets.values()]
        found = [_interval([each for each in column if math.isfinite(each)] or [math.nan]) for column in columns]
        series.append(
            _powers(
                Series(
                    name=name,
                    x=tokens,
                    y=tuple(each.value for each in found),
                    low=tuple(each.low for each in found),
                    high=tuple(each.high for each in found),
                    colour=4 + colour,
                )
            )
        )
    series.append(_line("proportional to T^(2/3)", list(tokens), tokens[0], series[0].y[0], 2 / 3))
    return Panel(title="", x_name="tokens", y_name="batch size", series=tuple(series), x_log=True, y_log=True)


def _mean_series(name: str, x: tuple[float, ...], rows: Sequence[Sequence[float]], colour: int) -> Series:
    found = [_interval(list(column)) for column in zip(*rows, strict=True)]
    return Series(
        name=name,
        x=x,
        y=tuple(each.value for each in found),
        low=tuple(each.low for each in found),
        high=tuple(each.high for each in found),
        colour=colour,
    )


def _powers(series: Series) -> Series:
    """Two to the power of the values, so that means and intervals are those of the logarithm."""
    y, low, high = (tuple(_power(each) for each in values) for values in (series.y, series.low, series.high))
    return Series(name=series.name, x=series.x, y=y, low=low, high=high, colour=series.colour)


def _power(value: float) -> float:
    return float(2.0**value) if math.isfinite(value) else value


def _interval(values: Sequence[float]) -> Interval:
    """Of the mean; that of two values would be wider than the figure, so it is left out."""
    found = mean_interval(values)
    return found if len(values) > 2 else Interval(value=found.value, low=-math.inf, high=math.inf)


def _line(name: str, places: list[float], x: float, y: float, exponent: float) -> Series:
    ends = (min(places), max(places))
    return Series(
        name=name,
        x=ends,
        y=tuple(y * (end / x) ** exponent for end in ends),
        colour=5,
        dash=1,
        markers=False,
    )
