"""Reads the records of a folder once and hands them to whoever knows their kind."""

from collections.abc import Callable, Mapping
from pathlib import Path

from batchwright.core.errors import RecordError
from batchwright.core.records import Records, read_records
from batchwright.report import gan_records, rl_records, tuning_records
from batchwright.report.gan_records import GanRecords
from batchwright.report.rl_records import RlRecords
from batchwright.report.run_records import RunRecords, parse_run
from batchwright.report.text import plural
from batchwright.report.tuning_records import TuningRecords

AnyRecords = RunRecords | RlRecords | GanRecords | TuningRecords
# By the ``system`` of the line they start with; a training run has none.
PARSERS: Mapping[str, Callable[[Records, Path, str], AnyRecords]] = {
    rl_records.SYSTEM: rl_records.parse_rl,
    gan_records.SYSTEM: gan_records.parse_gan,
    tuning_records.SYSTEM: tuning_records.parse_tuning,
}


class UnfinishedStudyError(RecordError):
    """The records are cells of a study, whose rows and figures are made when it ends."""


def read_any(folder: Path, name: str) -> AnyRecords:
    """Read what was run in ``folder`` and call it ``name``.

    Raises:
        UnfinishedStudyError: If they are those of a study, which has no ``study.json`` yet.
        RecordError: If its records are missing or damaged.
    """
    records = read_records(folder)
    studies = [line["study"] for line in records.lines[:3] if line["kind"] == "start" and "study" in line]
    if studies:
        cells = plural(len(records.of_kind("cell")), "cell")
        raise UnfinishedStudyError(
            f"{name}: the study {str(studies[0])[:60]} has finished {cells}; its rows and figures come when it ends"
        )
    systems = [str(line.get("system", "")) for line in records.lines[:3] if line["kind"] == "start"]
    parse = PARSERS.get(systems[0], parse_run) if systems else parse_run
    try:
        return parse(records, folder, name)
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError, IndexError) as error:
        raise RecordError(f"{folder} must hold the records of a run, got {type(error).__name__}: {error}") from error
