"""What the results say of the claims."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from batchwright.core.statistics import Interval, bootstrap_interval
from batchwright.core.study_record import Row
from batchwright.studies.conditional_gradient.rule import TRANSFERS
from batchwright.studies.conditional_gradient.toy import ALPHAS, STEP_CONSTANTS
from batchwright.studies.judged_row import exact_row
from batchwright.studies.verdict import judge_each, judge_interval

Results = Mapping[str, Mapping[str, Any]]

RULE, BOUND, TOY, TABLE = (
    "The token-budget rule",
    "The bound at its best parameters",
    "Simulated conditional gradient",
    "The published table",
)
NUM_RESAMPLES = 500
# Least error at each budget of the simulation, as the specification's run had it.
TOY_BEST = {12: 0.126, 14: 0.0325, 16: 0.0062, 18: 0.0016}


def rule_rows(results: Results) -> list[Row]:
    """The published transfers: batch sizes exactly, step sizes to their printed digits."""
    found = results.get("rule")
    if found is None:
        return []
    rows = []
    for (ratio, size, lr), batch_size, step in zip(TRANSFERS, found["batch_size"], found["lr"], strict=True):
        rows += [
            exact_row(
                f"batch size at {ratio:g} times the tokens",
                RULE,
                "as published",
                float(size),
                float(batch_size),
                size,
                size,
            ),
            # Two digits are printed, and 2.16 stands as 2.1.
            exact_row(
                f"step size at {ratio:g} times the tokens",
                RULE,
                "as published, to two digits",
                lr,
                step,
                lr * 0.97,
                lr * 1.03,
            ),
        ]
    return rows


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Least-squares slope of ``log y`` over ``log x``."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def bound_rows(results: Results) -> list[Row]:
    """Exponents of the error and of the largest good batch, and that the momentum weight stays."""
    found = results.get("bound")
    if found is None:
        return []
    exponents = found["arguments"]["exponents"]
    far = [index for index, exponent in enumerate(exponents) if exponent >= 8]
    if len(far) < 2:
        return []
    tokens = [10.0 ** exponents[index] for index in far]
    best, edge, weights = ([found[name][index] for index in far] for name in ("best", "edge", "edge_alpha"))
    return [
        exact_row(
            "slope of the least bound in the tokens, T >= 1e8",
            BOUND,
            "T^(-1/3)",
            -1 / 3,
            slope(tokens, best),
            -1 / 3 - 0.06,
            -1 / 3 + 0.06,
        ),
        exact_row(
            "slope of the largest batch within 10 % of it",
            BOUND,
            "T^(2/3)",
            2 / 3,
            slope(tokens, edge),
            2 / 3 - 0.06,
            2 / 3 + 0.06,
        ),
        exact_row(
            "momentum weight there, largest over least",
            BOUND,
            "constant",
            1.0,
            max(weights) / min(weights),
            1.0,
            4.0,
            note="within a factor of two either way",
        ),
    ]


def toy_cells(results: Results) -> dict[int, tuple[list[int], Any]]:
    """Batch sizes and errors (batch, repeat, step constant, momentum weight), by the power of two of the budget."""
    return {
        int(math.log2(found["arguments"]["tokens"])): (found["arguments"]["batch_sizes"], np.array(found["errors"]))
        for name, found in results.items()
        if name.startswith("toy/")
    }


def best_of(errors: Any) -> tuple[Any, Any, Any]:
    """Least mean error over the settings at each batch size, with the step constant and the momentum weight that give it."""
    mean = errors.mean(1)
    flat = mean.reshape(len(mean), -1).argmin(1)
    c, alpha = np.unravel_index(flat, mean.shape[1:])
    return mean.reshape(len(mean), -1).min(1), np.array(STEP_CONSTANTS)[c], np.array(ALPHAS)[alpha]


def intervals(errors: Any, at: int) -> tuple[Interval, Interval]:
    """Least error, and the better end over it, with intervals over the repeats; the settings are chosen anew in each resample."""
    runs = np.moveaxis(errors, 1, 0)

    def over_least(sample: Any) -> float:
        best = best_of(np.moveaxis(sample, 0, 1))[0]
        return float(min(best[0], best[-1]) / best[at])

    def least(sample: Any) -> float:
        return float(best_of(np.moveaxis(sample, 0, 1))[0][at])

    found = [
        bootstrap_interval(runs, statistic, rng=np.random.default_rng(0), num_resamples=NUM_RESAMPLES)
        for statistic in (least, over_least)
    ]
    return found[0], found[1]


def _row(what: str, claim: str, published: float | None, found: Interval, low: float, high: float) -> Row:
    """A row of the simulation on a number with an interval."""
    return Row(
        what=what,
        group=TOY,
        claim=claim,
        published=published,
        measured=found,
        seeds=(),
        low=low,
        high=high,
        verdict=judge_interval(found, low, high),
    )


def toy_rows(results: Results) -> list[Row]:
    """The U-shape, the step size against the number of steps, and the momentum weight."""
    rows, constants, weights = [], [], []
    for power, (sizes, errors) in sorted(toy_cells(results).items()):
        error, c, alpha = best_of(errors)
        at = int(error.argmin())
        constants += list(c)
        weights.append(float(alpha[at]))
        least, ends = intervals(errors, at)
        aim = TOY_BEST.get(power)
        low, high = (0.8 * aim, 1.25 * aim) if aim is not None else (0.0, math.inf)
        rows += [
            _row(
                f"T=2^{power}: least error, at batch {sizes[at]}",
                "as the specification's run, 12 repeats",
                aim,
                least,
                low,
                high,
            ),
            _row(
                f"T=2^{power}: error at the batches {sizes[0]} and {sizes[-1]}, the better, over the least",
                "both ends are worse: a U",
                None,
                ends,
                1.0,
                math.inf,
            ),
            exact_row(
                f"T=2^{power}: best momentum weight at the best batch over that at the smallest",
                TOY,
                "it grows with the batch",
                None,
                float(alpha[at] / alpha[0]),
                1.01,
                math.inf,
            ),
        ]
    for what, claim, values, low, high in (
        (
            "best step size times the number of steps, every cell",
            "the best step size goes as 1/K: c stays between 0.5 and 2",
            constants,
            0.5,
            2.0,
        ),
        (
            "best momentum weight at the best batch, every budget",
            "constant in the tokens, between 0.1 and 0.2",
            weights,
            0.1,
            0.2,
        ),
    ):
        if values:
            measured, verdict = judge_each(values, low, high)
            rows.append(
                Row(
                    what=what,
                    group=TOY,
                    claim=claim,
                    published=None,
                    measured=measured,
                    seeds=(),
                    low=low,
                    high=high,
                    verdict=verdict,
                )
            )
    return rows


def table_rows(results: Results) -> list[Row]:
    """The shape of the published losses."""
    found = results.get("table")
    if found is None:
        return []
    shape = float(found["falls_before"] and found["rises_after"])
    return [
        exact_row(
            "batch size of the least loss",
            TABLE,
            "between 256 and 512",
            256.0,
            float(found["best_batch_size"]),
            256,
            512,
        ),
        exact_row("falls up to it and rises from there (1: yes)", TABLE, "a U", 1.0, shape, 1, 1),
        exact_row(
            "rise from 2048 to 4096 over that from 1024 to 2048",
            TABLE,
            "2 where too few steps are left",
            2.28,
            float(found["tail_ratio"]),
            1.7,
            2.6,
        ),
    ]
