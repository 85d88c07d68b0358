"""The section of a reproduced paper: its verdicts, its rows by group, its figures, and what it cost."""

from collections.abc import Mapping
from typing import Any

from batchwright.core.errors import RecordError
from batchwright.core.serialization import from_plain
from batchwright.core.study_record import VERDICTS, Row, StudyRecord
from batchwright.report.elements import Html, bullets, card, cards, figure, picture, section, table, tag
from batchwright.report.figures.study import study_plot
from batchwright.report.figures.style import shorten
from batchwright.report.text import count, duration, estimate, plural, with_span

MAX_FIGURES = 12
MAX_ROWS = 400


def parse_study(value: Mapping[str, Any]) -> StudyRecord | None:
    """The record of a study; None for one of another form, which is shown as it is."""
    try:
        record: StudyRecord = from_plain(StudyRecord, value, "study")
    except (RecordError, TypeError, ValueError):
        return None
    return record


def record_section(record: StudyRecord, name: str) -> Html:
    """Cards of the verdicts, figures, one table a group, notes."""
    verdicts = [
        card(verdict, count(float(number)), plural(number, "row"))
        for verdict, number in record.verdicts.items()
        if number
    ]
    cells, cost = record.num_cells, record.cost
    told = (
        f"{shorten(record.source, 200)}. Preset {shorten(record.preset, 40)}, seed {record.seed}: "
        f"{cells.get('finished', 0)} of {cells.get('all', 0)} cells, {duration(cost.seconds)} of wall-clock time, "
        f"{duration(cost.cpu_seconds)} of processor time, {estimate(cost.num_gradients)} gradients of single examples."
    )
    drawn = [figure(study_plot(each), f"{name}-figure-{i}") for i, each in enumerate(record.figures[:MAX_FIGURES])]
    drawn += [
        picture(f"{name}-picture-{i}", shorten(each.title, 120), shorten(each.caption, 400), each.png, each.width)
        for i, each in enumerate(record.pictures[:MAX_FIGURES])
    ]
    groups = list(dict.fromkeys(row.group for row in record.rows[:MAX_ROWS]))
    tables = [_table([row for row in record.rows[:MAX_ROWS] if row.group == group], group) for group in groups]
    failures = (
        [tag("h3", "Failed"), bullets([shorten(line, 400) for line in record.failures])] if record.failures else []
    )
    return section(
        name,
        f"Study: {shorten(record.title, 120)}",
        tag("p", told),
        cards(*verdicts),
        tag("div", *drawn, class_="figures") if drawn else "",
        *tables,
        *failures,
        bullets([shorten(line, 600) for line in record.notes]),
    )


def study_headline(record: StudyRecord) -> str:
    """The verdicts in a sentence."""
    found = ", ".join(f"{number} {verdict}" for verdict, number in record.verdicts.items() if number)
    return f"Study {shorten(record.study, 40)}: {found or 'no rows yet'}"


def _table(rows: list[Row], group: str) -> Html:
    head = ["what", "published or predicted", "measured (95 %)", "passes", "verdict", "seeds", "note"]
    body = [
        [
            shorten(row.what, 200),
            "–" if row.published is None else estimate(row.published),
            "–" if row.measured is None else with_span(row.measured),
            _band(row),
            row.verdict,
            ", ".join(str(seed) for seed in row.seeds[:8]) + (" …" if len(row.seeds) > 8 else "") or "–",
            shorten("; ".join(part for part in (row.claim, row.note) if part), 600),
        ]
        for row in rows
    ]
    worst = [verdict for verdict in VERDICTS[1:] if any(row.verdict == verdict for row in rows)]
    return table(f"{shorten(group, 80)}: {'every row holds' if not worst else ', '.join(worst)}", head, body, texts={6})


def _band(row: Row) -> str:
    if row.low == row.high:
        return estimate(row.low)
    if row.high == float("inf"):
        return f"above {estimate(row.low)}"
    return f"{estimate(row.low)} to {estimate(row.high)}"
