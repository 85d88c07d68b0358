"""A plan and its verification as their JSON files tell them: the fields that a page shows.

These are the fields of ``plan.json`` and ``verification.json`` that docs/records.md describes. What a reader can do without has a
default, so a plan of an older or newer version still makes a page.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from batchwright.core.checks import check_int
from batchwright.core.errors import RecordError
from batchwright.core.serialization import from_plain
from batchwright.core.statistics import Interval

PLAN_SCHEMA = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class CostRecord:
    """What measuring cost, in plain steps, examples and seconds, and the plain steps of each part."""

    plain_steps: float
    num_examples: float = 0.0
    seconds: float = 0.0
    parts: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class PilotNoise:
    """Noise scale, in examples, at one step of the pilot."""

    step: float
    noise_scale: Interval


@dataclass(frozen=True, kw_only=True, slots=True)
class StepTime:
    """Measured seconds of one step."""

    batch_size: float
    step_time_s: Interval


@dataclass(frozen=True, kw_only=True, slots=True)
class CurveRecord:
    """Predicted time to target over the shortest, examples over the fewest, and seconds of one step."""

    batch_size: float
    time: Interval
    examples: float
    step_time_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibrationRecord:
    """Losses after equally many examples at several batch sizes, and the critical and the harmless size that follow."""

    batch_sizes: tuple[float, ...]
    losses: tuple[float, ...]
    standard_errors: tuple[float, ...]
    critical_batch_size: Interval
    num_seeds: int
    largest_harmless: Interval | None = None  # plans of before 2026-11-25 lack it


@dataclass(frozen=True, kw_only=True, slots=True)
class CurvatureRecord:
    """The curvature that a raised learning rate was held against, in units of one over the learning rate."""

    step: int
    batch_size: float
    batch_sharpness: Interval
    mean_curvature: Interval
    sharpness: float
    sharpness_converged: bool = True
    num_halvings: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class NormalizationRecord:
    """What the statistics of small micro-batches cost; the fields of `batchwright.planning.plan.NormalizationEvidence`."""

    micro_batch_sizes: tuple[int, ...]
    reference_size: int
    loss: float
    excess: tuple[Interval, ...]
    mean_error: tuple[float, ...]
    log_variance_error: tuple[float, ...]
    scale: float
    tolerance: float
    safe_size: int | None = None
    num_layers: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class EvidenceRecord:
    """What was measured; the fields of `batchwright.planning.plan.Evidence`."""

    noise: tuple[PilotNoise, ...] = ()
    pilot_losses: tuple[float, ...] = ()
    step_times: tuple[StepTime, ...] = ()
    overhead_s: Interval | None = None
    per_example_s: Interval | None = None
    bytes_per_example: float | None = None
    memory_budget_bytes: float | None = None
    kappa: Interval | None = None
    kappa_source: str = ""
    calibration: CalibrationRecord | None = None
    curve: tuple[CurveRecord, ...] = ()
    warnings: tuple[str, ...] = ()
    curvature: CurvatureRecord | None = None
    normalization: NormalizationRecord | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class RegimeRecord:
    """How long to train; the fields of `batchwright.planning.regime.Regime`."""

    name: str
    base_max_examples: float
    base_batch_size: float
    batch_size: float
    max_grad_norm: float | None = None
    noise_batch_size: float | None = None

    @property
    def num_updates(self) -> int:
        """Optimizer steps to the limit."""
        base = -(-self.base_max_examples // self.base_batch_size)
        return int(base if self.name == "keep-updates" else -(-self.base_max_examples // self.batch_size))


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanRecord:
    """A plan; the fields of `batchwright.planning.plan.Plan`."""

    task: str
    batch_size: int
    micro_batch_size: int
    lr: float
    objective: str = ""
    momentum: float | None = None
    beta2: float | None = None
    base_batch_size: float | None = None
    base_lr: float | None = None
    seed: int = 0
    intervals: Mapping[str, Interval] = field(default_factory=dict)
    reasons: Mapping[str, str] = field(default_factory=dict)
    cost: CostRecord | None = None
    evidence: EvidenceRecord = EvidenceRecord()
    environment: Mapping[str, Any] = field(default_factory=dict)
    regime: RegimeRecord | None = None  # plans of schema 1 lack it

    def __post_init__(self) -> None:
        check_int("batch_size", self.batch_size, at_least=1)
        check_int("micro_batch_size", self.micro_batch_size, at_least=1)

    @property
    def num_micro_batches(self) -> int:
        """Forward passes in one optimizer step."""
        return -(-self.batch_size // self.micro_batch_size)


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """One run of the sweep around a plan."""

    batch_size: float
    lr: float
    seed: int = 0
    reached: bool
    steps: float | None = None
    examples: float | None = None
    seconds: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """A batch size with its learning rate."""

    batch_size: float
    lr: float


@dataclass(frozen=True, kw_only=True, slots=True)
class VerificationRecord:
    """The sweep around a plan, and the regret: what the plan took over what the best setting found took."""

    task: str
    plan_batch_size: float
    plan_lr: float
    metric: str = ""
    trials: tuple[Trial, ...] = ()
    regret_examples: Interval | None = None
    regret_seconds: Interval | None = None
    best_examples: Setting | None = None
    best_seconds: Setting | None = None
    notes: tuple[str, ...] = ()


def parse_plan(value: Any, where: str) -> PlanRecord:
    """A plan from what its JSON holds.

    Raises:
        RecordError: If it is of a newer schema, or a field that every plan has is missing or of another kind.
    """
    schema = value.get("schema", 0) if isinstance(value, dict) else None
    if not isinstance(schema, int) or schema > PLAN_SCHEMA:
        raise RecordError(
            f"{where} must be a plan of schema {PLAN_SCHEMA} or older, got {schema!r}; update batchwright"
        )
    plan: PlanRecord = _parse(PlanRecord, value, where)
    return plan


def parse_verification(value: Any, where: str) -> VerificationRecord:
    """A verification from what its JSON holds.

    Raises:
        RecordError: If a field that every verification has is missing or of another kind.
    """
    verification: VerificationRecord = _parse(VerificationRecord, value, where)
    return verification


def _parse(kind: Any, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise RecordError(f"{where} must hold a JSON object, got {type(value).__name__}")
    return from_plain(kind, value, where)
