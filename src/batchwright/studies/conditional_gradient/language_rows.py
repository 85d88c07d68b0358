"""What the runs of a language model say: the U, the step size against the number of steps, the best batch, the schedules."""

import math
from collections.abc import Sequence

import numpy as np

from batchwright.core.statistics import Interval
from batchwright.core.study_record import Row
from batchwright.planning import ScgConstants, bst_thresholds
from batchwright.studies.conditional_gradient.curves import FREE, Curve, Results, curves, slope_interval
from batchwright.studies.conditional_gradient.language import CONTEXT
from batchwright.studies.conditional_gradient.rule import BATCH_SIZES, LOSSES, STEP_SIZES
from batchwright.studies.verdict import judge, judge_interval

LANGUAGE, WHO = "language/", "char-gpt with Scion"
# What still counts as the exponent of the theory, and as the same loss at the end; both are ours.
STEP_TOLERANCE, BATCH_TOLERANCE, SAME_LOSS = 0.2, 0.15, 0.01


def by_budget(found: Sequence[Curve]) -> dict[int, list[Curve]]:
    """Curves of each budget, seed by seed."""
    budgets: dict[int, list[Curve]] = {}
    for curve in found:
        budgets.setdefault(curve.tokens, []).append(curve)
    return budgets


def mean_losses(group: Sequence[Curve]) -> list[float]:
    """Mean over the seeds of the least loss at each batch size."""
    return [float(each) for each in np.mean([curve.losses for curve in group], axis=0)]


def budget_name(tokens: int) -> str:
    """Of a budget, as a power of two where it is one."""
    power = math.log2(tokens)
    return f"T=2^{power:.0f}" if power == int(power) else f"T={tokens:.3g}"


def u_rows(results: Results, prefix: str = LANGUAGE, who: str = WHO) -> list[Row]:
    """Loss at either end of the batch sizes less that at the best one, which is chosen by the mean over the seeds."""
    rows = []
    for tokens, seeds in by_budget(curves(results, prefix)).items():
        means = mean_losses(seeds)
        best = int(np.argmin(means))
        for end, word in ((0, "smallest"), (-1, "largest")):
            size = seeds[0].batch_sizes[end]
            measured, verdict = _judge([each.losses[end] - each.losses[best] for each in seeds], 0.0, math.inf)
            rows.append(
                Row(
                    what=f"{budget_name(tokens)}: loss at the {word} batch, {size}, less that at {seeds[0].batch_sizes[best]}",
                    group=f"{who}: loss against batch",
                    claim="both ends are worse: a U",
                    published=None,
                    measured=measured,
                    seeds=_seeds(seeds),
                    low=0.0,
                    high=math.inf,
                    # The best batch may be this end.
                    verdict="does not hold" if size == seeds[0].batch_sizes[best] else verdict,
                    note=f"least loss {means[best]:.4f} nats",
                )
            )
    return rows


def step_rows(results: Results, prefix: str = LANGUAGE, who: str = WHO) -> list[Row]:
    """The best step size over the number of steps: across batches, across budgets, and at the best batch."""
    found = curves(results, prefix)
    group = f"{who}: step size against the number of steps"
    rows = []
    for tokens, seeds in by_budget(found).items():
        over_steps = [1 / steps for curve in seeds for steps in curve.num_steps]
        rows += _slope_row(
            f"{budget_name(tokens)}: slope of the best step size over 1/K, across batches",
            "the best step size goes as 1/K (the paper's own table: " + f"{published_step_slope():.2f})",
            1.0,
            STEP_TOLERANCE,
            slope_interval(over_steps, [lr for curve in seeds for lr in curve.lrs]),
            seeds,
            _edges(seeds),
            group,
        )
    if len(by_budget(found)) < 2:
        return rows
    points = [point for curve in found for point in zip(curve.num_steps, curve.lrs, curve.batch_sizes, strict=True)]
    rows += _slope_row(
        "slope of the best step size over 1/K at one batch, across budgets",
        "the best step size goes as 1/K",
        1.0,
        STEP_TOLERANCE,
        slope_interval([1 / steps for steps, _, _ in points], [lr for _, lr, _ in points], [b for _, _, b in points]),
        found,
        "a line of one slope for every batch",
        group,
    )
    tokens_of = [float(curve.tokens) for curve in found]
    rows += _slope_row(
        "slope of the best step size in T, at the best batch",
        "T^(-1/3)",
        -1 / 3,
        BATCH_TOLERANCE,
        slope_interval(tokens_of, [curve.lrs[curve.best] for curve in found]),
        found,
        "step size times steps there: "
        + ", ".join(
            f"{np.mean([c.lrs[c.best] * c.num_steps[c.best] for c in seeds]):.2g}"
            for seeds in by_budget(found).values()
        ),
        group,
    )
    return rows


def batch_rows(results: Results) -> list[Row]:
    """The best batch, and the largest that is nearly as good, against the budget."""
    found = curves(results, LANGUAGE)
    if len(by_budget(found)) < 2:
        return []
    tokens = [float(curve.tokens) for curve in found]
    rows = []
    for what, values in (
        ("slope of the best batch in T", [curve.best_batch() for curve in found]),
        (f"slope of the largest batch within {FREE:g} nats of the least loss", [curve.free_batch() for curve in found]),
    ):
        means = []
        for budget in by_budget(found):
            own = [value for value, at in zip(values, tokens, strict=True) if at == budget and math.isfinite(value)]
            means.append(f"{2 ** float(np.mean(np.log2(own))):.1f}" if own else "beyond the grid")
        rows += _slope_row(
            what,
            "T^(2/3)",
            2 / 3,
            BATCH_TOLERANCE,
            slope_interval(tokens, values),
            found,
            "sequences, geometric mean by budget: " + ", ".join(means),
            f"{WHO}: best batch against tokens",
        )
    return rows


