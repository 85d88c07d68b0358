"""One run as its records tell it: where it started, its evaluations, noise scales and decisions, and how it ended."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from batchwright.core.checks import check_number
from batchwright.core.errors import RecordError
from batchwright.core.records import Records
from batchwright.core.serialization import from_plain
from batchwright.core.statistics import Interval
from batchwright.report.record_values import LARGEST, number, number_or_nan, thin
from batchwright.report.travel_records import DistanceRecord, LawRecord, PotentialRecord, travel_of


@dataclass(frozen=True, kw_only=True, slots=True)
class TargetRecord:
    """What the run trained to: ``metric`` is ``above`` or ``below`` (``direction``) ``value``."""

    value: float
    metric: str = "loss"
    direction: str = "below"


@dataclass(frozen=True, kw_only=True, slots=True)
class ToTargetRecord:
    """Steps, training examples and seconds of training steps that the target took."""

    steps: float
    examples: float
    seconds: float

    def __post_init__(self) -> None:
        for name in ("steps", "examples", "seconds"):
            check_number(name, getattr(self, name), at_least=0.0, at_most=LARGEST)


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationPoint:
    """Loss and metrics of one evaluation, with their standard errors over the evaluation set."""

    num_examples: float
    train_s: float
    values: Mapping[str, float]
    standard_errors: Mapping[str, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class NoiseRecord:
    """Noise scale, in examples, at one point of the run."""

    num_examples: float
    noise_scale: Interval


@dataclass(frozen=True, kw_only=True, slots=True)
class StabilityRecord:
    """The stability gauge at one point of the run; curvatures in units of one over the learning rate.

    Attributes:
        num_examples: Training examples seen.
        batch_sharpness: Mean over batches.
        standard_error: Of that mean.
        sharpness: Largest eigenvalue of the Hessian; NaN where it was not measured.
        converged: Whether that eigenvalue was found to its tolerance.
        low: The level at which batch sharpness settles when batches are small.
        high: The level of large batches.
        lr: Learning rate of these levels.
        regime: What the gauge says, in words.
        form: ``gradient``, or ``step`` where the sharpness is that along the optimizer's own step, times the learning rate.
    """

    num_examples: float
    batch_sharpness: float
    standard_error: float
    sharpness: float
    converged: bool
    low: float
    high: float
    lr: float
    regime: str
    form: str = "gradient"


@dataclass(frozen=True, kw_only=True, slots=True)
class DecisionRecord:
    """A change of batch size and its reason; ``warning`` is the stability gauge's, empty where it had none."""

    num_examples: float
    previous: float
    batch_size: float
    lr: float
    reason: str
    warning: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunRecords:
    """A run.

    Attributes:
        folder: Relative to the folder that was reported.
        task: Name of the task.
        label: Runs with one label are repeats of one another, apart from their seed.
        seed: Of the run.
        batch_size: Examples in the first step.
        micro_batch_size: Examples in one forward pass.
        last_batch_size: Examples in the last step.
        lr: Learning rate at ``batch_size``.
        policy: Name of the controller.
        target: What it trained to; None if it had no target.
        num_steps: Optimizer steps done.
        num_examples: Training examples seen.
        train_s: Seconds of training steps.
        reason: ``target``, ``limit``, ``interrupted``, ``failed``, or ``no end`` where the end was never written.
        message: What went wrong in a failed run.
        to_target: What the target took; None if it was not reached.
        evaluations: At most `MAX_POINTS`, the first and last among them; so are ``noise``, ``decisions`` and ``stability``.
        noise: Noise scale along the run.
        decisions: Changes of batch size.
        stability: Readings of the stability gauge along the run.
        distances: How far the weights have come, where it was recorded.
        laws: Fits of these distances, by name.
        fitted_to: The last step that the fits know of.
        diffusion_told: What the fits say, in a sentence.
        potential: The loss about the beginning; None where it was not measured.
        environment: What it was made on.
        num_torn: Lines that a kill left unfinished.
    """

    folder: str
    task: str
    label: str
    seed: int
    batch_size: float
    micro_batch_size: float
    last_batch_size: float
    lr: float
    policy: str
    target: TargetRecord | None
    num_steps: int
    num_examples: float
    train_s: float
    reason: str
    message: str
    to_target: ToTargetRecord | None
    evaluations: tuple[EvaluationPoint, ...]
    noise: tuple[NoiseRecord, ...]
    decisions: tuple[DecisionRecord, ...]
    environment: Mapping[str, Any]
    stability: tuple[StabilityRecord, ...] = ()
    distances: tuple[DistanceRecord, ...] = ()
    laws: Mapping[str, LawRecord] = field(default_factory=dict)
    fitted_to: float = 0.0
    diffusion_told: str = ""
    potential: PotentialRecord | None = None
    num_torn: int = 0

    @property
    def metric(self) -> str:
        """The metric that tells how good the run is: its target's, else the first that is not the loss, else the loss."""
        if self.target is not None:
            return self.target.metric
        names = self.evaluations[-1].values if self.evaluations else {}
        return next((name for name in names if name != "loss"), "loss")


