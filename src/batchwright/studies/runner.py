"""Runs the cells of a study in worker processes, one torch thread each, and records every finished cell at once.

Records are append-only, so a study that is killed loses the cells that were under way and no others; with ``resume`` the finished ones
are read back. A cell's numbers depend on its arguments alone, so the summary of a resumed study is that of one never interrupted.
"""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from batchwright.core.environment import environment, resolve_device
from batchwright.core.errors import BatchwrightError, InputError, RecordError
from batchwright.core.host import num_usable_cpus
from batchwright.core.records import RECORDS_NAME, RecordWriter, make_folder, read_records, write_json
from batchwright.core.serialization import to_plain
from batchwright.core.study_record import StudyCost, StudyRecord
from batchwright.studies.figures import write_figures, write_pictures
from batchwright.studies.study import PRESETS, Cell, Place, Study

STUDY_NAME = "study.json"
STATE_FOLDER = "state"

OnCell = Callable[[str, int, int], None]


def run_study(
    study: Study,
    *,
    preset: str,
    out: Path,
    seed: int = 0,
    device: str = "cpu",
    data_root: Path | None = None,
    resume: bool = False,
    num_workers: int | None = None,
    only: str = "",
    options: Mapping[str, str] | None = None,
    on_cell: OnCell = lambda name, done, total: None,
) -> StudyRecord:
    """Run a study, or what is left of it, and write its records, figures and summary to ``out``.

    Args:
        study: What to run.
        preset: ``smoke``, ``laptop``, ``paper``, or one that the study has beside them.
        out: Folder of the study.
        seed: Every generator of the study is derived from it.
        device: To compute on; on a GPU one worker is used.
        data_root: Folder of real data sets, for presets that need it.
        resume: Keep the cells that ``out`` already holds.
        num_workers: Processes; two at most by default, and 1 runs in this process.
        only: Runs the cells whose name holds this text, with those they go on from; all others stay open.
        options: What the study is told beside these, by name; its own where left out.
        on_cell: Called with the name of a finished cell, how many are done, and how many there are.

    Returns:
        The summary; a cell that failed is told in it, and the rest of the study stands.

    Raises:
        InputError: If the preset or an option is unknown, no cell has ``only`` in its name, or ``out`` holds another study or one not
            to be resumed.
        OutputError: If ``out`` cannot be written.
    """
    presets = (*PRESETS, *study.more_presets)
    if preset not in presets:
        raise InputError(f"--preset must be one of {', '.join(presets)} for {study.name}, got {preset!r}")
    if preset in study.needs_data and data_root is None:
        raise InputError(f"--data-root must name the folder of real data for preset {preset} of {study.name}, got none")
    chosen = resolve_device(device)
    told = {**study.options, **(options or {})}
    study = study.configured(options or {}, data_root)
    cells = list(study.cells(preset, seed))
    wanted = _wanted(cells, only)
    make_folder(out)
    identity = {"study": study.name, "preset": preset, "seed": seed, **({"options": told} if told else {})}
    earlier = _earlier(out, identity, resume)
    begun = earlier is not None
    results = {line["name"]: line for line in earlier or () if line["name"] in {cell.name for cell in cells}}
    place = Place(folder=make_folder(out / STATE_FOLDER), device=chosen, data_root=data_root)
    failures: dict[str, str] = {}
    workers = num_workers or (1 if chosen.type != "cpu" else min(2, num_usable_cpus()))
    start = time.perf_counter()
    with RecordWriter(out) as records:
        if begun:
            records.write("resume", step=0, cells=len(results))
        else:
            records.write("start", **identity, environment=environment(chosen))
        open_cells = [cell for cell in wanted if cell.name not in results]
        for cell, result, error in _run_all(open_cells, set(results), place, workers):
            if error is not None:
                failures[cell.name] = error
                records.write("failure", name=cell.name, message=error)
            else:
                # What is summarised is what was recorded, so that a resumed study sees the very same values.
                line = to_plain({"name": cell.name, "arguments": cell.arguments, **(result or {})})
                records.write("cell", **line, elapsed=time.perf_counter() - start)
                records.sync()
                results[cell.name] = line
            on_cell(cell.name, len(results), len(cells))
        records.write("part", elapsed=time.perf_counter() - start)
    ordered = {cell.name: results[cell.name] for cell in cells if cell.name in results}
    summary = study.summarise(preset, ordered)
    record = StudyRecord(
        study=study.name,
        title=study.title,
        source=study.source,
        preset=preset,
        seed=seed,
        num_cells={"finished": len(ordered), "failed": len(failures), "all": len(cells)},
        rows=summary.rows,
        figures=summary.figures,
        notes=summary.notes,
        failures=tuple(f"{name}: {message}" for name, message in failures.items()),
        cost=StudyCost(
            seconds=_seconds(out),
            cpu_seconds=sum(float(line.get("cpu_seconds", 0.0)) for line in ordered.values()),
            num_gradients=sum(float(line.get("num_gradients", 0.0)) for line in ordered.values()),
        ),
        environment=environment(chosen),
        pictures=summary.pictures,
        headline=next((row.what for row in summary.rows if study.headline and study.headline in row.what), ""),
    )
    write_figures(out / "figures", record.figures)
    write_pictures(out / "figures", record.pictures)
    write_json(out / STUDY_NAME, record)
    return record


