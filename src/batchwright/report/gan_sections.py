"""The section of the GANs on one data set: grids over time, losses, scores, the evidence for the batch sizes, warnings, a table."""

import html
import math
from collections.abc import Sequence

from batchwright.core.statistics import Interval
from batchwright.core.study_record import Level, Panel, Series, StudyFigure
from batchwright.report.elements import Html, bullets, card, cards, figure, join, section, table, tag
from batchwright.report.figures.study import study_plot
from batchwright.report.figures.style import shorten
from batchwright.report.gan_records import GanLook, GanRecords
from batchwright.report.text import count, duration, estimate, percent, plural, with_span

MAX_RUNS = 8
CLAIM = (
    "Noise over signal is of one step, at the networks as they were when it was measured: the size where both are equal is what "
    "the noise scale is for a mean over examples. Whether these sizes give better samples in a given time was not tested by the plan."
)


def gan_headline(runs: Sequence[GanRecords]) -> str:
    """What one run came to, in a sentence; how many there are of several."""
    if len(runs) != 1:
        return plural(len(runs), "run") + " of GANs"
    run = runs[0]
    told = f"{run.task}: {run.method} after {plural(int(run.num_steps), 'generator step')}"
    if not run.looks:
        return told
    score = run.looks[-1].score
    return told + (
        f", classifier-IS {estimate(score.value)}"
        if score is not None
        else f", KID {estimate(run.looks[-1].kid.value)}"
    )


def gan_section(runs: Sequence[GanRecords], name: str, title: str) -> Html:
    """Everything about the GANs on one data set."""
    shown = [run for run in runs if run.points or run.looks][:MAX_RUNS]
    drawn = (
        [_course(shown), *(_noise(run, number) for number, run in enumerate(shown) if run.evidence)] if shown else []
    )
    return section(
        name,
        title,
        cards(*_cards(runs[0])) if len(runs) == 1 and runs[0].looks else "",
        *(_grids(run, several=len(shown) > 1) for run in shown),
        tag("div", *(figure(study_plot(each), f"{name}-{each.name}") for each in drawn), class_="figures")
        if drawn
        else "",
        *(_evidence(run, several=len(shown) > 1) for run in shown if run.evidence),
        *(_warnings(run, several=len(shown) > 1) for run in shown if run.warnings),
        _table(runs),
    )


def _cards(run: GanRecords) -> list[Html]:
    last = run.looks[-1]
    on = "on the classifier's features" if run.judge_features == "classifier" else "on pixels averaged to 8 × 8"
    found = [card("KID", estimate(last.kid.value), f"{_range(last.kid)}, {on}")]
    if last.score is not None:
        found.append(
            card(
                "Classifier-IS",
                estimate(last.score.value),
                f"{_range(last.score)}; real images {estimate(run.real_score)}",
            )
        )
    if last.smallest_share is not None:
        found.append(card("Rarest class", percent(last.smallest_share.value), "of the samples"))
    found.append(card("Generator steps", count(run.num_steps), duration(run.train_s)))
    if run.points:
        point = run.points[-1]
        critic = f"critic {count(point.critic_batch_size)}" if run.method == "mmd-gan" else "no critic"
        found.append(card("Batch size", count(point.generator_batch_size), f"of the generator; {critic}"))
    return found


def _range(interval: Interval) -> str:
    return f"{estimate(interval.low)} to {estimate(interval.high)}"


def _grids(run: GanRecords, *, several: bool) -> Html:
    """Sample grids in the order of their steps."""
    looks = [look for look in run.looks if look.grid]
    if not looks:
        return Html("")
    parts = [
        tag(
            "figure",
            tag("h3", f"Step {count(look.step)}"),
            _image(look.grid, f"Samples of {run.label} at step {count(look.step)}"),
            tag("figcaption", _caption(look)),
        )
        for look in looks
    ]
    head = tag("h3", f"Samples of {_name(run)}" if several else "Samples over time")
    return join([head, tag("div", *parts, class_="figures")])


def _image(source: str, text: str) -> Html:
    return Html(
        f'<img src="{html.escape(source)}" alt="{html.escape(text)}" style="width:100%;height:auto;image-rendering:pixelated">'
    )


def _caption(look: GanLook) -> str:
    told = f"After {duration(look.train_s)}: KID {with_span(look.kid)}"
    return f"{told}, classifier-IS {with_span(look.score)}." if look.score is not None else f"{told}."


def _name(run: GanRecords) -> str:
    return f"{shorten(run.label, 60)}, {run.folder}"


