"""Finds and reads what a folder holds: plans, verifications, studies and runs, at any depth."""

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from batchwright.core.errors import RecordError
from batchwright.core.records import RECORDS_NAME, read_json
from batchwright.core.study_set import SET_NAME, StudySet
from batchwright.report.any_records import AnyRecords, UnfinishedStudyError, read_any
from batchwright.report.gan_records import GanRecords
from batchwright.report.plan_records import PlanRecord, VerificationRecord, parse_plan, parse_verification
from batchwright.report.rl_records import RlRecords
from batchwright.report.run_records import RunRecords
from batchwright.report.study_overview import parse_set
from batchwright.report.text import natural_key, plural
from batchwright.report.tuning_records import TuningRecords

PLAN_NAME = "plan.json"
VERIFICATION_NAME = "verification.json"
STUDY_NAME = "study.json"
NAMES = (PLAN_NAME, VERIFICATION_NAME, STUDY_NAME, SET_NAME, RECORDS_NAME)

MAX_DEPTH = 8
MAX_FILES = 5000
SKIPPED = frozenset({"checkpoints", "__pycache__", "node_modules"})

# What a damaged file can raise on its way through the JSON reader: too deep a nesting and too long a number among them.
DAMAGE = (ValueError, TypeError, KeyError, OverflowError, RecursionError, AttributeError)