def _seconds(out: Path) -> float:
    """Wall-clock seconds of all parts of the study; of a part that was killed, those to its last finished cell."""
    total = latest = 0.0
    for line in read_records(out).lines:
        if line["kind"] in ("start", "resume"):
            total, latest = total + latest, 0.0
        latest = max(latest, float(line.get("elapsed", 0.0)))
    return total + latest


def _wanted(cells: Sequence[Cell], only: str) -> list[Cell]:
    by_name = {cell.name: cell for cell in cells}
    names: set[str] = set()

    def add(cell: Cell) -> None:
        if cell.name in names:
            return  # in a chain whose cells name all before them there are exponentially many ways back
        names.add(cell.name)
        for name in cell.after:
            add(by_name[name])

    for cell in cells:
        if only in cell.name:
            add(cell)
    if not names:
        raise InputError(
            f"--only must be part of a cell's name, got {only!r}; cells are {', '.join(list(by_name)[:12])}"
        )
    return [cell for cell in cells if cell.name in names]


def _earlier(out: Path, identity: Mapping[str, Any], resume: bool) -> list[dict[str, Any]] | None:
    """Cells that ``out`` already holds, None where no study was begun there; the later of two records of one cell counts."""
    if not (out / RECORDS_NAME).exists():
        return None
    if not resume:
        raise InputError(f"--out must be a folder without a study's records, got {out}; add --resume or choose another")
    found = read_records(out)
    starts = found.of_kind("start")
    if not found.lines:
        return None  # killed before its first record was whole
    held = {key: starts[0].get(key) for key in identity} if starts else None
    if held != dict(identity):
        raise RecordError(
            f"--out must hold the study to be resumed, {dict(identity)}, got {held} in {out}; choose another"
        )
    return found.of_kind("cell")


Outcome = tuple[Cell, Mapping[str, Any] | None, str | None]


def _run_all(cells: Sequence[Cell], done: set[str], place: Place, num_workers: int) -> Iterator[Outcome]:
    """Every cell once its predecessors are done; cells after a failed one fail with it."""
    waiting = sorted(cells, key=lambda cell: -cell.weight)
    finished, failed = set(done), set[str]()

    def next_ready() -> Cell | None:
        for index, cell in enumerate(waiting):
            if set(cell.after) <= finished | failed:
                return waiting.pop(index)
        return None

    def settle(cell: Cell, error: str | None) -> None:
        (failed if error is not None else finished).add(cell.name)

    if num_workers == 1:
        with _one_thread():
            while (cell := next_ready()) is not None:
                lost = sorted(set(cell.after) & failed)
                result, error = (None, f"needs {lost[0]}, which failed") if lost else _attempt(cell, place)
                settle(cell, error)
                yield cell, result, error
        return
    with _pool(num_workers) as pool:
        running: dict[Future[tuple[Mapping[str, Any] | None, str | None]], Cell] = {}
        while waiting or running:
            while len(running) < num_workers and (cell := next_ready()) is not None:
                lost = sorted(set(cell.after) & failed)
                if lost:
                    error = f"needs {lost[0]}, which failed"
                    settle(cell, error)
                    yield cell, None, error
                else:
                    running[pool.submit(_attempt, cell, place)] = cell
            if not running:
                continue
            ready, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in ready:
                cell = running.pop(future)
                result, failure = future.result()
                settle(cell, failure)
                yield cell, result, failure


def _attempt(cell: Cell, place: Place) -> tuple[Mapping[str, Any] | None, str | None]:
    """A cell's result with what it took, or why there is none: one failure leaves the others as they are."""
    wall, cpu = time.perf_counter(), time.process_time()
    try:
        result = cell.run(place, **cell.arguments)
    except (BatchwrightError, ArithmeticError, ValueError, RuntimeError, LookupError, TypeError, OSError) as error:
        return None, f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"
    return {**result, "seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}, None


@contextmanager
def _pool(num_workers: int) -> Iterator[ProcessPoolExecutor]:
    """Spawned workers that end with their parent, however it ends."""
    pool = ProcessPoolExecutor(num_workers, mp_context=multiprocessing.get_context("spawn"), initializer=_begin_worker)
    try:
        yield pool
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        for child in multiprocessing.active_children():
            child.terminate()
        raise
    pool.shutdown()


def _begin_worker() -> None:
    # Ctrl-C reaches the whole process group; the parent alone decides what becomes of it.
    with suppress(ValueError):
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    parent = multiprocessing.parent_process()

    def follow() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
