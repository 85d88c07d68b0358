"""Why a plan for a budget of tokens is as it is, a sentence for each number, and what its reader should know."""

from collections.abc import Sequence

from batchwright.core.statistics import Interval
from batchwright.optim.build import RADII
from batchwright.planning.token_base import TOLERANCE, FoundBase
from batchwright.planning.token_budget import TokenBudget
from batchwright.planning.token_plan import Stage
from batchwright.planning.token_regime import TokenRegime
from batchwright.planning.token_travel import travel
from batchwright.tasks.task import OptimizerSpec, Task

# The paper carried settings over a factor of 8 in tokens; farther is a guess from a law.
TRUSTED_RATIO = 10.0


def reasons_of(
    task: Task,
    spec: OptimizerSpec,
    base: TokenBudget,
    found: FoundBase | None,
    way: Interval | None,
    stages: Sequence[Stage],
    micro_batch_size: int,
    max_micro_batch_size: int,
    regime: TokenRegime,
    multiple_of: int,
) -> dict[str, str]:
    """One sentence for each decision and measurement, by its name."""
    first, totals = stages[0], [stage.tokens for stage in stages]
    ratio = first.tokens / base.tokens
    where = f"the base of {base.tokens:,.0f} tokens"
    source = (
        f"the largest of the batch sizes tried whose loss after {found.num_examples:,} examples is within {TOLERANCE:.0%} of the "
        f"best gain; {len(found.tried)} short runs"
        if found
        else f"given, as tuned for {base.tokens:,.0f} tokens"
    )
    reasons = {
        "batch_size": f"{base.batch_size} of {where} times {ratio:.3g}^(2/3) (BST rule), rounded down"
        + (f" to a multiple of {multiple_of}" if multiple_of > 1 else "")
        + (", no more than allowed" if first.batch_size < 0.8 * base.batch_size * ratio ** (2 / 3) else ""),
        "lr": _lr_reason(base, way, first, far=totals[-1] / base.tokens > TRUSTED_RATIO),
        "num_steps": f"{first.tokens:,} tokens over {first.batch_size} x {regime.batch_tokens // stages[-1].batch_size} a step",
        "micro_batch_size": (
            f"the whole batch fits in memory (ceiling {max_micro_batch_size})"
            if micro_batch_size == first.batch_size
            else f"memory allows {max_micro_batch_size} examples in one pass; the rest is accumulated"
        ),
        "momentum": "kept: the rule's alpha, one less the momentum, does not move with the budget",
        "base_batch_size": source,
        "base_lr": f"the best of the step sizes tried there, a factor of 2 apart ({found.num_examples:,} examples each)"
        if found
        else source,
        "smoothness": "change of a batch's gradient over the way of a step",
        "mu": "slope of the gradient's dual norm over the loss along the run",
        "rho": "dual over Euclidean norm of the gradient noise",
        "sigma": "root of the gradient variance of one token",
        "regime": regime.told,
        "optimizer": _optimizer_reason(task, spec),
        "tokens": f"an example has {task.sequence_length} tokens; the rule is of batch size times these"
        if task.sequence_length
        else "the task has no sequences: an example counts as one token",
    }
    if len(stages) > 1:
        reasons["num_steps"] = ", ".join(f"{stage.num_steps:,} up to {stage.tokens:,} tokens" for stage in stages)
        reasons["stages"] = "at each total the settings of the next total, not of what remains (restarted Scion)"
    return reasons


def _lr_reason(base: TokenBudget, way: Interval | None, first: Stage, *, far: bool) -> str:
    if way is not None:
        return (
            f"A PRIOR, not measured: tuned runs cross {way.value:g} of the ball's radius ({way.low:g} to {way.high:g}), here in "
            f"{first.num_steps:,} steps; the short runs end too early for the rule, at {travel(base):.1g} (see the notes)"
        )
    # The number stands in a table, away from the notes: what is known to be wrong with it goes with it.
    doubt = "; LIKELY TOO SMALL, carried too far (see the notes)" if far else ""
    return f"{base.lr:.3g} of the base of {base.tokens:,.0f} tokens, as the same multiple of one over the number of steps{doubt}"


def _optimizer_reason(task: Task, spec: OptimizerSpec) -> str:
    radii = {**RADII, **spec.options.get("radii", {})}
    told = ", ".join(f"{'others' if kind == 'default' else kind} {radius:g}" for kind, radius in radii.items())
    if task.optimizer.name == "scion":
        return f"the task's Scion; radii: {told}"
    return f"Scion in place of the task's {task.optimizer.name}, whose settings do not carry over; radii by kind of parameter: {told}"


def warnings_of(
    task: Task,
    base: TokenBudget,
    found: FoundBase | None,
    way: Interval | None,
    totals: Sequence[int],
    start_norm: float,
    stages: Sequence[Stage],
    limit: int,
) -> tuple[str, ...]:
    """What a reader should know, one sentence each."""
    told = []
    ratio = totals[-1] / base.tokens
    if not 1 / TRUSTED_RATIO <= ratio <= TRUSTED_RATIO:
        way_out = "raise --budget-steps" if found else "tune nearer to it"
        too_small = (
            ""
            if ratio < 1 or way
            else ", and from runs that short the step size comes out too small (docs/token_budget.md)"
        )
        what = "batch size is" if way else "settings are"
        told.append(
            f"the {what} carried over a factor of {ratio:.3g} in tokens; the paper did it over 8{too_small}. "
            f"For a nearer base {way_out}"
        )
    if way is not None:
        told.append(
            f"the step size is no measurement: the best one of runs of {base.tokens:,.0f} tokens crosses {travel(base):.1g} of the "
            f"ball's radius, and tuned runs of more tokens crossed {way.low:g} to {way.high:g}. Try a factor of 2 and 4 to either "
            "side, or give a base from a longer run: --base-batch-size, --base-lr and --base-tokens"
        )
    elif found is not None and not found.follows_rule and ratio > 1:
        told.append(
            "the step size is likely too small: from a quarter of the short runs to their end the best one went as tokens to the "
            f"power {found.lr_exponent:+.1f}, where the rule has -1. So the runs are too short for the rule; the interval reaches as "
            "far as that trend. Raise --budget-steps, or give a base from a longer run"
        )
    if found is None and task.optimizer.name != "scion":
        told.append(
            f"the base's step size of {base.lr:.3g} is taken for one of Scion; an lr of {task.optimizer.name} is no such number"
        )
    length = task.sequence_length or 1
    passes = totals[-1] / (length * task.num_train)
    if passes > 1:
        told.append(
            f"the budget is {passes:.3g} passes over the {task.num_train:,} training examples; the rule counts fresh tokens, "
            "so the loss on held-out data may rise before its end"
        )
    if start_norm > 0.5:
        told.append(
            f"the model starts at {start_norm:.2f} of the ball's radius; the bound asks for at most a half "
            "(batchwright.optim.Scion.init, or larger radii)"
        )
    if stages[-1].batch_size >= limit:
        told.append(f"the batch size is held at {limit}, the most allowed; the step size follows what is taken")
    if stages[-1].num_steps < 50 and len(stages) == 1:
        told.append(f"only {stages[-1].num_steps} steps are left: the budget is small for this task")
    return tuple(told)
