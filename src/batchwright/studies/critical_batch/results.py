"""What the cells say, by optimizer and batch size."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from batchwright.core.statistics import Interval, mean_interval
from batchwright.studies.critical_batch.runs import tried_of
from batchwright.studies.critical_batch.search import Tried, at_edge, best_of
from batchwright.training.sweep_fit import Hyperbola, critical_interval, fit, jackknifed, log_critical

Results = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True, slots=True)
class SizeResult:
    """One optimizer at one batch size.

    Attributes:
        batch_size: Examples in a step.
        tried: Runs of the search for the learning rate.
        steps: Steps to the target of each finished repeat by seed; infinite where it was not reached.
        planned: Number of repeats.
        skipped: Whether a repeat had nothing to do, since the search never got to the target.
    """

    batch_size: int
    tried: tuple[Tried, ...]
    steps: Mapping[int, float]
    planned: int
    skipped: bool = False

    @property
    def lr(self) -> float | None:
        """The learning rate of the repeats; None where the search never got to the target."""
        best = best_of(self.tried)
        return best.lr if best is not None and best.score[0] == 0 else None

    @property
    def lr_at_edge(self) -> bool:
        """Whether the search ended with its best learning rate at an end of those tried."""
        return at_edge(self.tried)


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimizerResult:
    """One optimizer.

    Attributes:
        name: Of the optimizer.
        sizes: Its batch sizes, rising.
    """

    name: str
    sizes: tuple[SizeResult, ...]

    def examples(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Batch sizes at which every repeat got to the target, and examples to it, ``(sizes, seeds)``; None for fewer than three.

        Only seeds that are there at every size count, so that leaving one out leaves it out of all.
        """
        whole = [each for each in self.sizes if each.steps and all(np.isfinite(list(each.steps.values())))]
        if len(whole) < 3:
            return None
        seeds = sorted(set.intersection(*(set(each.steps) for each in whole)))
        if len(seeds) < 2:
            return None
        sizes = np.array([each.batch_size for each in whole], dtype=float)
        return sizes, np.array([[each.batch_size * each.steps[seed] for seed in seeds] for each in whole])

    def critical(self) -> Interval | None:
        """Critical batch size with its interval over seeds; None where there is nothing to fit."""
        found = self.examples()
        return critical_interval(*found) if found is not None else None

    def hyperbola(self) -> Hyperbola | None:
        """The law through all seeds."""
        found = self.examples()
        return fit(found[0], found[1][:, None]) if found is not None else None


def geometric(values: Sequence[float]) -> Interval:
    """Geometric mean of positive values with Student's interval of their logarithms; no upper end for one value."""
    logs = mean_interval(np.log(np.asarray(values, dtype=np.float64)))
    high = math.exp(logs.high) if logs.high < 700 else math.inf
    return Interval(value=math.exp(logs.value), low=math.exp(logs.low), high=high)


def by_optimizer(results: Results, optimizers: Sequence[str], planned: int) -> list[OptimizerResult]:
    """The sweep's results, in the order of the optimizers; ``planned`` repeats at each batch size."""
    found = []
    for optimizer in optimizers:
        sizes = []
        groups: dict[int, list[tuple[str, Mapping[str, Any]]]] = {}
        for name, result in results.items():
            owner, place, step = name.split("/")
            if owner == optimizer and place.startswith("batch-"):
                groups.setdefault(int(place.removeprefix("batch-")), []).append((step, result))
        for size, cells in sorted(groups.items()):
            runs = {step: each for step, each in cells if not each.get("skipped")}
            repeats = {
                int(each["arguments"]["seed"]): math.inf if each["steps"] is None else float(each["steps"])
                for step, each in runs.items()
                if step.startswith("seed-")
            }
            seeds = [each for step, each in cells if step.startswith("seed-")]
            sizes.append(
                SizeResult(
                    batch_size=size,
                    tried=tuple(tried_of([each for step, each in runs.items() if step.startswith("search-")])),
                    steps=repeats,
                    planned=planned,
                    skipped=any(each.get("skipped") for each in seeds),
                )
            )
        if sizes:
            found.append(OptimizerResult(name=optimizer, sizes=tuple(sizes)))
    return found


def ratio(one: OptimizerResult, other: OptimizerResult) -> Interval | None:
    """Critical size of one over that of another, seed by seed; None unless both were fitted on the same seeds."""
    mine, theirs = one.examples(), other.examples()
    if mine is None or theirs is None or mine[1].shape[1] != theirs[1].shape[1]:
        return None
    (value, left), (value2, left2) = log_critical(*mine), log_critical(*theirs)
    low, high = jackknifed(value - value2, left - left2)
    open_ends = [one.critical(), other.critical()]
    assert open_ends[0] is not None
    assert open_ends[1] is not None
    unbounded = any(each.low == 0 or each.high == math.inf for each in open_ends if each is not None)
    return Interval(
        value=float(np.exp(value - value2)),
        low=0.0 if unbounded else float(np.exp(low)),
        high=math.inf if unbounded else float(np.exp(min(high, 700.0))),
    )
