"""The evidence of a plan, out of what the measurements returned."""

from batchwright.core.statistics import Interval
from batchwright.measure.branch import Branch
from batchwright.measure.memory import Memory
from batchwright.measure.pilot import Pilot
from batchwright.measure.throughput import Throughput
from batchwright.planning.lr_choice import LrChoice
from batchwright.planning.normalization import NormalizationAdvice
from batchwright.planning.plan import Calibration, CurvatureEvidence, CurvePoint, Evidence, NoisePoint, StepTimePoint


def gather_evidence(
    chosen: LrChoice,
    kappa: Interval,
    kappa_source: str,
    pilot: Pilot,
    times: Throughput,
    memory: Memory,
    branches: Branch | None,
    advice: NormalizationAdvice | None,
) -> Evidence:
    """Keep of each measurement what a reader needs to judge the plan."""
    choice, bound = chosen.choice, chosen.bound
    return Evidence(
        noise=tuple(NoisePoint(step=step, noise_scale=point.interval) for step, point in pilot.points),
        pilot_losses=pilot.losses,
        step_times=tuple(
            StepTimePoint(batch_size=point.batch_size, step_time_s=point.step_time_s) for point in times.points
        ),
        overhead_s=times.overhead_s,
        per_example_s=times.per_example_s,
        bytes_per_example=float(memory.bytes_per_example),
        memory_budget_bytes=memory.budget_bytes,
        kappa=kappa,
        kappa_source=kappa_source,
        calibration=None
        if branches is None
        else Calibration(
            batch_sizes=branches.batch_sizes,
            losses=branches.losses,
            standard_errors=branches.standard_errors,
            critical_batch_size=branches.critical_batch_size,
            largest_harmless=branches.largest_harmless,
            num_seeds=branches.num_seeds,
        ),
        curve=tuple(
            CurvePoint(
                batch_size=size, time=relative, examples=examples, step_time_s=times.step_time_s(float(size)).value
            )
            for size, relative, examples in zip(choice.grid, choice.time, choice.examples, strict=True)
        ),
        warnings=(
            *chosen.warnings,
            *memory.warnings,
            *times.warnings,
            *([advice.reason] if advice and advice.warns else []),
        ),
        normalization=advice.evidence if advice else None,
        curvature=None
        if bound is None
        else CurvatureEvidence(
            step=bound.step,
            batch_size=bound.batch_size,
            batch_sharpness=bound.batch_sharpness,
            mean_curvature=bound.mean_curvature,
            sharpness=bound.sharpness,
            sharpness_converged=bound.sharpness_converged,
            num_halvings=chosen.num_bounded,
        ),
    )
