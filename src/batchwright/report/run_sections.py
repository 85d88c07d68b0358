"""The sections of a page that tell the runs of one task: who was cheapest, the figures, the summary and every run."""

import math
from collections.abc import Collection, Sequence
from pathlib import Path

from batchwright.core.records import RECORDS_NAME
from batchwright.core.statistics import Interval
from batchwright.report.elements import Html, bullets, figure, link, section, table, tag
from batchwright.report.figures import (
    batch_size_figure,
    comparison_figure,
    diffusion_figure,
    run_noise_figure,
    stability_figure,
    training_figure,
)
from batchwright.report.run_records import RunRecords
from batchwright.report.tables import RunRow, SummaryRow, run_rows, summarise
from batchwright.report.text import (
    count,
    duration,
    estimate,
    plural,
    seconds_with_span,
    with_span,
)

MAX_ROWS = 1000
MAX_OPEN_ROWS = 24


def run_headline(runs: Sequence[RunRecords]) -> str:
    """What the runs show, in one sentence."""
    rows = summarise(runs)
    tasks = list(dict.fromkeys(row.task for row in rows))
    if len(tasks) > 1:
        return f"{plural(len(runs), 'run')} of {plural(len(tasks), 'task')}"
    if len(runs) == 1:
        return f"{tasks[0]}: {_told(run_rows(runs)[0])}"
    best = _cheapest(rows, "examples")
    told = f"{plural(len(runs), 'run')} of {tasks[0]} under {plural(len(rows), 'label')}"
    if best is None or best.examples is None:
        return told
    if not _clearly(best, rows, "examples"):
        return f"{told}; none of them clearly needs the fewest examples to target"
    return f"{told}; fewest examples to target: {best.label}, {_plain(best.examples)}"


def run_section(runs: Sequence[RunRecords], name: str, title: str, folder: Path, page: Path) -> Html:
    """Everything about the runs of one task.

    Args:
        runs: Of one task.
        name: Begins the anchors.
        title: The heading.
        folder: That was reported, which the names of the runs are relative to.
        page: The file that the links start from.
    """
    rows, summaries = run_rows(runs), summarise(runs)
    drawn = [
        training_figure(runs),
        comparison_figure(runs),
        batch_size_figure(runs),
        run_noise_figure(runs),
        stability_figure(runs),
        diffusion_figure(runs),
    ]
    figures = [figure(item, f"{name}-{item.name}") for item in drawn if item is not None]
    return section(
        name,
        title,
        bullets(_sentences(summaries)),
        _summary_table(summaries),
        tag("div", *figures, class_="figures") if figures else "",
        _run_table(rows, folder, page),
    )


def warnings(runs: Sequence[RunRecords]) -> list[str]:
    """One sentence for each change before which the stability gauge warned."""
    return [
        f"{run.folder} at {count(decision.num_examples)} examples: {decision.warning[:300]}"
        for run in runs
        for decision in run.decisions
        if decision.warning
    ]


def failures(runs: Sequence[RunRecords]) -> list[str]:
    """One sentence for each run that failed."""
    return [
        f"{run.folder} failed after {plural(run.num_steps, 'step')}{': ' if run.message else ''}{run.message[:300]}"
        for run in runs
        if run.reason == "failed"
    ]


def _told(row: RunRow) -> str:
    seed = f"one run of {row.label} (seed {row.seed})"
    if row.to_target is not None:
        return f"{seed} reached its target after {count(round(row.to_target.examples))} examples"
    last = f", {row.metric} {_with_error(row)}" if math.isfinite(row.final) else ""
    return f"{seed} saw {count(row.num_examples)} examples{last}"


def _sentences(rows: Sequence[SummaryRow]) -> list[str]:
    lines = []
    for measure, words in (("examples", "Fewest examples to target"), ("seconds", "Least time to target")):
        best = _cheapest(rows, measure)
        if best is None:
            continue
        interval = getattr(best, measure)
        clear = _clearly(best, rows, measure)
        against = (
            "its interval lies below that of every other label"
            if clear
            else "intervals of other labels overlap with it"
        )
        written = _plain(interval) if measure == "examples" else _plain_seconds(interval)
        lines.append(f"{words}: {best.label}, {written}; {against}.")
    short = [row for row in rows if row.num_not_reached]
    if short:
        told = ", ".join(f"{row.label} ({row.num_not_reached} of {row.num_runs})" for row in short[:8])
        lines.append(
            f"Target not reached: {told}{' and other labels' if len(short) > 8 else ''}; these runs are in no mean to target."
        )
    unfinished = sum(row.num_unfinished for row in rows)
    if unfinished:
        lines.append(f"{plural(unfinished, 'run')} without an end: interrupted, killed, or still running.")
    return lines


def _complete(row: SummaryRow) -> bool:
    return row.num_reached == row.num_runs


def _cheapest(rows: Sequence[SummaryRow], measure: str) -> SummaryRow | None:
    """The label with the smallest mean among those whose every run reached the target; None if these are not two."""
    complete = [row for row in rows if _complete(row)]
    return min(complete, key=lambda row: getattr(row, measure).value) if len(complete) > 1 else None


