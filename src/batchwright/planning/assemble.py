"""A plan out of the decisions and the measurements they stand on, with a reason for each in one sentence."""

from dataclasses import dataclass

import torch

from batchwright.core.environment import environment
from batchwright.core.statistics import Interval
from batchwright.measure.branch import Branch
from batchwright.measure.memory import Memory
from batchwright.measure.pilot import Pilot
from batchwright.measure.throughput import Throughput
from batchwright.planning.evidence import gather_evidence
from batchwright.planning.laws import keep_half_life
from batchwright.planning.lr_choice import LrChoice
from batchwright.planning.normalization import NormalizationAdvice
from batchwright.planning.plan import Cost, Plan
from batchwright.planning.regime import Regime
from batchwright.tasks.task import Task


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """What the caller of `plan` decides and no measurement: as its arguments of these names."""

    regime: str = "keep-epochs"
    lr_rule: str | None = None
    max_grad_norm: float | None = None
    gradient_noise: bool = False


def assemble(
    task: Task,
    chosen: LrChoice,
    *,
    objective: str,
    seed: int,
    lr: Interval,
    turn: Interval,
    critical: Interval,
    kappa: Interval,
    kappa_source: str,
    pilot: Pilot,
    times: Throughput,
    memory: Memory,
    branches: Branch | None,
    advice: NormalizationAdvice | None,
    cost: Cost,
    device: torch.device,
    options: Options,
) -> Plan:
    """Put a plan together.

    Args:
        task: The training job.
        chosen: Batch size and learning rate.
        objective: Of the plan.
        seed: Of the plan.
        lr: The learning rate with its interval from the noise scale.
        turn: Batch size at which the rule for the learning rate turns.
        critical: Critical batch size.
        kappa: Critical batch size over noise scale.
        kappa_source: Where kappa comes from.
        pilot: The pilot.
        times: Step times.
        memory: The memory ceiling.
        branches: The calibration, if there was one.
        advice: About batch normalization, where the model has it.
        cost: What it all cost.
        device: Where it was measured.
        options: What was asked for.
    """
    spec, size = task.optimizer, chosen.choice.batch_size
    micro = min(size, memory.max_micro_batch_size)
    beta2 = keep_half_life(spec.beta2, base_batch_size=task.batch_size, batch_size=size)
    reasons = {
        "batch_size": chosen.choice.reason + _halved(chosen),
        "micro_batch_size": (
            f"the whole batch fits in memory (ceiling {memory.max_micro_batch_size})"
            if micro == size
            else f"memory allows {memory.max_micro_batch_size} examples in one pass; the rest is accumulated"
        ),
        "lr": _lr_reason(task, chosen, turn, options),
        "momentum": f"kept at the task's {spec.momentum:g}: the rule for the learning rate holds at equal momentum",
        "noise_scale": f"measured at steps {', '.join(str(step) for step, _ in pilot.points)} of a pilot at the defaults",
        "critical_batch_size": f"noise scale times kappa {kappa.value:.2g} ({kappa_source})",
    }
    if spec.name != "sgd":
        reasons["beta2"] = f"its half-life in examples is that of {spec.beta2:g} at batch size {task.batch_size}"
    regime = Regime(
        name=options.regime,
        base_max_examples=task.example_limit,
        base_batch_size=task.batch_size,
        batch_size=size,
        max_grad_norm=options.max_grad_norm,
        # At the default size or below there is no noise to be put back.
        noise_batch_size=task.batch_size if options.gradient_noise and size > task.batch_size else None,
    )
    reasons["regime"] = regime.told
    if regime.max_grad_norm is not None:
        reasons["max_grad_norm"] = f"asked for: gradients are clipped to the norm {regime.max_grad_norm:g}"
    if options.gradient_noise:
        reasons["gradient_noise"] = (
            f"the lr is kept, and weights of the examples give each gradient the covariance of batch size {regime.noise_batch_size}"
            if regime.noise_batch_size is not None
            else f"none: batch size {size} is no larger than the default, {task.batch_size}"
        )
    if advice is not None:
        reasons["normalization"] = advice.reason
    intervals = {
        "batch_size": chosen.choice.wanted,
        "lr": lr,
        "noise_scale": pilot.noise_scale,
        "critical_batch_size": critical,
        "excess_time": chosen.choice.excess_time,
    }
    if chosen.max_lr is not None:
        intervals["max_lr"] = chosen.max_lr
    return Plan(
        task=task.name,
        objective=objective,
        batch_size=size,
        micro_batch_size=micro,
        lr=chosen.lr,
        momentum=spec.momentum,
        beta2=beta2 if spec.name != "sgd" else spec.beta2,
        base_batch_size=task.batch_size,
        base_lr=spec.lr,
        seed=seed,
        intervals=intervals,
        reasons=reasons,
        cost=cost,
        evidence=gather_evidence(chosen, kappa, kappa_source, pilot, times, memory, branches, advice),
        environment=environment(device),
        regime=regime,
    )


def _halved(chosen: LrChoice) -> str:
    told = ""
    if chosen.num_bounded:
        told += (
            f"; halved {_times(chosen.num_bounded)} because the lr of larger sizes is beyond what the curvature allows"
        )
    if chosen.num_flown:
        told += f"; halved {_times(chosen.num_flown)} because the loss flew away at the lr of larger sizes"
    return told


def _lr_reason(task: Task, chosen: LrChoice, turn: Interval, options: Options) -> str:
    spec = task.optimizer
    rule = "gain rule of SGD" if spec.name == "sgd" else "square-root rule of Adam"
    if spec.name == "muon":
        rule = "square-root rule of normalised updates, which no source has measured for Muon,"
    told = f"{rule} from lr {spec.lr:g} at batch size {task.batch_size}, turning at {turn.value:.0f}"
    if options.lr_rule in ("keep", "linear"):
        told = f"{options.lr_rule} rule from lr {spec.lr:g} at batch size {task.batch_size}"
    elif options.lr_rule is not None:
        told = f"{options.lr_rule} rule, asked for, from lr {spec.lr:g} at batch size {task.batch_size}, turning at {turn.value:.0f}"
    if chosen.bound is not None and chosen.max_lr is not None:
        top = chosen.max_lr
        # Where the largest eigenvalue alone bounds it, there is one number and no scatter that an interval could show.
        scatter = f" ({top.low:.3g} to {top.high:.3g})" if top.low < top.high else ", by the largest eigenvalue alone,"
        told += f"; the curvature at step {chosen.bound.step} of the pilot allows {top.value:.3g}{scatter} at this batch size"
    if chosen.trial is not None:
        steps = len(chosen.trial.losses)
        told += f"; in {steps} steps from the start the loss " + (
            f"rose to {chosen.trial.rise:.1f} times its first value and came back"
            if chosen.trial.came_back
            else "did not fly away"
        )
    return told


def _times(number: int) -> str:
    return "once" if number == 1 else f"{number} times"
