"""The append-only journal of a search: what a killed driver goes on from, to the last finished trial.

Records of `core.records`, in this order: ``start`` with the settings; for each round ``round`` with what is asked, then ``trial`` for
each as it ends; ``recommendation`` and ``picture`` after a round; ``end``. Beside them stands the state of the bandit as it was when
the round was asked, in one safetensors file a round that appears whole or not at all.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from batchwright.core.environment import environment
from batchwright.core.errors import CheckpointError, InputError
from batchwright.core.records import NoRecords, RecordWriter, make_folder, output_errors, read_records
from batchwright.core.serialization import from_plain
from batchwright.tuning.outcome import TuningTrial
from batchwright.tuning.settings import TuneSettings

SYSTEM = "tuning"
STATES = "states"


class Journal:
    """Writes a search down; without a folder it keeps nothing."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self._records = RecordWriter(folder) if folder is not None else NoRecords()

    def start(self, settings: TuneSettings, device: str) -> None:
        """A new search."""
        self._write("start", system=SYSTEM, settings=settings, environment=environment(device))

    def resume(self) -> None:
        """A search goes on; everything before stays, but for its end."""
        self._write("resume", step=0)

    def round(self, number: int, trials: list[dict[str, Any]], state: Mapping[str, Any]) -> None:
        """What a round asks; the state of the bandit is on the disk before the record says so."""
        if self.folder is not None:
            _save_state(self.folder, number, state)
        self._write("round", number=number, trials=trials)

    def trial(self, trial: TuningTrial) -> None:
        """A trial has ended; it is on the disk when this returns."""
        self._write("trial", **trial.to_record())

    def result(self, kind: str, **fields: Any) -> None:
        """What was found after a round, ``recommendation`` or ``picture``, or the ``end``."""
        self._write(kind, **fields)

    def close(self) -> None:
        """What was written stays."""
        self._records.close()

    def _write(self, kind: str, /, **fields: Any) -> None:
        self._records.write(kind, **fields)
        self._records.sync()


class Written:
    """What a journal holds.

    Attributes:
        settings: Of the search.
        trials: Finished trials by id.
        round: Number of the last round that was asked; None before the first.
        ended: Whether the search came to its end.
        seconds: Wall-clock seconds of the parts so far, as far as they were written down.
    """

    def __init__(self, folder: Path) -> None:
        """Read a journal.

        Raises:
            InputError: If the folder holds no search.
        """
        self.folder = folder
        if not holds_search(folder):
            raise InputError(f"--resume needs a folder that holds a search, got {folder}; start without --resume")
        records = read_records(folder)
        start = records.of_kind("start")[0]
        self.settings: TuneSettings = from_plain(TuneSettings, start["settings"], "settings")
        found: list[TuningTrial] = [from_plain(TuningTrial, line, "trial") for line in records.of_kind("trial")]
        self.trials = {trial.id: trial for trial in found}
        rounds = records.of_kind("round")
        self.round: int | None = int(rounds[-1]["number"]) if rounds else None
        ends = records.of_kind("end")
        self.ended = bool(ends)
        told = records.of_kind("recommendation")
        self.seconds = float(told[-1].get("seconds", 0.0)) if told else 0.0

    def state(self) -> dict[str, Any] | None:
        """State of the bandit when the last round was asked; None before the first round."""
        return None if self.round is None else _load_state(self.folder, self.round)


def holds_search(folder: Path) -> bool:
    """Whether a folder holds the journal of a search."""
    try:
        lines = read_records(folder).lines
    except InputError:
        return False
    return any(line["kind"] == "start" and line.get("system") == SYSTEM for line in lines[:3])


def _state_path(folder: Path, number: int) -> Path:
    return folder / STATES / f"round-{number:03d}.safetensors"


def _save_state(folder: Path, number: int, state: Mapping[str, Any]) -> None:
    from safetensors.torch import save_file

    path = _state_path(folder, number)
    make_folder(path.parent)
    partial = path.with_suffix(".partial")
    with output_errors(folder):
        save_file(dict(state["tensors"]), partial, metadata={"plain": json.dumps(state["plain"], allow_nan=False)})
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)


def _load_state(folder: Path, number: int) -> dict[str, Any]:
    from safetensors import SafetensorError, safe_open

    path = _state_path(folder, number)
    try:
        with safe_open(path, framework="pt") as file:
            plain = json.loads(file.metadata()["plain"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path} must hold the state of round {number + 1}, got {type(error).__name__}: {error}; restore it, or start anew"
        ) from error
    return {"plain": plain, "tensors": tensors}