Item = TypeVar("Item")
# By path: the state of the file, and what was read of it or why nothing was.
ReadBefore = dict[str, tuple[tuple[int, int], Any]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Collected:
    """What a folder holds; the keys are paths relative to it, the shallowest first.

    Attributes:
        folder: The folder.
        plans: By the path of their ``plan.json``.
        verifications: By the path of their ``verification.json``.
        studies: By the path of their ``study.json``; the JSON as it is.
        runs: In the order of their folders.
        rl: Runs of safe policy gradients, likewise.
        gan: Runs of GANs, likewise.
        tuning: Searches of settings, likewise.
        sets: Studies that were run together, by the path of their ``studies.json``.
        warnings: One sentence for each thing that could not be read, or only in part.
    """

    folder: Path
    plans: Mapping[str, PlanRecord]
    verifications: Mapping[str, VerificationRecord]
    studies: Mapping[str, Mapping[str, Any]]
    runs: tuple[RunRecords, ...]
    warnings: tuple[str, ...]
    rl: tuple[RlRecords, ...] = ()
    gan: tuple[GanRecords, ...] = ()
    tuning: tuple[TuningRecords, ...] = ()
    sets: Mapping[str, StudySet] = field(default_factory=dict)

    @property
    def every_run(self) -> list[AnyRecords]:
        """The runs and searches of all kinds."""
        return [*self.runs, *self.rl, *self.gan, *self.tuning]


def collect(folder: Path, read_before: ReadBefore | None = None) -> Collected:
    """Read everything in ``folder`` that a report can show.

    Folders deeper than `MAX_DEPTH`, hidden ones, links to folders and ``checkpoints`` are not entered, and at most `MAX_FILES`
    records are read.

    Args:
        folder: A plan folder, a run folder, or one that holds such.
        read_before: What was read of it before; a file that is as it was is not read again. Filled anew.

    Raises:
        RecordError: If it holds nothing that can be read.
    """
    if not folder.is_dir():
        raise RecordError(
            f"{folder} must be a folder with plans or runs, got no such folder; give the --out of a command"
        )
    warnings: list[str] = []
    found = _find(folder, warnings)
    # Beside a study.json the records are the study's own cells, and no run.
    of_studies = {Path(path).parent for path in found if Path(path).name == STUDY_NAME}
    found = [path for path in found if Path(path).name != RECORDS_NAME or Path(path).parent not in of_studies]

    def read(name: str, reader: Callable[[Path, str], Item]) -> dict[str, Item]:
        """What can be read of the files called ``name``; the rest becomes warnings."""
        items: dict[str, Item] = {}
        for path in (path for path in found if Path(path).name == name):
            try:
                items[path] = _again(folder / path, path, reader, read_before)
            except UnfinishedStudyError as error:
                warnings.append(str(error))
            except DAMAGE as error:
                reason = str(error) if isinstance(error, RecordError) else f"{type(error).__name__}: {error}"
                warnings.append(f"{path} is left out, it cannot be read: {reason.replace(f'{folder}/', '')}")
        return items

    plans = read(PLAN_NAME, lambda path, name: parse_plan(read_json(path), name))
    verifications = read(VERIFICATION_NAME, lambda path, name: parse_verification(read_json(path), name))
    studies = read(STUDY_NAME, _read_study)
    sets = {path: found for path, found in read(SET_NAME, _read_set).items() if found.entries}
    every = read(RECORDS_NAME, _read_records).values()
    runs = tuple(item for item in every if isinstance(item, RunRecords))
    rl = tuple(item for item in every if isinstance(item, RlRecords))
    gan = tuple(item for item in every if isinstance(item, GanRecords))
    tuning = tuple(item for item in every if isinstance(item, TuningRecords))
    if not (plans or verifications or studies or sets or every):
        reason = f"nothing that can be read; {warnings[0]}" if warnings else "none of them; give the --out of a command"
        raise RecordError(f"{folder} must hold one of {', '.join(NAMES)}, got {reason}")
    torn = [item.folder for item in every if item.num_torn]
    if torn:
        others = f" and {plural(len(torn) - 1, 'other run')}" if len(torn) > 1 else ""
        warnings.append(f"{torn[0]}{others}: a line that a kill left unfinished was passed over")
    return Collected(
        folder=folder,
        plans=plans,
        verifications=verifications,
        studies=studies,
        runs=runs,
        warnings=tuple(warnings),
        rl=rl,
        gan=gan,
        tuning=tuning,
        sets=sets,
    )


def state_of(folder: Path) -> dict[str, tuple[int, int]]:
    """Time and size of every file that a report of the folder reads: two states are equal where nothing changed."""
    return {path: _state(folder / path) for path in sorted(_walk(folder))}


def _state(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except OSError:
        return (0, -1)
    return (found.st_mtime_ns, found.st_size)


def _again(path: Path, name: str, reader: Callable[[Path, str], Item], before: ReadBefore | None) -> Item:
    """What the reader makes of the file, from before where the file is as it was."""
    if before is None:
        return reader(path, name)
    state = _state(path)
    if name not in before or before[name][0] != state:
        before[name] = (state, reader(path, name))
    item: Item = before[name][1]
    return item


def _read_records(path: Path, name: str) -> AnyRecords:
    return read_any(path.parent, Path(name).parent.as_posix())


def _read_study(path: Path, name: str) -> Mapping[str, Any]:
    value = read_json(path)
    if not isinstance(value, dict):
        raise RecordError(f"{name} must hold a JSON object, got {type(value).__name__}")
    return value


def _read_set(path: Path, name: str) -> StudySet:
    found = parse_set(read_json(path))
    if found is None:
        raise RecordError(f"{name} must hold a set of studies, got another form")
    return found


def _find(folder: Path, warnings: list[str]) -> list[str]:
    """Relative paths of the known files, the shallowest first and each level in natural order."""
    found = sorted(_walk(folder), key=lambda path: (path.count("/"), natural_key(path)))
    if len(found) > MAX_FILES:
        warnings.append(f"only the first {MAX_FILES} of {len(found)} records are read; report a smaller folder")
    return found[:MAX_FILES]


def _walk(folder: Path) -> Iterator[str]:
    for here, folders, files in os.walk(folder):
        where = Path(here).relative_to(folder)
        inside = [name for name in folders if not name.startswith(".") and name not in SKIPPED]
        folders[:] = inside if len(where.parts) < MAX_DEPTH else []
        yield from ((where / name).as_posix() for name in files if name in NAMES)
