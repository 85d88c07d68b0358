"""The section of the safe policy gradients of one environment: the promise in words, the course of return, batch and step, a table."""

import math
from collections.abc import Sequence

from batchwright.core.statistics import Interval
from batchwright.core.study_record import Panel, Series, StudyFigure
from batchwright.report.elements import Html, bullets, card, cards, figure, section, table, tag
from batchwright.report.figures.study import study_plot
from batchwright.report.figures.style import shorten
from batchwright.report.rl_records import RlRecords, UpdatePoint
from batchwright.report.text import count, duration, estimate, percent, plural, ratio, with_span

MAX_RUNS = 12
MAX_UPDATES = 30


def rl_headline(runs: Sequence[RlRecords]) -> str:
    """What one run came to, in a sentence; how many there are of several."""
    if len(runs) != 1:
        return plural(len(runs), "run") + " of safe policy gradients"
    run = runs[0]
    if not run.updates:
        return f"{run.task}: a safe policy gradient without an update"
    return (
        f"{run.task}: discounted return from {estimate(run.updates[0].mean_return)} to "
        f"{estimate(run.updates[-1].mean_return)} in {plural(run.num_updates, 'update')}"
    )


def rl_section(runs: Sequence[RlRecords], name: str, title: str) -> Html:
    """Everything about the safe policy gradients on one environment."""
    shown = [run for run in runs if run.updates][:MAX_RUNS]
    drawn = [_course(shown)] if shown else []
    promises = [
        part
        for lines, which in _promises(runs).items()
        for part in (tag("h3", f"What is guaranteed: {shorten(', '.join(which), 120)}"), bullets(list(lines)))
    ]
    return section(
        name,
        title,
        cards(*_cards(runs[0])) if len(runs) == 1 and runs[0].updates else "",
        *promises,
        tag("div", *(figure(study_plot(each), f"{name}-{each.name}") for each in drawn), class_="figures")
        if drawn
        else "",
        _run_table(runs),
        _update_table(runs[0]) if len(runs) == 1 and runs[0].updates else "",
    )


def _promises(runs: Sequence[RlRecords]) -> dict[tuple[str, ...], list[str]]:
    """The same promise is told once, with the labels of the runs that made it."""
    found: dict[tuple[str, ...], list[str]] = {}
    for run in runs:
        names = found.setdefault(run.promise, [])
        if run.label not in names:
            names.append(run.label)
    return found


def _cards(run: RlRecords) -> list[Html]:
    first, last = run.updates[0], run.updates[-1]
    promise = (
        f"at most {percent(run.delta)} an update" if run.over == "update" else f"{percent(1 - run.delta)} for the run"
    )
    return [
        card("Return at last", estimate(last.mean_return), f"at first {estimate(first.mean_return)}", _interval(last)),
        card("Guarantee", promise if run.holds else "none", _chance(run)),
        card("Trajectories", count(last.num_trajectories), f"of a budget of {count(run.budget)}"),
        card("Last batch", count(last.batch_size), f"at first {count(first.batch_size)}"),
        card("Updates", count(float(run.num_updates)), f"{count(float(run.num_moves))} moved"),
        card("Decreases", _decreases(run), "beyond noise, of those that moved"),
    ]


def _chance(run: RlRecords) -> str:
    return "chance of a decrease" if run.holds and run.over == "update" else ""


def _decreases(run: RlRecords) -> str:
    if run.num_true_decreases is not None:
        return f"{count(float(run.num_true_decreases))} true"
    return count(float(run.num_seen_decreases))


def _interval(point: UpdatePoint) -> Interval | None:
    half = 1.96 * point.return_error
    if not math.isfinite(half) or not math.isfinite(point.mean_return):
        return None
    return Interval(value=point.mean_return, low=point.mean_return - half, high=point.mean_return + half)


def _course(runs: Sequence[RlRecords]) -> StudyFigure:
    """Return, batch, step and improvement against the trajectories used."""

    def panel(title: str, values: str, *, log: bool = False, spread: bool = False) -> Panel:
        series = []
        for number, run in enumerate(runs):
            points = [point for point in run.updates if not log or getattr(point, values) > 0]
            x = tuple(point.num_trajectories for point in points)
            y = tuple(float(getattr(point, values)) for point in points)
            half = [1.96 * point.return_error if math.isfinite(point.return_error) else 0.0 for point in points]
            series.append(
                Series(
                    name=_name(run, runs),
                    x=x,
                    y=y,
                    low=tuple(a - b for a, b in zip(y, half, strict=True)) if spread else (),
                    high=tuple(a + b for a, b in zip(y, half, strict=True)) if spread else (),
                    colour=number,
                    markers=len(points) < 60,
                )
            )
        return Panel(title=title, x_name="trajectories", y_name=title, series=tuple(series), y_log=log)

    panels = [
        panel("discounted return", "mean_return", spread=True),
        panel("batch size (trajectories)", "batch_size", log=True),
        panel("step size", "step_size", log=True),
        _improvement(runs),
    ]
    return StudyFigure(
        name="course",
        title="The course of the run" if len(runs) == 1 else "The courses of the runs",
        caption="Return before each update with its 95 % interval; the improvement that was guaranteed, and what came of it, summed "
        "over the updates so far. It counts from all batches up to the first update that moved.",
        panels=tuple(panels),
        columns=2,
    )


