"""Records to tables, figures, and one self-contained interactive page."""

from batchwright.report.collect import Collected, collect
from batchwright.report.page import write_report
from batchwright.report.run_records import RunRecords
from batchwright.report.tables import RunRow, SummaryRow, run_rows, summarise
from batchwright.report.watch import Watch

__all__ = [
    "Collected",
    "RunRecords",
    "RunRow",
    "SummaryRow",
    "Watch",
    "collect",
    "run_rows",
    "summarise",
    "write_report",
]
