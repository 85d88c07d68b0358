"""What a controller would have done in a run that is over, or in one that goes on without it.

Both feed it what was measured. `dry_run` asks at each instant what it would do at the batch size that the run had; `replay` carries its
own batch size along. The measurements themselves stay those of the recorded run: the noise scale that training at another
size would have met is not known.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from batchwright.adapt.controller import Controller, Decision, Measured
from batchwright.core.errors import InputError, RecordError
from batchwright.core.records import Records, read_records
from batchwright.core.serialization import from_plain
from batchwright.core.statistics import Interval


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What a controller says to one measurement.

    Attributes:
        measured: What it was shown; its ``batch_size`` is the controller's own in a replay.
        recorded_batch_size: What the run had.
        decision: What it would have done.
    """

    measured: Measured
    recorded_batch_size: int
    decision: Decision


@dataclass(frozen=True, kw_only=True, slots=True)
class Replay:
    """All answers of a controller, in order.

    Attributes:
        answers: One a measurement.
        missing: Measurements that the controller needs and the records never hold.
    """

    answers: tuple[Answer, ...]
    missing: tuple[str, ...] = ()

    @property
    def changes(self) -> tuple[Answer, ...]:
        """The answers that change something: the size, or the learning rate by more than a hundredth."""
        found: list[Answer] = []
        factor = 1.0
        for answer in self.answers:
            now = answer.decision.lr_factor
            moved = now is not None and abs(now - factor) > 0.01 * abs(factor)
            if answer.decision.changed or moved:
                found.append(answer)
                factor = factor if now is None else now
        return tuple(found)

    def table(self, *, every: bool = False) -> str:
        """The changes as aligned text, one a line; with ``every`` all answers."""
        rows = [("step", "examples", "recorded", "batch size", "lr factor", "reason")]
        for answer in self.answers if every else self.changes:
            decision = answer.decision
            rows.append(
                (
                    f"{answer.measured.step:,}",
                    f"{answer.measured.num_examples:,}",
                    str(answer.recorded_batch_size),
                    f"{answer.measured.batch_size} -> {decision.batch_size}"
                    if decision.changed
                    else str(decision.batch_size),
                    "" if decision.lr_factor is None else f"{decision.lr_factor:.4g}",
                    decision.reason,
                )
            )
        widths = [max(len(row[i]) for row in rows) for i in range(5)]
        lines = ["  ".join([*(row[i].rjust(widths[i]) for i in range(5)), row[5]]) for row in rows]
        if len(rows) == 1:
            lines.append("nothing would have changed")
        lines += [f"never measured in this run, so never acted upon: {', '.join(self.missing)}"] if self.missing else []
        return "\n".join(lines)


def replay(source: str | Path | Records | Iterable[Measured], controller: Controller) -> Replay:
    """What ``controller`` would have done in a recorded run had it been in charge of the batch size.

    Its own batch size is carried from answer to answer; steps and examples stay those of the run. Records thin out as a run goes on,
    so it may act a little later here than it would have in the loop.

    Args:
        source: Folder of a run, its records, or measurements in order.
        controller: With its options.

    Raises:
        RecordError: If the folder holds no records.
        InputError: If there is nothing to replay.

    Example:
        >>> from batchwright.adapt import Geometric
        >>> run = [Measured(step=i, num_examples=32 * i, batch_size=32) for i in range(1, 101)]
        >>> [answer.decision.batch_size for answer in replay(run, Geometric(every=1000)).changes]
        [64, 128, 256]
    """
    return _ask(source, controller, own=True)


def dry_run(source: str | Path | Records | Iterable[Measured], controller: Controller) -> Replay:
    """What ``controller`` would do at each instant of a run at the batch size that the run had; nothing is carried along.

    Arguments and errors as `replay`.
    """
    return _ask(source, controller, own=False)


def measured_of(records: Records) -> list[Measured]:
    """What the records of a run hold, one measurement for each step that has a record of a step or of noise.

    Raises:
        RecordError: If a record lacks what it must have.
    """
    return list(_measured(records))


def _ask(source: str | Path | Records | Iterable[Measured], controller: Controller, *, own: bool) -> Replay:
    if isinstance(source, str | Path):
        source = read_records(Path(source))
    measurements = measured_of(source) if isinstance(source, Records) else list(source)
    if not measurements:
        raise InputError("records must hold at least one step to replay, got none; give the folder of a run")
    batch_size = measurements[0].batch_size
    state, answers = controller.init(batch_size=batch_size), []
    for measured in measurements:
        recorded = measured.batch_size
        shown = replace(measured, batch_size=batch_size) if own else measured
        state, decision = controller.update(state, shown)
        answers.append(Answer(measured=shown, recorded_batch_size=recorded, decision=decision))
        batch_size = decision.batch_size
    missing = tuple(
        sorted(name for name in controller.needs if all(getattr(measured, name) is None for measured in measurements))
    )
    return Replay(answers=tuple(answers), missing=missing)


def _measured(records: Records) -> Iterator[Measured]:
    starts = records.of_kind("start")
    if not starts:
        raise RecordError("records must hold the start of a run, got none; give the folder of a training run")
    try:
        start = starts[0]
        fields: dict[str, Any] = {
            "step": 0,
            "num_examples": 0,
            "batch_size": int(start["batch_size"]),
            "num_train": start.get("num_train"),
        }
        pending = False
        for line in records.lines:
            if pending and line.get("step", fields["step"]) != fields["step"]:
                yield Measured(**fields)
                pending = False
            if line["kind"] == "step":
                fields |= {name: line[name] for name in ("step", "num_examples", "batch_size", "lr")}
                fields["loss"] = float(line["loss"])
                pending = True
            elif line["kind"] == "noise":
                fields |= {name: line[name] for name in ("step", "num_examples")}
                fields["noise_scale"] = from_plain(Interval | None, line["noise_scale"], "noise_scale")
                fields |= {name: float(line[name]) for name in ("trace", "grad_sq_norm")}
                pending = True
            elif line["kind"] == "decision":
                if pending:  # it was taken on what is pending, and holds from the next step on
                    yield Measured(**fields)
                    pending = False
                fields |= {name: line[name] for name in ("batch_size", "lr")}
        if pending:
            yield Measured(**fields)
    except (KeyError, TypeError, ValueError) as error:
        raise RecordError(f"records must be those of a training run, got one that cannot be read: {error!r}") from error