def constant_rows(results: Results) -> list[Row]:
    """The best batch of each budget over the upper edge of the flat part, as the measured constants put it."""
    cell = results.get("constants")
    if cell is None:
        return []
    group = f"{WHO}: measured constants"
    mu, low, high = map(float, cell["mu"])
    note = ", ".join(f"{name} {float(cell[name][0]):.3g}" for name in ("smoothness", "mu", "rho", "sigma"))
    resolved = low > 0
    rows = [
        Row(
            what="mu: slope of the gradient's dual norm over the loss",
            group=group,
            claim="positive: the norm falls with the loss",
            published=None,
            measured=Interval(value=mu, low=low, high=high) if math.isfinite(mu) else None,
            seeds=(int(cell["arguments"]["seed"]),),
            low=0.0,
            high=math.inf,
            verdict="holds" if resolved else "does not hold" if high < 0 else "not resolved",
            note=note,
        )
    ]
    if not resolved:
        return rows
    constants = ScgConstants(mu=mu, **{name: float(cell[name][0]) for name in ("smoothness", "rho", "sigma")})
    for tokens, seeds in by_budget(curves(results, LANGUAGE)).items():
        edge = bst_thresholds(constants, tokens=float(tokens))[1] / CONTEXT
        measured, verdict = _judge([curve.best_batch() / edge for curve in seeds], 0.1, 10.0)
        rows.append(
            Row(
                what=f"{budget_name(tokens)}: best batch over the rule's upper edge",
                group=group,
                claim="equal but for a numerical constant",
                published=1.0,
                measured=measured,
                seeds=_seeds(seeds),
                low=0.1,
                high=10.0,
                verdict=verdict,
                note=f"the edge is at {edge:.3g} sequences",
            )
        )
    return rows


def schedule_rows(results: Results, who: str = WHO) -> list[Row]:
    """The restarted schedule and the two fixed ones at equal tokens, seed by seed."""
    losses: dict[str, dict[int, float]] = {}
    for name, cell in results.items():
        if name.startswith("schedule/") and "loss" in cell:
            losses.setdefault(name.split("/")[1], {})[int(cell["arguments"]["seed"])] = float(cell["loss"])
    rows = []
    for one, other, claim, low, high in (
        ("restarted", "first", "the settings of the total budget are better than those of the first", -math.inf, 0.0),
        ("second", "first", "the settings of the total budget are better than those of the first", -math.inf, 0.0),
        ("restarted", "second", "restarted and fixed large batch meet at the end", -SAME_LOSS, SAME_LOSS),
    ):
        seeds = sorted(set(losses.get(one, {})) & set(losses.get(other, {})))
        if not seeds:
            continue
        measured, verdict = _judge([losses[one][seed] - losses[other][seed] for seed in seeds], low, high)
        means = {arm: float(np.mean([losses[arm][seed] for seed in seeds])) for arm in (one, other)}
        rows.append(
            Row(
                what=f"loss of {WORDS[one]} less {WORDS[other]}",
                group=f"{who}: schedules at equal tokens",
                claim=claim,
                published=None,
                measured=measured,
                seeds=tuple(seeds),
                low=low,
                high=high,
                verdict=verdict,
                note=", ".join(f"{WORDS[arm]} {value:.4f}" for arm, value in means.items()),
            )
        )
    return rows


WORDS = {
    "first": "fixed, settings of the first budget",
    "second": "fixed, settings of the total",
    "restarted": "restarted",
}


def _judge(values: Sequence[float], low: float, high: float) -> tuple[Interval | None, str]:
    """As `judge`; one seed of a run with noise resolves nothing."""
    measured, verdict = judge(values, low, high)
    return measured, "not resolved" if len(values) < 2 else verdict


def published_step_slope() -> float:
    """Slope of the best step size over 1/K across the batches of the published table, at one budget."""
    best = np.array(STEP_SIZES)[np.array(LOSSES).argmin(0)]
    return float(np.polyfit(np.log(BATCH_SIZES), np.log(best), 1)[0])


def _slope_row(
    what: str,
    claim: str,
    theory: float,
    tolerance: float,
    found: Interval | None,
    seeds: Sequence[Curve],
    note: str,
    group: str,
) -> list[Row]:
    if found is None:
        return []
    low, high = theory - tolerance, theory + tolerance
    return [
        Row(
            what=what,
            group=group,
            claim=claim,
            published=theory,
            measured=found,
            seeds=_seeds(seeds),
            low=low,
            high=high,
            verdict=judge_interval(found, low, high),
            note=note,
        )
    ]


def _edges(seeds: Sequence[Curve]) -> str:
    edges = [edge for curve in seeds for edge in curve.at_edge]
    return f"{sum(edges)} of {len(edges)} best step sizes are at the edge of those tried"


def _seeds(found: Sequence[Curve]) -> tuple[int, ...]:
    return tuple(sorted({curve.seed for curve in found}))
