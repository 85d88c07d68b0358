"""The critical batch size of a sweep: the hyperbola ``examples(B) = E_min (1 + B / B_crit)`` through the fewest examples to a target.

Source: McCandlish et al. (2018), arXiv:1812.06162, eq. (2.7) with ``steps(B) = examples(B) / B = S_min (1 + B_crit / B)``.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from batchwright.core.errors import InputError
from batchwright.core.statistics import Interval, jackknife_covariance, student_quantile
from batchwright.training.sweep import Trial
from batchwright.training.verify import by_setting

# Critical sizes are looked for from this part of the smallest size tried to this multiple of the largest.
BELOW, ABOVE = 4.0, 16.0
# A fit outside these parts and multiples of the sizes tried is not measured on that side, as in `measure.branch`.
SEEN_BELOW, SEEN_ABOVE = 2.0, 4.0
NUM_POINTS = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class Hyperbola:
    """A fitted law of steps to a target, ``steps(B) = min_steps (1 + critical_batch_size / B)``.

    Attributes:
        critical_batch_size: In examples.
        min_steps: Steps in the limit of large batches.
    """

    critical_batch_size: float
    min_steps: float

    def steps(self, batch_size: float) -> float:
        """Steps to the target at a batch size.

        Example:
            >>> Hyperbola(critical_batch_size=64.0, min_steps=100.0).steps(32)
            300.0
        """
        return self.min_steps * (1 + self.critical_batch_size / batch_size)


def table_of(trials: Sequence[Trial]) -> tuple[Float[np.ndarray, " K"], Float[np.ndarray, "K L S"]]:
    """Batch sizes, and examples to target of shape ``(sizes, lrs, seeds)``; infinite where not reached.

    A size that an unfinished sweep has not tried at every lr is left out: its best lr is not known.
    """
    rows: dict[int, list[list[float]]] = {}
    for setting, group in sorted(by_setting(trials).items(), key=lambda item: (item[0].batch_size, item[0].lr)):
        found = [trial.examples if trial.examples is not None else math.inf for trial in group]
        rows.setdefault(setting.batch_size, []).append(found)
    num_lrs, num_seeds = max(map(len, rows.values())), max(len(row[0]) for row in rows.values())
    whole = {
        size: row for size, row in rows.items() if len(row) == num_lrs and all(len(each) == num_seeds for each in row)
    }
    return np.array(list(whole), dtype=float), np.array(list(whole.values()), dtype=float)


def fit(sizes: Float[np.ndarray, " K"], examples: Float[np.ndarray, "K L S"]) -> Hyperbola:
    """The hyperbola by least squares of the logarithms, through the best lr of each size and its mean over seeds.

    Sizes that no lr always got to the target are left out.

    Raises:
        InputError: If fewer than two sizes are left.
    """
    with np.errstate(invalid="ignore"):
        best = examples.mean(axis=2).min(axis=1)
    seen = np.isfinite(best)
    if seen.sum() < 2:
        raise InputError(f"a fit needs at least 2 batch sizes that got to the target, got {int(seen.sum())}; try more")
    logs, grid = np.log(best[seen]), np.geomspace(sizes[0] / BELOW, sizes[-1] * ABOVE, NUM_POINTS)
    residual = logs - np.log(1 + sizes[seen][None, :] / grid[:, None])
    at = int(residual.var(axis=1).argmin())
    return Hyperbola(critical_batch_size=float(grid[at]), min_steps=float(math.exp(residual[at].mean()) / grid[at]))


def critical_batch_size(trials: Sequence[Trial], rng: np.random.Generator, *, num_resamples: int = 500) -> Interval:
    """Critical batch size of a sweep over lrs, by a bootstrap over seeds with the lr chosen anew in each resample."""
    sizes, examples = table_of(trials)
    seeds = examples.shape[2]
    found = np.sort(
        [fit(sizes, examples[:, :, rng.integers(seeds, size=seeds)]).critical_batch_size for _ in range(num_resamples)]
    )
    value = fit(sizes, examples).critical_batch_size
    low, high = np.quantile(found, [0.025, 0.975])
    return Interval(value=value, low=min(float(low), value), high=max(float(high), value))


def log_critical(sizes: Float[np.ndarray, " K"], examples: Float[np.ndarray, "K S"]) -> tuple[float, np.ndarray]:
    """Logarithm of the critical size of examples at one lr a size, and the same with each seed left out in turn."""
    parts = [np.delete(examples, seed, axis=1) for seed in range(examples.shape[1])]
    whole, *left = (math.log(fit(sizes, part[:, None]).critical_batch_size) for part in (examples, *parts))
    return whole, np.array(left)


def jackknifed(value: float, left_out: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Ends of the interval of a number from its values with each seed left out: Student's, from the jackknife's error.

    A bootstrap over three seeds has ten different resamples, and its interval is too narrow.
    """
    count = len(left_out)
    half = student_quantile(level, count - 1) * math.sqrt(float(jackknife_covariance(left_out[:, None])[0, 0]))
    return value - half, value + half


def critical_interval(
    sizes: Float[np.ndarray, " K"], examples: Float[np.ndarray, "K S"], *, level: float = 0.95
) -> Interval:
    """Critical batch size with its interval over seeds, of examples to a target at one lr a size, chosen on other seeds.

    Where the fit lies beyond the sizes tried, or leaving out a seed carries it there, the interval has no end on that side.

    Args:
        sizes: Rising.
        examples: Examples to the target; finite.
        level: Nominal coverage.

    Raises:
        InputError: If there are fewer than two sizes or seeds.
    """
    value, left = log_critical(sizes, examples)
    low, high = jackknifed(value, left, level)
    ends = np.exp([min(value, left.min()), max(value, left.max())])
    # Far beyond any double, and as far as one can be from a size that was tried.
    top = math.exp(min(high, 700.0))
    return Interval(
        value=math.exp(value),
        low=math.exp(low) if ends[0] > sizes[0] / SEEN_BELOW else 0.0,
        high=top if ends[1] < SEEN_ABOVE * sizes[-1] else math.inf,
        level=level,
    )