def parse_run(records: Records, folder: Path, name: str) -> RunRecords:
    """What the records in ``folder`` say of a training run, called ``name``."""
    starts, ends = records.of_kind("start"), records.of_kind("end")
    if not starts:
        raise RecordError("no start record")
    start, end = starts[0], ends[-1] if ends else {}
    optimizer = start.get("optimizer") or {}
    last = {
        field: next((float(line[field]) for line in reversed(records.lines) if field in line), 0.0)
        for field in ("step", "num_examples", "train_s")
    }
    steps, decisions = records.of_kind("step"), records.of_kind("decision")
    batch_size = _size(start["batch_size"])
    latest = max(steps[-1:] + decisions[-1:], key=lambda line: float(line["step"]), default=start)
    return RunRecords(
        folder=name,
        task=str(start["task"]),
        label=str(start["label"]),
        seed=int(start["seed"]),
        batch_size=batch_size,
        micro_batch_size=_size(start.get("micro_batch_size", batch_size)),
        last_batch_size=_size(latest["batch_size"]),
        lr=float(optimizer.get("lr", math.nan)),
        policy=str(start.get("policy", "")),
        target=from_plain(TargetRecord | None, start.get("target"), "target"),
        num_steps=int(last["step"]),
        num_examples=last["num_examples"],
        train_s=last["train_s"],
        reason=str(end.get("reason", "no end")),
        message=str(end.get("message") or ""),
        to_target=from_plain(ToTargetRecord | None, end.get("to_target"), "to_target"),
        evaluations=tuple(_evaluation(line) for line in thin(records.of_kind("evaluation"))),
        noise=tuple(_noise(line) for line in thin(records.of_kind("noise"))),
        decisions=tuple(_decision(line) for line in thin(decisions)),
        environment=dict(start.get("environment") or {}),
        stability=tuple(_stability(line) for line in thin(records.of_kind("stability"))),
        **travel_of(records),
        num_torn=records.num_torn,
    )


def _size(value: Any) -> float:
    size = float(value)
    if not 1 <= size < math.inf:
        raise RecordError(f"a batch size must be at least 1, got {value!r}")
    return size


def _evaluation(line: Mapping[str, Any]) -> EvaluationPoint:
    return EvaluationPoint(
        num_examples=float(line["num_examples"]),
        train_s=float(line["train_s"]),
        values={str(key): number(value) for key, value in line["values"].items()},
        standard_errors={str(key): number(value) for key, value in (line.get("standard_errors") or {}).items()},
    )


def _noise(line: Mapping[str, Any]) -> NoiseRecord:
    ends = line["noise_scale"]  # read by hand: there can be a million of them, for which `from_plain` takes minutes
    interval = Interval(
        value=float(ends["value"]),
        low=float(ends["low"]),
        high=float(ends["high"]),
        level=float(ends.get("level", 0.95)),
    )
    return NoiseRecord(num_examples=float(line["num_examples"]), noise_scale=interval)


def _decision(line: Mapping[str, Any]) -> DecisionRecord:
    return DecisionRecord(
        num_examples=float(line["num_examples"]),
        previous=_size(line["previous"]),
        batch_size=_size(line["batch_size"]),
        lr=float(line["lr"]),
        reason=str(line["reason"]),
        warning=str(line.get("warning") or ""),
    )


def _stability(line: Mapping[str, Any]) -> StabilityRecord:
    return StabilityRecord(
        num_examples=float(line["num_examples"]),
        batch_sharpness=number(line["batch_sharpness"]),
        standard_error=number(line["standard_error"]),
        sharpness=number_or_nan(line.get("sharpness")),
        converged=bool(line.get("sharpness_converged")),
        low=number(line["low"]),
        high=number(line["high"]),
        lr=float(line["lr"]),
        regime=str(line["regime"]),
        form=str(line.get("form", "gradient")),
    )
