"""What commands print: one JSON envelope, or text for people; progress goes to standard error."""

import json
import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from batchwright.core.serialization import to_plain
from batchwright.core.statistics import Interval

ENVELOPE_SCHEMA = 1


def console() -> Console:
    """For people, on standard output."""
    return Console(highlight=False, markup=False, soft_wrap=not sys.stdout.isatty())


def errors() -> Console:
    """For progress and notes, on standard error."""
    return Console(stderr=True, highlight=False, markup=False, soft_wrap=not sys.stderr.isatty())


_started = time.perf_counter()


def start_clock() -> None:
    """A command begins: what it costs is counted from here."""
    global _started
    _started = time.perf_counter()


def print_json(command: str, result: Any, cost: Any, device: str = "cpu") -> None:
    """The envelope of every ``--json`` answer: ``schema``, ``command``, ``result``, ``cost``, ``environment``.

    Its form is `envelope.schema.json` beside this module. The cost has ``seconds``, those since the command began where it says
    nothing better.
    """
    from batchwright.core.environment import environment, resolve_device  # torch, which --help can do without

    document = {
        "schema": ENVELOPE_SCHEMA,
        "command": command,
        "result": to_plain(result),
        "cost": {"seconds": time.perf_counter() - _started, **to_plain(cost)},
        "environment": to_plain(environment(resolve_device(device))),
    }
    sys.stdout.write(json.dumps(document, indent=2, allow_nan=False) + "\n")


@contextmanager
def progress_bar(*, shown: bool = True) -> Iterator[Progress]:
    """A bar on a terminal; nothing where standard error is a file or a pipe, or it is not to be shown."""
    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[note]}", markup=False),
        TimeElapsedColumn(),
        console=errors(),
        transient=True,
        disable=not shown or not sys.stderr.isatty(),
    )
    with bar:
        yield bar


def number(value: float) -> str:
    """A number in three or four figures, without an exponent where that can be read."""
    if value != value or value in (float("inf"), float("-inf")):
        return {"nan": "unknown", "inf": "unbounded"}.get(str(value), str(value))
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def interval_text(interval: Interval) -> str:
    """``value (low to high)``; the value alone where nothing bounds it on either side, as for the mean of one run."""
    if interval.low == -math.inf and interval.high == math.inf:
        return number(interval.value)
    return f"{number(interval.value)} ({number(interval.low)} to {number(interval.high)})"
