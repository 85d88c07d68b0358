"""A plan: the batch size with its learning rate and momentum, the intervals, the reasons, the cost and the evidence."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from batchwright.core.errors import RecordError
from batchwright.core.records import read_json, write_json
from batchwright.core.serialization import from_plain
from batchwright.core.statistics import Interval
from batchwright.planning.regime import Regime

PLAN_NAME = "plan.json"
# 2: with the regime. Plans of 1 have none, and train as they did.
PLAN_SCHEMA = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """What the measurements of a plan cost.

    Attributes:
        plain_steps: Seconds of measuring over the mean seconds of one optimizer step of the pilot, at the task's default batch size.
            The first step of the process, which imports and allocates, is left out of both.
        num_examples: Examples that went through a forward and a backward pass.
        seconds: Wall time.
        parts: Plain steps of each part: ``pilot``, ``noise``, ``throughput``, ``memory``, ``stability``,
            ``lr trial``, ``calibration``, ``normalization``.
    """

    plain_steps: float
    num_examples: int
    seconds: float
    parts: Mapping[str, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class NoisePoint:
    """Noise scale at one point of the pilot.

    Attributes:
        step: Optimizer steps of the pilot before it.
        noise_scale: In examples, with its interval.
    """

    step: int
    noise_scale: Interval


@dataclass(frozen=True, kw_only=True, slots=True)
class StepTimePoint:
    """Measured time of one optimizer step.

    Attributes:
        batch_size: Examples in the step.
        step_time_s: Seconds, median of interleaved repeats, with its interval.
    """

    batch_size: int
    step_time_s: Interval


@dataclass(frozen=True, kw_only=True, slots=True)
class CurvePoint:
    """Predicted cost of training to a target at one batch size, relative to its own smallest value on the curve.

    Attributes:
        batch_size: Examples in one step.
        time: Time to target over the shortest one; with its interval from the critical batch size and the step time.
        examples: Examples to target over the small-batch limit.
        step_time_s: Predicted seconds of one step.
    """

    batch_size: int
    time: Interval
    examples: float
    step_time_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """A direct measurement of the critical batch size, by training on from the pilot's checkpoint at several batch sizes.

    Attributes:
        batch_sizes: Sizes tried.
        losses: Loss after the same number of examples, mean over seeds, one a size.
        standard_errors: Of the losses, over seeds.
        critical_batch_size: In examples, with its interval.
        largest_harmless: Largest size whose loss is not worse than the smallest's by more than a tenth of what that one gained, in
            examples with its interval (`measure.branch`).
        num_seeds: Repeats with other data orders.
    """

    batch_sizes: tuple[int, ...]
    losses: tuple[float, ...]
    standard_errors: tuple[float, ...]
    critical_batch_size: Interval
    largest_harmless: Interval
    num_seeds: int


@dataclass(frozen=True, kw_only=True, slots=True)
class CurvatureEvidence:
    """The curvature that a raised learning rate was held against; in units of one over the learning rate.

    Attributes:
        step: Optimizer steps of the pilot before it.
        batch_size: Examples in a measured batch.
        batch_sharpness: Curvature of a batch's loss along its own gradient, mean over batches.
        mean_curvature: Curvature of the full loss along batch gradients; the rest of batch sharpness is noise.
        sharpness: Largest eigenvalue of the Hessian of the measured batches.
        sharpness_converged: Whether it was found to its tolerance; if not it is a lower bound.
        num_halvings: How often the batch was halved because its learning rate was surely above the bound.
    """

    step: int
    batch_size: int
    batch_sharpness: Interval
    mean_curvature: Interval
    sharpness: float
    sharpness_converged: bool
    num_halvings: int


@dataclass(frozen=True, kw_only=True, slots=True)
class NormalizationEvidence:
    """What the statistics of small micro-batches cost at the end of the pilot (`measure.batch_norm_safety`).

    Attributes:
        micro_batch_sizes: Sizes tried, in examples.
        reference_size: Examples whose statistics stand for the whole.
        loss: Mean loss with the statistics of the reference.
        excess: Loss with the statistics of each size, less ``loss``.
        mean_error: Squared error of a batch mean, in variances; one a size.
        log_variance_error: Squared error of the logarithm of a batch variance; one a size.
        scale: What the pilot gained, its first loss less ``loss``; ``abs(loss)`` where it gained nothing.
        tolerance: Excess over ``scale`` that counts as harmless.
        safe_size: Smallest size from which on all are surely harmless; None where none is.
        num_layers: Batch normalization layers.
    """

    micro_batch_sizes: tuple[int, ...]
    reference_size: int
    loss: float
    excess: tuple[Interval, ...]
    mean_error: tuple[float, ...]
    log_variance_error: tuple[float, ...]
    scale: float
    tolerance: float
    safe_size: int | None
    num_layers: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """What was measured, for the report and for a reader who wants to judge.

    Attributes:
        noise: Noise scale along the window of the pilot that the plan uses.
        pilot_losses: Training loss of each pilot step.
        step_times: Step time against batch size.
        overhead_s: The constant part ``a`` of the step time, in seconds.
        per_example_s: The part ``b`` that each example adds, in seconds.
        bytes_per_example: Memory that one more example in a micro-batch takes; None if unknown.
        memory_budget_bytes: Memory that may be used; None if unknown.
        kappa: Critical batch size over noise scale, with the interval it was used with.
        kappa_source: Where kappa comes from, in a few words.
        calibration: The direct measurement, after ``calibrate=True``.
        curve: Predicted cost of training against batch size.
        warnings: What a reader should know about the measurements, one sentence each.
        curvature: What bounds the learning rate; None where it is not raised, and for optimizers whose edge is not known.
        normalization: What micro-batches cost batch normalization; None where the model has none or they are large.
    """

    noise: tuple[NoisePoint, ...]
    pilot_losses: tuple[float, ...]
    step_times: tuple[StepTimePoint, ...]
    overhead_s: Interval
    per_example_s: Interval
    bytes_per_example: float | None
    memory_budget_bytes: int | None
    kappa: Interval
    kappa_source: str
    calibration: Calibration | None
    curve: tuple[CurvePoint, ...]
    warnings: tuple[str, ...]
    curvature: CurvatureEvidence | None = None
    normalization: NormalizationEvidence | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """A decision with its reasons.

    Attributes:
        task: Name of the task.
        objective: ``time``, ``examples`` or ``balanced``.
        batch_size: Examples in one optimizer step.
        micro_batch_size: Examples in one forward pass; the rest is accumulation.
        lr: Learning rate at ``batch_size``.
        momentum: Momentum, or beta1 of an Adam-type optimizer.
        beta2: Decay of the squared gradients, for Adam-type optimizers.
        base_batch_size: The task's default batch size, for which ``base_lr`` holds.
        base_lr: The task's default learning rate.
        seed: Seed of the pilot.
        intervals: ``batch_size``, ``lr``, ``noise_scale``, ``critical_batch_size``, ``excess_time``; ``max_lr``, the largest stable
            learning rate at the batch size, where curvature was measured.
        reasons: One sentence for each decision, by its name.
        cost: What the measurements cost.
        evidence: What was measured.
        environment: Where.
        regime: How long to train at the batch size, with clipping and noise; None in plans of schema 1, which is ``keep-epochs``.
        schema: Version of this layout.
    """

    task: str
    objective: str
    batch_size: int
    micro_batch_size: int
    lr: float
    momentum: float
    beta2: float
    base_batch_size: int
    base_lr: float
    seed: int
    intervals: Mapping[str, Interval]
    reasons: Mapping[str, str]
    cost: Cost
    evidence: Evidence
    environment: Mapping[str, object]
    regime: Regime | None = None
    schema: int = PLAN_SCHEMA

    def save(self, folder: Path) -> Path:
        """Write ``plan.json`` into ``folder``, atomically; returns its path."""
        path = Path(folder) / PLAN_NAME
        write_json(path, self)
        return path

    @classmethod
    def load(cls, path: Path) -> "Plan":
        """Read a plan from ``plan.json`` or the folder that holds it.

        Raises:
            RecordError: If it is missing, damaged, or of a newer schema.
        """
        path = Path(path)
        path = path / PLAN_NAME if path.is_dir() else path
        value = read_json(path)
        if not isinstance(value, dict) or value.get("schema", 0) > PLAN_SCHEMA:
            raise RecordError(
                f"{path} must be a plan of schema {PLAN_SCHEMA} or older; update batchwright or plan anew"
            )
        plan: Plan = from_plain(cls, value, path.name)
        return plan
