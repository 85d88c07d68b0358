"""From the losses of a grid of runs: the best step size of each batch, the best batch of each budget, and slopes with intervals."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from batchwright.core.statistics import Interval, student_quantile

Results = Mapping[str, Mapping[str, Any]]

# Octaves on either side of the least loss that the parabola of the best batch is fitted to.
REACH = 2.0
# Nats above the least loss up to which a batch counts as free.
FREE = 0.03


@dataclass(frozen=True, kw_only=True, slots=True)
class Curve:
    """One seed of one budget.

    Attributes:
        tokens: The budget.
        seed: Of the runs.
        batch_sizes: In sequences, increasing.
        losses: The least over the step sizes at each.
        lrs: The best step size, between those tried by a parabola in its logarithm.
        at_edge: Whether that is the smallest or the largest that was tried.
        num_steps: Steps of a run.
    """

    tokens: int
    seed: int
    batch_sizes: tuple[int, ...]
    losses: tuple[float, ...]
    lrs: tuple[float, ...]
    at_edge: tuple[bool, ...]
    num_steps: tuple[int, ...]

    @property
    def best(self) -> int:
        """Index of the least loss."""
        return int(np.argmin(self.losses))

    def best_batch(self) -> float:
        """Where a parabola in the logarithm of the batch is least, which is fitted within two octaves of the least loss."""
        return float(2.0 ** vertex(np.log2(self.batch_sizes), self.losses))

    def free_batch(self) -> float:
        """The largest batch within `FREE` of the least loss, between batches on a line in the logarithm; NaN if none is beyond it."""
        bound = self.losses[self.best] + FREE
        for index in range(len(self.losses) - 1, self.best, -1):
            below, above = self.losses[index - 1], self.losses[index]
            if below <= bound < above:
                places = np.log2(self.batch_sizes[index - 1 : index + 1])
                return float(2.0 ** (places[0] + (bound - below) / (above - below) * (places[1] - places[0])))
        return math.nan


def whole_seeds(results: Results, prefix: str, planned: Iterable[str]) -> dict[str, Mapping[str, Any]]:
    """The results of every budget under a prefix without the seeds that lack a planned run; other results stay.

    A curve that lacks a batch, or a step size, has its least loss in another place.

    Args:
        results: By the name of the cell, ``PREFIX/BUDGET/RUN/seed-SEED`` or with a part behind it.
        prefix: As above.
        planned: Names of all cells of a preset; the runs of a budget are the same for every seed.
    """
    runs: dict[str, set[str]] = {}
    for name in planned:
        if name.startswith(prefix):
            budget, run, _ = _parts(name)
            runs.setdefault(budget, set()).add(run)
    held: dict[tuple[str, str], set[str]] = {}
    for name in results:
        if name.startswith(prefix):
            budget, run, seed = _parts(name)
            held.setdefault((budget, seed), set()).add(run)
    return {
        name: cell
        for name, cell in results.items()
        if not name.startswith(prefix) or runs.get(_parts(name)[0], set()) <= held[(_parts(name)[0], _parts(name)[2])]
    }


def _parts(name: str) -> tuple[str, str, str]:
    """Budget, run with its part, and seed."""
    before, _, after = name.partition("/seed-")
    seed, _, part = after.partition("/")
    return "/".join(before.split("/")[:2]), f"{before}/{part}", seed


def curves(results: Results, prefix: str) -> list[Curve]:
    """The curves of whole seeds: those that have every run that any seed of their budget has, by budget and seed."""
    found: dict[tuple[int, int], dict[int, dict[float, tuple[float, int]]]] = {}
    for name, cell in results.items():
        if not name.startswith(prefix) or "loss" not in cell:
            continue
        arguments = cell["arguments"]
        runs = found.setdefault((int(arguments["budgets"][-1]), int(arguments["seed"])), {})
        loss = cell["loss"]
        finite = isinstance(loss, int | float) and math.isfinite(loss)
        runs.setdefault(int(arguments["batch_size"]), {})[float(arguments["lr"])] = (
            float(loss) if finite else math.inf,
            int(cell["num_steps"]),
        )
    most: dict[int, int] = {}
    for (tokens, _), runs in found.items():
        most[tokens] = max(most.get(tokens, 0), sum(map(len, runs.values())))
    return [
        _curve(tokens, seed, runs)
        for (tokens, seed), runs in sorted(found.items())
        if sum(map(len, runs.values())) == most[tokens]
    ]


def _curve(tokens: int, seed: int, runs: Mapping[int, Mapping[float, tuple[float, int]]]) -> Curve:
    sizes = sorted(runs)
    steps = [best_step({lr: loss for lr, (loss, _) in runs[size].items()}) for size in sizes]
    return Curve(
        tokens=tokens,
        seed=seed,
        batch_sizes=tuple(sizes),
        losses=tuple(min(loss for loss, _ in runs[size].values()) for size in sizes),
        lrs=tuple(lr for lr, _ in steps),
        at_edge=tuple(edge for _, edge in steps),
        num_steps=tuple(next(iter(runs[size].values()))[1] for size in sizes),
    )


def best_step(losses: Mapping[float, float]) -> tuple[float, bool]:
    """The step size of the least loss by `vertex` in the logarithm; and whether that is the smallest or the largest tried.

    A parabola over all step sizes near the least loss, as losses of neighbours differ by less than their noise.
    """
    lrs = sorted(losses)
    found = vertex(np.log2(lrs), [losses[lr] for lr in lrs])
    ends = math.log2(lrs[0]), math.log2(lrs[-1])
    return float(2.0**found), min(abs(found - end) for end in ends) < 1e-9


def vertex(x: Any, y: Sequence[float], reach: float = REACH) -> float:
    """Where the least-squares parabola over the points within ``reach`` of the least value is least.

    Never beyond those points; the place of the least value itself where there are fewer than three, or the parabola opens downward.
    """
    places, values = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    least = places[int(values.argmin())]
    near = (abs(places - least) <= reach + 1e-9) & np.isfinite(values)
    if near.sum() < 3:
        return float(least)
    second, first, _ = np.polyfit(places[near] - least, values[near], 2)
    if second <= 0:
        return float(least)
    return float(np.clip(least - first / (2 * second), places[near].min(), places[near].max()))


def slope_interval(x: Sequence[float], y: Sequence[float], groups: Sequence[int] | None = None) -> Interval | None:
    """Least-squares slope of ``log y`` over ``log x`` with the Student interval of its scatter about the line.

    Args:
        x: Positive.
        y: Positive; a NaN is left out with its ``x``.
        groups: Points of one number have a line of their own, of the common slope.

    Returns:
        None where there is no degree of freedom left, or ``x`` does not vary.
    """
    number = np.zeros(len(x), dtype=int) if groups is None else np.asarray(groups)
    known = np.isfinite(np.asarray(y, dtype=np.float64))
    logs = np.log(np.asarray(x, dtype=np.float64)[known]), np.log(np.asarray(y, dtype=np.float64)[known])
    number = number[known]
    a, b = (each - np.array([each[number == own].mean() for own in number]) for each in logs)
    spread = float((a**2).sum())
    freedom = len(a) - len(set(number.tolist())) - 1
    if freedom < 1 or spread < 1e-12:
        return None
    slope = float((a * b).sum()) / spread
    error = math.sqrt(float(((b - slope * a) ** 2).sum()) / freedom / spread)
    half = student_quantile(0.95, freedom) * error
    return Interval(value=slope, low=slope - half, high=slope + half)
