"""Run records: append-only JSON lines that survive a kill at any instant, and whole files written atomically.

A record is one JSON object a line with at least ``kind`` and ``schema``. A line torn by a kill is dropped by the reader, and
closed with a newline by the next writer, so nothing that was written is ever rewritten.
"""

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from batchwright.core.errors import OutputError, RecordError
from batchwright.core.serialization import to_plain

SCHEMA = 1
RECORDS_NAME = "records.jsonl"


@contextmanager
def output_errors(path: Path) -> Iterator[None]:
    """Turn an `OSError` of the file system into one clear `OutputError` that names the place."""
    try:
        yield
    except OutputError:
        raise
    except OSError as error:
        reason = error.strerror or str(error)
        raise OutputError(
            f"--out must be a folder that can be written, got {path} ({reason}); choose another"
        ) from error


def make_folder(path: Path) -> Path:
    """Create a folder with its parents, or raise `OutputError`."""
    with output_errors(path):
        path.mkdir(parents=True, exist_ok=True)
        if not os.access(path, os.W_OK):
            raise OutputError(f"--out must be a folder that can be written, got {path} (no permission); choose another")
    return path


def write_atomically(path: Path, text: str) -> None:
    """Write a whole file so that a reader sees the old text or the new one and nothing between."""
    write_bytes_atomically(path, text.encode("utf-8"))


def write_bytes_atomically(path: Path, content: bytes) -> None:
    """As `write_atomically`, of bytes."""
    with output_errors(path.parent):
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(name, 0o644)
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


def write_json(path: Path, value: Any) -> None:
    """Write a dataclass or plain value as indented strict JSON, atomically."""
    write_atomically(path, json.dumps(to_plain(value), indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        RecordError: If it is missing or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RecordError(f"{path} must exist, got no such file") from error
    except (OSError, ValueError, RecursionError) as error:
        raise RecordError(f"{path} must hold JSON, got {error}") from error


class RecordWriter:
    """Appends records to ``records.jsonl`` of a folder; each line is handed to the system when it is written."""

    def __init__(self, folder: Path) -> None:
        make_folder(folder)
        self.path = folder / RECORDS_NAME
        with output_errors(folder):
            torn = self.path.exists() and not _ends_with_newline(self.path)
            self._file = self.path.open("a", encoding="utf-8")
            if torn:
                self._file.write("\n")

    def write(self, kind: str, /, **fields: Any) -> None:
        """Append one record of the given kind."""
        line = json.dumps({"kind": kind, "schema": SCHEMA, **to_plain(fields)}, allow_nan=False)
        with output_errors(self.path.parent):
            self._file.write(line + "\n")
            self._file.flush()

    def sync(self) -> None:
        """Wait until everything written is on the disk; called before a checkpoint is made visible."""
        with output_errors(self.path.parent):
            self._file.flush()
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file; what was written stays."""
        with output_errors(self.path.parent):
            self._file.close()

    def __enter__(self) -> "RecordWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class NoRecords(RecordWriter):
    """Writes nothing: for the ranks of a job that leave the records to the first."""

    def __init__(self) -> None:
        """There is no file."""

    def write(self, kind: str, /, **fields: Any) -> None:
        """Nothing is written."""

    def sync(self) -> None:
        """There is nothing to wait for."""

    def close(self) -> None:
        """There is nothing to close."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Records:
    """The records of a run in order, as a run without interruptions would have written them.

    Attributes:
        lines: One dictionary a record. Of steps done twice, before a kill and again after the resume, the later stay.
        num_torn: Lines that a kill left unfinished; they are not in ``lines``.
    """

    lines: tuple[dict[str, Any], ...]
    num_torn: int = 0

    def of_kind(self, kind: str) -> list[dict[str, Any]]:
        """The records of one kind, in order."""
        return [line for line in self.lines if line["kind"] == kind]


def read_records(folder: Path) -> Records:
    """Read the records of a run folder.

    Raises:
        RecordError: If there are none, a line in the middle is damaged, or the schema is newer than this library.
    """
    path = folder / RECORDS_NAME
    try:
        raw = path.read_bytes().decode("utf-8", errors="replace").split("\n")
    except OSError as error:
        raise RecordError(
            f"{folder} must hold {RECORDS_NAME}, got {error.strerror}; give the folder of a run"
        ) from error
    lines: list[dict[str, Any]] = []
    torn: list[int] = []
    for number, text in enumerate(raw, start=1):
        if not text:
            continue
        record = _parse(text)
        if record is None:
            torn.append(number)
            continue
        if record["schema"] > SCHEMA:
            raise RecordError(f"{path} must be of schema {SCHEMA} or older, got {record['schema']}; update batchwright")
        # A kill tears only the last line of its process, so the line after a torn one is the first of a resume.
        if torn and torn[-1] == number - 1 and record["kind"] not in ("resume", "start"):
            raise RecordError(
                f"{path} must hold one JSON object a line, got damage in line {torn[-1]}; restore the file"
            )
        if record["kind"] == "resume":
            # Step -1 begins again; otherwise what came after the checkpoint, and the end of the earlier part, no longer count.
            done = record.get("step")
            if not isinstance(done, int):
                raise RecordError(f"{path} must say where a resume goes on, got step {done!r} in line {number}")
            kept = lines if done >= 0 else []
            lines = [line for line in kept if line.get("step", -1) <= done and line["kind"] != "end"]
        lines.append(record)
    if not lines:
        raise RecordError(f"{path} must hold at least one record, got none that can be read")
    return Records(lines=tuple(lines), num_torn=len(torn))


def _parse(text: str) -> dict[str, Any] | None:
    try:
        record = json.loads(text)
    except ValueError:  # not JSON, or a number of thousands of digits
        return None
    return record if isinstance(record, dict) and "kind" in record and isinstance(record.get("schema"), int) else None


def _ends_with_newline(path: Path) -> bool:
    with path.open("rb") as file:
        if file.seek(0, os.SEEK_END) == 0:
            return True
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"
