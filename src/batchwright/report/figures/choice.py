"""Which labels a figure shows when there are too many to tell apart."""

import math
from collections.abc import Sequence

from batchwright.report.run_records import RunRecords
from batchwright.report.tables import SummaryRow, summarise
from batchwright.report.text import natural_key


def choose_labels(runs: Sequence[RunRecords], at_most: int) -> list[str]:
    """Labels in natural order; of too many, those that most surely and with the fewest examples reached their target."""
    rows = sorted(summarise(runs), key=_rank)
    return sorted({row.label: None for row in rows[:at_most]}, key=natural_key)


def _rank(row: SummaryRow) -> tuple[float, float, list[tuple[int, int, str]]]:
    examples = row.examples.value if row.examples is not None else math.inf
    return -row.num_reached / row.num_runs, examples, natural_key(row.label)