def _course(runs: Sequence[GanRecords]) -> StudyFigure:
    """Losses, feature distances and scores against steps."""

    def of_points(title: str, field: str) -> Panel:
        return Panel(
            title=title,
            x_name="generator step",
            y_name=title,
            series=tuple(
                Series(
                    name=_name(run) if len(runs) > 1 else title,
                    x=tuple(point.step for point in run.points),
                    y=tuple(float(getattr(point, field)) for point in run.points),
                    colour=number,
                    markers=False,
                )
                for number, run in enumerate(runs)
            ),
        )

    def of_looks(title: str, field: str, levels: tuple[Level, ...] = ()) -> Panel:
        series = []
        for number, run in enumerate(runs):
            looks = [(look.step, found) for look in run.looks if (found := getattr(look, field)) is not None]
            series.append(
                Series(
                    name=_name(run) if len(runs) > 1 else title,
                    x=tuple(step for step, _ in looks),
                    y=tuple(found.value for _, found in looks),
                    low=tuple(found.low for _, found in looks),
                    high=tuple(found.high for _, found in looks),
                    colour=number,
                )
            )
        return Panel(title=title, x_name="generator step", y_name=title, series=tuple(series), levels=levels)

    real = runs[0].real_score
    levels = (Level(y=real, name="real images"),) if math.isfinite(real) else ()
    panels = [of_points("generator's loss", "loss"), of_looks("KID", "kid")]
    if any(run.method == "mmd-gan" for run in runs):
        panels.insert(1, of_points("critic's loss", "critic_loss"))
        panels.append(of_points("distance of real and generated features", "feature_distance"))
    if any(look.score is not None for run in runs for look in run.looks):
        panels.append(of_looks("classifier-IS", "score", levels))
    return StudyFigure(
        name="course",
        title="The course of the run" if len(runs) == 1 else "The courses of the runs",
        caption="Losses are of moving opponents and need not fall; KID (lower is better) and the classifier's inception score "
        "(higher is better) with 95 % intervals say how the samples do. They compare only under the same classifier.",
        panels=tuple(panels),
        columns=2,
    )


def _noise(run: GanRecords, number: int) -> StudyFigure:
    """Noise over signal against batch size."""
    series = []
    for colour, found in enumerate(run.evidence):
        points = [point for point in found.points if math.isfinite(point.ratio.value) and point.ratio.value > 0]
        series.append(
            Series(
                name=found.network,
                x=tuple(point.batch_size for point in points),
                y=tuple(point.ratio.value for point in points),
                low=tuple(max(point.ratio.low, point.ratio.value / 1e3) for point in points),
                high=tuple(min(point.ratio.high, point.ratio.value * 1e3) for point in points),
                colour=colour,
            )
        )
    panel = Panel(
        title="noise over signal of a step",
        x_name="batch size",
        y_name="noise over signal",
        series=tuple(series),
        x_log=True,
        y_log=True,
        levels=(Level(y=1.0, name="noise equals signal"),),
    )
    return StudyFigure(
        name=f"noise-{number + 1}",
        title="The evidence for the batch sizes",
        caption=f"Measured at step {count(run.evidence_step)}, from whole batches of each size. {CLAIM}",
        panels=(panel,),
        columns=1,
    )


def _evidence(run: GanRecords, *, several: bool) -> Html:
    rows = [
        (
            found.network,
            count(found.before),
            count(found.batch_size),
            with_span(found.equal_size),
            percent(found.first_order) if math.isfinite(found.first_order) else "unknown",
            estimate(found.lr_factor),
            found.reason,
        )
        for found in run.evidence
    ]
    head = ("network", "was", "planned", "noise equals signal at", "noise falling as 1/B", "learning rate times", "why")
    of = f" of {_name(run)}" if several else ""
    return table(
        f"Batch sizes{of}, planned at a cost of {estimate(run.cost_steps)} plain generator steps",
        head,
        rows,
        texts=(3, 6),
    )


def _warnings(run: GanRecords, *, several: bool) -> Html:
    return join([tag("h3", f"Warnings of {_name(run)}" if several else "Warnings"), bullets(list(run.warnings))])


def _table(runs: Sequence[GanRecords]) -> Html:
    head = (
        "run",
        "label",
        "seed",
        "method",
        "loss",
        "steps",
        "training",
        "KID",
        "classifier-IS",
        "rarest class",
        "warnings",
        "end",
    )
    rows = [
        (
            run.folder,
            shorten(run.label, 60),
            str(run.seed),
            run.method,
            str(run.options.get("loss", "")),
            count(run.num_steps),
            duration(run.train_s),
            with_span(run.looks[-1].kid) if run.looks else "",
            with_span(run.looks[-1].score) if run.looks and run.looks[-1].score is not None else "",
            percent(run.looks[-1].smallest_share.value)
            if run.looks and run.looks[-1].smallest_share is not None
            else "",
            count(float(len(run.warnings))),
            run.reason,
        )
        for run in runs
    ]
    return table("Every run, by its last samples", head, rows, texts=(1, 3, 4, 11))
