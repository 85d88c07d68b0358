"""The decision of a token plan: the base carried to the budget by the rule, in stages, with the regime and the interval of each number.

Source: Islamov et al. (2026), arXiv:2603.21191 (papers-2026, paper 3, sections 3.4 to 3.6).
"""

import math
from dataclasses import dataclass, replace

import torch

from batchwright.core.environment import environment
from batchwright.core.errors import InputError
from batchwright.core.statistics import Interval
from batchwright.measure.conditional_gradient import ConditionalGradientConstants
from batchwright.measure.memory import Memory
from batchwright.planning.plan import Cost
from batchwright.planning.token_base import FoundBase
from batchwright.planning.token_budget import TokenBudget, token_budget
from batchwright.planning.token_plan import Stage, TokenPlan
from batchwright.planning.token_reasons import TRUSTED_RATIO, reasons_of, warnings_of
from batchwright.planning.token_regime import token_regime
from batchwright.planning.token_travel import early_travel
from batchwright.tasks.task import OptimizerSpec, Task

# From here on batch sizes are multiples of 8.
ROUND_FROM = 64


@dataclass(frozen=True, kw_only=True)
class TokenEvidence:
    """What was measured for a token plan.

    Attributes:
        base: Settings tuned at a budget of their own.
        found: How they were found; None where they were given.
        constants: Of the bound, along a pilot.
        start_norm: Largest norm at the pilot's start, as a part of the ball.
        ceiling: What fits in memory.
        cost: Of all of it.
    """

    base: TokenBudget
    found: FoundBase | None
    constants: ConditionalGradientConstants
    start_norm: float
    ceiling: Memory
    cost: Cost


@dataclass(frozen=True, kw_only=True)
class TokenLimits:
    """What is asked of a token plan.

    Attributes:
        totals: Tokens at which a stage ends, rising; the last is the budget.
        length: Tokens in an example.
        max_batch_size: Never more, in examples.
        seed: Of the measurements.
        device: They were made on.
    """

    totals: tuple[int, ...]
    length: int
    max_batch_size: int
    seed: int
    device: torch.device


def decide(task: Task, spec: OptimizerSpec, evidence: TokenEvidence, limits: TokenLimits) -> TokenPlan:
    """The plan: the base carried to each total, the regime that the constants say it is in, and how sure each number is.

    Args:
        task: The training job.
        spec: Its Scion, with the learning rate of the base.
        evidence: What was measured.
        limits: What was asked for.

    Raises:
        InputError: If the rule would ask for a step size above 1.
    """
    base, found, constants, ceiling = evidence.base, evidence.found, evidence.constants, evidence.ceiling
    totals, length, limit = limits.totals, limits.length, limits.max_batch_size
    first, total = totals[0], totals[-1]
    multiple_of = 8 if base.batch_size * (first / base.tokens) ** (2 / 3) >= ROUND_FROM else 1
    now = _carried(base, first, multiple_of, limit)
    way = early_travel(base, spec, first) if found else None
    if way is not None:
        now = replace(now, lr=way.value / now.num_steps)
    if now.lr > 1:
        raise InputError(
            f"tokens must leave room for the rule, got {first:,} against {base.tokens:,.0f} of the base, where the step size "
            f"would be {now.lr:.3g}; give more tokens or a base of fewer"
        )
    settings = [now, *(_carried(now, each, multiple_of, limit) for each in totals[1:])]
    stages, before = [], 0
    for setting, end in zip(settings, totals, strict=True):
        examples = end // length
        num_steps = max(1, math.ceil((examples - before) / setting.batch_size))
        stages.append(Stage(tokens=end, batch_size=setting.batch_size, lr=setting.lr, num_steps=num_steps))
        # A stage ends with a whole step.
        before += num_steps * setting.batch_size
    last = settings[-1]
    regime = token_regime(constants, batch_size=last.batch_size, sequence_length=length, tokens=total)
    intervals = {
        **_intervals(base, found, now, first, way, length=length, limit=limit),
        "smoothness": constants.smoothness,
        "mu": constants.mu,
        "rho": constants.rho,
        "sigma": constants.sigma.scaled(math.sqrt(length)),
        "noise_threshold": regime.noise_threshold,
        "steps_threshold": regime.steps_threshold,
    }
    spec = replace(spec, lr=now.lr)
    micro = min(now.batch_size, ceiling.max_micro_batch_size)
    return TokenPlan(
        task=task.name,
        tokens=total,
        sequence_length=length,
        optimizer=spec,
        batch_size=now.batch_size,
        micro_batch_size=micro,
        lr=now.lr,
        num_steps=sum(stage.num_steps for stage in stages),
        max_examples=total // length,
        stages=tuple(stages),
        multiple_of=multiple_of,
        max_batch_size=limit,
        base=base,
        base_source="measured" if found else "given",
        lr_source="prior" if way else "base",
        constants=constants,
        token_regime=regime,
        tried=found.tried if found else (),
        intervals=intervals,
        reasons=reasons_of(
            task, spec, base, found, way, stages, micro, ceiling.max_micro_batch_size, regime, multiple_of
        ),
        cost=evidence.cost,
        warnings=warnings_of(task, base, found, way, totals, evidence.start_norm, stages, limit)
        + tuple(ceiling.warnings),
        seed=limits.seed,
        environment=environment(limits.device),
    )


def _carried(base: TokenBudget, tokens: int, multiple_of: int, limit: int) -> TokenBudget:
    return token_budget(base=base, tokens=float(tokens), multiple_of=multiple_of, max_batch_size=limit)


def _intervals(
    base: TokenBudget,
    found: FoundBase | None,
    now: TokenBudget,
    tokens: int,
    way: Interval | None,
    *,
    length: int,
    limit: int,
) -> dict[str, Interval]:
    """Of the decisions: over the settings that the short runs do not tell from the best, and over both rules of the paper."""
    sizes = found.batch_sizes if found else _point(float(base.batch_size))
    lrs = found.lrs if found else _point(base.lr)
    ratio = tokens / base.tokens
    # Exponents of the batch size: the BST rule's, and the square-root rule of the appendix, which did nearly as well there.
    growths = sorted(ratio**exponent for exponent in (2 / 3, 1 / 2))
    shrinks = sorted(ratio ** (exponent - 1) for exponent in (2 / 3, 1 / 2))
    low, high = sizes.low * growths[0], min(sizes.high * growths[1], float(limit))
    wanted = Interval(value=float(now.batch_size), low=min(low, now.batch_size), high=max(high, float(now.batch_size)))
    examples = tokens / length
    steps = examples / now.batch_size
    lr_low, lr_high = min(lrs.low * shrinks[0], now.lr), max(lrs.high * shrinks[1], now.lr)
    if way is not None:
        lr_low, lr_high = way.low / now.num_steps, way.high / now.num_steps
    elif ratio > TRUSTED_RATIO:
        # Far from the base only the end is known: the best step size times the steps was 0.5 to 2 in T3.3, 1.8 in the paper's runs.
        lr_high = max(lr_high, 1 / steps)
    elif found is not None and not found.follows_rule:
        trend = lrs.high * now.batch_size / base.batch_size * ratio**found.lr_exponent
        lr_high = max(lr_high, min(trend, 1 / steps))
    return {
        "base_batch_size": sizes,
        "base_lr": lrs,
        "batch_size": wanted,
        "lr": Interval(value=now.lr, low=lr_low, high=lr_high),
        "num_steps": Interval(value=steps, low=examples / wanted.high, high=math.ceil(examples / wanted.low)),
    }


def _point(value: float) -> Interval:
    return Interval(value=value, low=value, high=value)
