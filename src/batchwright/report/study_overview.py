"""Several reproduced papers in one table: a row a paper, with its main claim, all its verdicts, seeds, interval and cost."""

from collections.abc import Mapping, Sequence
from typing import Any

from batchwright.core.errors import RecordError
from batchwright.core.serialization import from_plain
from batchwright.core.study_record import VERDICTS, Row, StudyRecord
from batchwright.core.study_set import StudyEntry, StudySet
from batchwright.report.elements import Html, section, table, tag
from batchwright.report.figures.style import shorten
from batchwright.report.text import duration, estimate, with_span

HEAD = [
    "study",
    "main claim",
    "published",
    "measured (95 %)",
    "verdict",
    "all rows",
    "seeds",
    "processor time",
    "cells",
]


def parse_set(value: Any) -> StudySet | None:
    """The record of a set of studies; None for one of another form."""
    try:
        found: StudySet = from_plain(StudySet, value, "studies")
    except (RecordError, TypeError, ValueError):
        return None
    return found


def main_row(record: StudyRecord) -> Row | None:
    """The row on the paper's main claim, as the study names it; None where it is not among the rows."""
    return next((row for row in record.rows if record.headline and row.what == record.headline), None)


def overview_section(records: Sequence[tuple[str, StudyRecord]], sets: Mapping[str, StudySet]) -> Html:
    """The table; empty for a single study that is no part of a set.

    Args:
        records: Anchor of each study's own section, and its record.
        sets: By their path.
    """
    lost = [entry for found in sets.values() for entry in found.entries if entry.error]
    if len(records) < 2 and not lost:
        return Html("")
    rows = [_row(anchor, record) for anchor, record in records] + [_lost(entry) for entry in lost]
    told = (
        f"{overview_headline([record for _, record in records], lost)}. Which row stands for a paper's main claim is written in its "
        "study, not chosen by its verdict; a study's name leads to all its rows and figures. What stands as published is the paper's "
        "number, or that of the specification's own run where its page says so."
    )
    return section("studies", "Studies", tag("p", told), table(_count(len(rows)), HEAD, rows, texts={1, 5}))


def overview_headline(records: Sequence[StudyRecord], lost: Sequence[StudyEntry] = ()) -> str:
    """How many main claims have each verdict, in a sentence."""
    verdicts = [row.verdict if (row := main_row(record)) else "no main row yet" for record in records]
    verdicts += ["failed"] * len(lost)
    counts = {verdict: verdicts.count(verdict) for verdict in (*VERDICTS, "no main row yet", "failed")}
    found = ", ".join(f"{verdict} {number}" for verdict, number in counts.items() if number)
    return f"{_count(len(verdicts))} by their main claims: {found}"


def _count(number: int) -> str:
    return "1 study" if number == 1 else f"{number} studies"


def _row(anchor: str, record: StudyRecord) -> list[str]:
    row = main_row(record)
    counts = ", ".join(f"{number} {verdict}" for verdict, number in record.verdicts.items() if number)
    seeds = sorted({seed for each in record.rows for seed in each.seeds}) if row is None else list(row.seeds)
    cells = record.num_cells
    failed = f", {cells['failed']} failed" if cells.get("failed") else ""
    return [
        tag("a", shorten(record.study, 60), href=f"#{anchor}", title=shorten(record.title, 200)),
        "–" if row is None else shorten("; ".join(part for part in (row.what, row.claim) if part), 300),
        "–" if row is None or row.published is None else estimate(row.published),
        "–" if row is None or row.measured is None else with_span(row.measured),
        "no main row yet" if row is None else row.verdict,
        counts or "no rows",
        _seeds(seeds),
        duration(record.cost.cpu_seconds)
        if record.cost.cpu_seconds
        else f"{duration(record.cost.seconds)} by the clock",
        f"{cells.get('finished', 0)} of {cells.get('all', 0)}{failed}",
    ]


def _seeds(seeds: Sequence[int]) -> str:
    if len(seeds) > 3 and list(seeds) == list(range(seeds[0], seeds[0] + len(seeds))):
        return f"{seeds[0]} to {seeds[-1]}"
    return ", ".join(str(seed) for seed in seeds[:8]) + (" …" if len(seeds) > 8 else "") or "–"


def _lost(entry: StudyEntry) -> list[str]:
    return [
        shorten(entry.study, 60),
        shorten(entry.title, 200),
        "–",
        "–",
        "failed",
        shorten(entry.error, 400),
        "–",
        "–",
        "–",
    ]