def _clearly(best: SummaryRow, rows: Sequence[SummaryRow], measure: str) -> bool:
    """Whether the interval of the cheapest label lies below those of all others that reached the target every time."""
    others = [getattr(row, measure) for row in rows if row is not best and _complete(row)]
    return all(getattr(best, measure).high < other.low for other in others)


def _summary_table(rows: Sequence[SummaryRow]) -> Html:
    metrics = {row.metric for row in rows}
    head = [
        "label",
        "reached",
        "batch size",
        "lr",
        "steps to target",
        "examples to target",
        "time to target",
        _metric_head(metrics),
    ]
    body = [
        [
            row.label,
            _reached(row),
            _sizes(row),
            _range(row.lrs),
            _plain(row.steps),
            _plain(row.examples),
            _plain_seconds(row.seconds),
            _named(row.metric, _plain(row.final, 4), metrics) if row.final is not None else "–",
        ]
        for row in rows[:MAX_ROWS]
    ]
    return table("Labels: mean and 95 % interval over seeds; to target, over the runs that reached it", head, body)


def _sizes(row: SummaryRow) -> str:
    """Batch sizes at the start of the label's runs, and at their end where they moved."""
    first, last = _range(row.batch_sizes), _range(row.last_batch_sizes)
    return first if first == last else f"{first} → {last}"


def _run_table(rows: Sequence[RunRow], folder: Path, page: Path) -> Html:
    metrics = {row.metric for row in rows}
    head = [
        "label",
        "seed",
        "batch size",
        "lr",
        "steps",
        "examples",
        "examples to target",
        "time to target",
        _metric_head(metrics),
        "end",
        "record",
    ]
    body = [
        [
            row.label,
            str(row.seed),
            _range(tuple(dict.fromkeys((row.batch_size, row.last_batch_size))), " → "),
            estimate(row.lr) if math.isfinite(row.lr) else "–",
            count(row.num_steps),
            count(row.num_examples),
            count(round(row.to_target.examples))
            if row.to_target and math.isfinite(row.to_target.examples)
            else _short(row),
            duration(row.to_target.seconds) if row.to_target else _short(row),
            _named(row.metric, _with_error(row), metrics) if math.isfinite(row.final) else "–",
            row.reason,
            link(folder / row.folder / RECORDS_NAME, row.folder, page),
        ]
        for row in rows[:MAX_ROWS]
    ]
    caption = "Runs: final metric ± its standard error over the evaluation set"
    if len(rows) > MAX_ROWS:
        caption += f"; the first {MAX_ROWS:,} of {len(rows):,}, the summary counts all of them"
    opened = tag("summary", f"Every run ({len(rows):,})")
    return tag("details", opened, table(caption, head, body), open="" if len(rows) <= MAX_OPEN_ROWS else None)


def _metric_head(metrics: Collection[str]) -> str:
    return f"final {next(iter(metrics))}" if len(metrics) == 1 else "final metric"


def _named(metric: str, value: str, metrics: Collection[str]) -> str:
    """The value, with the name of its metric where a column holds several."""
    return value if len(metrics) == 1 else f"{metric} {value}"


def _reached(row: SummaryRow) -> str:
    if row.num_reached + row.num_not_reached + row.num_unfinished == 0:
        return "no target"
    missing = [
        f"{number} {word}"
        for number, word in ((row.num_not_reached, "not reached"), (row.num_unfinished, "unfinished"))
        if number
    ]
    return f"{row.num_reached} of {row.num_runs}" + (f" ({', '.join(missing)})" if missing else "")


def _short(row: RunRow) -> str:
    return {"not reached": "not reached", "unfinished": "not yet"}.get(row.outcome, "–")


def _range(values: Sequence[float], between: str = ", ") -> str:
    known = [value for value in values if math.isfinite(value)]
    if not known:
        return "–"
    write = [count(value) if value >= 1 and value == int(value) else estimate(value) for value in known]
    return between.join(write) if len(write) <= 3 else f"{write[0]} … {write[-1]}"


def _plain(interval: Interval | None, digits: int = 3) -> str:
    """Mean with its interval, or the mean alone of a single run."""
    if interval is None:
        return "–"
    if math.isinf(interval.low) and math.isinf(interval.high):
        return f"{_digits(interval.value, digits)} (one run)"
    return with_span(interval, lambda value: _digits(value, digits))


def _plain_seconds(interval: Interval | None) -> str:
    if interval is None:
        return "–"
    if math.isinf(interval.low) and math.isinf(interval.high):
        return f"{duration(interval.value)} (one run)"
    return seconds_with_span(interval)


def _digits(value: float, digits: int) -> str:
    """Four digits for a metric, where 0.971 and 0.9714 differ; three for the rest."""
    return f"{value:.{digits}g}" if digits > 3 and 1e-3 <= abs(value) < 1e4 else estimate(value)


def _with_error(row: RunRow) -> str:
    error = f" ± {row.standard_error:.2g}" if math.isfinite(row.standard_error) else ""
    return f"{_digits(row.final, 4)}{error}"
