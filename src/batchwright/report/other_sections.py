"""The sections of a page beside plans and runs: studies as their records are, the environments, and the files."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from batchwright.core.records import RECORDS_NAME
from batchwright.core.serialization import from_plain
from batchwright.core.statistics import Interval
from batchwright.report.collect import Collected
from batchwright.report.elements import Html, bullets, join, link, section, table, tag
from batchwright.report.figures.style import shorten
from batchwright.report.text import count, estimate, human, plural, with_span

MAX_DEPTH = 4
MAX_ROWS = 200
MAX_COLUMNS = 6
MAX_FILES = 60

# These change from one run to the next on one machine, so they do not make another environment.
PASSING = ("load",)


def study_section(value: Mapping[str, Any], name: str, path: str) -> Html:
    """A study's record: its numbers, sentences and tables as they are."""
    named = next((key for key in ("title", "study", "name") if isinstance(value.get(key), str)), "")
    title = str(value[named]) if named else path
    rest = {key: item for key, item in value.items() if key not in (named, "schema", "kind")}
    return section(name, f"Study: {shorten(title, 100)}", _value(rest, 0))


def environment_section(collected: Collected) -> Html:
    """What everything was made on, one column for each different environment."""
    columns: dict[str, tuple[Mapping[str, Any], list[str]]] = {}
    sources = [(path, plan.environment) for path, plan in collected.plans.items()]
    sources += [(run.folder, run.environment) for run in collected.runs]
    sources += [(run.folder, run.environment) for run in collected.rl]
    sources += [(search.folder, search.environment) for search in collected.tuning]
    for path, environment in sources:
        known = {key: item for key, item in environment.items() if key not in PASSING}
        if known:
            columns.setdefault(json.dumps(known, sort_keys=True), (known, []))[1].append(path)
    shown = list(columns.values())[:MAX_COLUMNS]
    if not shown:
        return Html("")
    keys = dict.fromkeys(key for environment, _ in shown for key in environment)
    head = ["", *(paths[0] if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1:,} more" for _, paths in shown)]
    rows = [[human(str(key)), *(_plain(environment.get(key)) for environment, _ in shown)] for key in keys]
    left_out = f"; {len(columns) - len(shown)} more are left out" if len(columns) > len(shown) else ""
    caption = (
        "One machine and one set of versions"
        if len(columns) == 1
        else f"{len(columns)} different environments{left_out}"
    )
    head = head if len(shown) > 1 else ["", "everything here"]
    return section("environment", "Environment", table(caption, head, rows, texts=range(1, 1 + len(shown))))


def files_section(collected: Collected, page: Path) -> Html:
    """Links to the records that the page was made from."""
    names = [*collected.plans, *collected.verifications, *collected.studies]
    folders = [*(run.folder for run in collected.runs), *(run.folder for run in collected.rl)]
    folders += [search.folder for search in collected.tuning]
    names += [RECORDS_NAME if folder == "." else f"{folder}/{RECORDS_NAME}" for folder in folders]
    links = [tag("li", link(collected.folder / name, name, page)) for name in names[:MAX_FILES]]
    rest = [tag("li", f"… and {plural(len(names) - MAX_FILES, 'more file')}")] if len(names) > MAX_FILES else []
    return section("records", "Records", tag("ul", *links, *rest, class_="files"))


def _value(value: Any, depth: int) -> Html:
    interval = _interval(value)
    if interval is not None:
        return join([with_span(interval)])
    if isinstance(value, Mapping) and depth < MAX_DEPTH:
        entries = [
            part
            for key, item in list(value.items())[:MAX_ROWS]
            for part in (tag("dt", human(str(key))), tag("dd", _value(item, depth + 1)))
        ]
        return tag("dl", *entries)
    if isinstance(value, list) and value and depth < MAX_DEPTH:
        if all(isinstance(item, Mapping) for item in value):
            return _rows(value)
        if all(isinstance(item, str) for item in value):
            return bullets([shorten(item, 1000) for item in value])
        more = " …" if len(value) > 50 else ""
        return join([", ".join(_plain(item) for item in value[:50]) + more])
    return join([_plain(value)])


def _rows(values: Sequence[Mapping[str, Any]]) -> Html:
    keys = list(dict.fromkeys(str(key) for row in values for key in row))[:20]
    rows = [[_plain(row.get(key)) for key in keys] for row in values[:MAX_ROWS]]
    caption = plural(len(values), "row") + (f", the first {MAX_ROWS} shown" if len(values) > MAX_ROWS else "")
    return table(caption, [human(key) for key in keys], rows)


def _plain(value: Any) -> str:
    interval = _interval(value)
    if interval is not None:
        return with_span(interval)
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return count(float(value)) if abs(value) < 10**15 else shorten(str(value), 40)
    if isinstance(value, float):
        return estimate(value)
    return shorten(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False), 1000)


def _interval(value: Any) -> Interval | None:
    if not (isinstance(value, Mapping) and {"value", "low", "high"} <= set(value)):
        return None
    try:
        interval: Interval = from_plain(Interval, value)
    except ValueError:
        return None
    return interval