def _improvement(runs: Sequence[RlRecords]) -> Panel:
    series = []
    for number, run in enumerate(runs):
        total, promised, realised, x = 0.0, [], [], []
        start = _first_return(run)
        # The points are thinned, so what came is the return less the first one, and the promise is scaled to the sum of all.
        shown = math.fsum(point.guaranteed for point in run.updates if point.step_size > 0)
        scale = run.promised / shown if shown else 1.0
        for point in run.updates:
            x.append(point.num_trajectories)
            promised.append(total)
            realised.append(point.mean_return - start)
            total += scale * point.guaranteed if point.step_size > 0 else 0.0
        name = _name(run, runs)
        series += [
            Series(name=f"{name}, realised", x=tuple(x), y=tuple(realised), colour=number, markers=False),
            Series(name=f"{name}, guaranteed", x=tuple(x), y=tuple(promised), colour=number, dash=1, markers=False),
        ]
    return Panel(title="improvement since the start", x_name="trajectories", y_name="improvement", series=tuple(series))


def _first_return(run: RlRecords) -> float:
    """Return of the first policy, by all batches up to the first update that moved: a first batch alone is small and noisy."""
    moved = next((place for place, point in enumerate(run.updates) if point.step_size > 0), len(run.updates) - 1)
    still = run.updates[: moved + 1]
    return math.fsum(point.batch_size * point.mean_return for point in still) / math.fsum(
        point.batch_size for point in still
    )


def _name(run: RlRecords, runs: Sequence[RlRecords]) -> str:
    same = sum(other.label == run.label for other in runs)
    return f"{run.label}, seed {run.seed}" if same > 1 else run.label


def _run_table(runs: Sequence[RlRecords]) -> Html:
    head = (
        "run",
        "label",
        "seed",
        "guarantee",
        "updates",
        "moved",
        "trajectories",
        "return at first",
        "at last",
        "decreases seen",
        "true decreases",
        "guaranteed in all",
        "end",
        "time",
    )
    rows = [
        (
            run.folder,
            shorten(run.label, 60),
            str(run.seed),
            "none" if not run.holds else f"δ = {run.delta:.3g} per {run.over}",
            count(float(run.num_updates)),
            count(float(run.num_moves)),
            count(run.updates[-1].num_trajectories) if run.updates else "0",
            _return(run.updates[0]) if run.updates else "",
            _return(run.updates[-1]) if run.updates else "",
            count(float(run.num_seen_decreases)),
            "" if run.num_true_decreases is None else count(float(run.num_true_decreases)),
            estimate(run.promised),
            run.reason,
            duration(run.train_s),
        )
        for run in runs
    ]
    caption = (
        "Every run; a decrease is seen where the next batch's return is lower by more than the 95 % interval of the difference, which "
        "happens by chance in one update of forty"
    )
    return table(caption, head, rows, texts=(1, 3, 12))


def _return(point: UpdatePoint) -> str:
    interval = _interval(point)
    return estimate(point.mean_return) if interval is None else with_span(interval)


def _update_table(run: RlRecords) -> Html:
    gap = max(1, math.ceil(len(run.updates) / MAX_UPDATES))
    chosen = [point for i, point in enumerate(run.updates) if i % gap == 0 or i == len(run.updates) - 1]
    rows = [
        (
            count(float(point.step)),
            count(point.num_trajectories),
            count(point.batch_size),
            _return(point),
            estimate(point.step_size),
            ratio(point.error / point.gradient_size) if point.gradient_size > 0 else "",
            estimate(point.guaranteed),
            "" if point.realised is None else with_span(point.realised),
        )
        for point in chosen
    ]
    head = (
        "update",
        "trajectories so far",
        "batch size",
        "return before it",
        "step size",
        "error over gradient",
        "guaranteed",
        "realised (by the next batch)",
    )
    told = "" if len(chosen) == run.num_updates else f"; {len(chosen)} of {count(float(run.num_updates))} are shown"
    return table(f"Updates{told}", head, rows)
