"""Odd quintic polynomials that carry singular values to 1: the fixed one of Muon, and the best ones, step by step.

A step is ``X <- (a I + b X X^T + c (X X^T)^2) X``, so every singular value ``s`` goes to ``p(s) = a s + b s^3 + c s^5``.

Source: Jordan et al. (2024), the Muon post, for the fixed coefficients; Amsel et al. (2025), arXiv:2505.16932 ("Polar Express"),
for the theorem that the best composition takes in each step the quintic of least largest error on the interval that the step
before has left. The coefficients are made here, not copied from a table.
"""

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from batchwright.core.checks import check_int, check_number

Quintic = tuple[float, float, float]
JORDAN: Quintic = (3.4445, -4.7750, 2.0315)
# The limit of the best quintic on an interval that shrinks to 1: it has three derivatives of zero there.
PADE: Quintic = (15 / 8, -10 / 8, 3 / 8)
MAX_DEPTH = 40


@lru_cache(maxsize=256)
def best_quintics(smallest: float, num_steps: int, *, safety: float = 1.0) -> tuple[Quintic, ...]:
    """Coefficients of ``num_steps`` steps that bring all singular values of ``[smallest, 1]`` as near to 1 as quintics can.

    Args:
        smallest: Lower end of the singular values, as a part of the upper bound that the matrix was divided by.
        num_steps: Steps.
        safety: In bfloat16 a singular value may come out a little above the interval that the next step was made for, where a quintic
            grows fast. Each step but the last is made for values ``safety`` times as large: ``p(s / safety)``. It must be in every
            step: in the first alone, a value was seen to reach 1.91.

    Raises:
        InputError: If ``smallest`` is not in ``(0, 1]``, or ``safety`` is below 1.

    Example:
        >>> [round(value, 3) for value in best_quintics(1e-3, 5)[0]]
        [8.47, -25.108, 18.629]
    """
    check_number("smallest", smallest, above=0.0, at_most=1.0)
    check_int("num_steps", num_steps, at_least=1)
    check_number("safety", safety, at_least=1.0)
    low, high, found = smallest, 1.0, []
    for step in range(num_steps):
        quintic, error = best_quintic(low, high)
        low, high = 1 - error, 1 + error
        margin = safety if step < num_steps - 1 else 1.0
        found.append((quintic[0] / margin, quintic[1] / margin**3, quintic[2] / margin**5))
    return tuple(found)


def best_quintic(low: float, high: float) -> tuple[Quintic, float]:
    """The odd quintic of least largest ``|1 - p(s)|`` on ``[low, high]``, and that error.

    By Remez: the error of the best one has four extremes of equal size and changing sign, the two ends among them.
    """
    if high - low < 1e-4 * high:  # there the four equations are one; the limit is within the cube of the interval
        scale = 2 / (low + high)
        quintic = (PADE[0] * scale, PADE[1] * scale**3, PADE[2] * scale**5)
        return quintic, max(abs(1 - float(apply_quintic(quintic, np.array(end)))) for end in (low, high))
    inner = np.sqrt([0.75 * low**2 + 0.25 * high**2, 0.25 * low**2 + 0.75 * high**2])
    for _ in range(100):
        points = np.array([low, *inner, high])
        signs = np.array([1.0, -1.0, 1.0, -1.0])
        rows = np.stack([points, points**3, points**5, signs], axis=1)
        a, b, c, error = np.linalg.solve(rows, np.ones(4))
        # The extremes inside are where p' = a + 3 b t + 5 c t^2 is zero, with t = s^2.
        root = math.sqrt(max(9 * b * b - 20 * a * c, 0.0))
        new = np.sqrt(np.clip([(-3 * b - root) / (10 * c), (-3 * b + root) / (10 * c)], low**2, high**2))
        moved = float(np.abs(new - inner).max())
        inner = new
        if moved <= 1e-15 * high:
            break
    return (float(a), float(b), float(c)), abs(float(error))


def apply_quintic(quintic: Quintic, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """What a step does to singular values."""
    a, b, c = quintic
    squares = values * values
    return np.asarray(values * (a + squares * (b + squares * c)))


def compose(quintics: tuple[Quintic, ...], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """What all steps do to singular values."""
    for quintic in quintics:
        values = apply_quintic(quintic, values)
    return values


@lru_cache(maxsize=256)
def largest_error(quintics: tuple[Quintic, ...], smallest: float) -> float:
    """Largest ``|1 - s|`` of what becomes of the singular values ``[smallest, 1]``."""
    values = np.exp(np.linspace(math.log(smallest), 0.0, 20_001))
    return float(np.abs(1 - compose(quintics, values)).max())


@lru_cache(maxsize=256)
def best_depth(smallest: float, tolerance: float, *, safety: float = 1.0) -> int:
    """The fewest best quintics that bring every singular value of ``[smallest, 1]`` to within ``tolerance`` of 1."""
    check_number("tolerance", tolerance, above=0.0, below=1.0)
    for num_steps in range(1, MAX_DEPTH):
        if largest_error(best_quintics(smallest, num_steps, safety=safety), smallest) <= tolerance:
            return num_steps
    return MAX_DEPTH


@lru_cache(maxsize=256)
def jordan_depth(smallest: float) -> int:
    """The fewest steps of the fixed quintic that bring every singular value of ``[smallest, 1]`` to where it ends up, 0.68 to 1.21.

    A step multiplies a small one by 3.4445. For a matrix over its Frobenius norm with a tail ``d^-alpha``, papers-2026 (2.1) has
    ``5 + ceil(alpha ln d / ln 3.4445)``, which allows for the norm as well.

    Example:
        >>> jordan_depth(1e-3), jordan_depth(256.0**-2)
        (6, 9)
    """
    check_number("smallest", smallest, above=0.0, at_most=1.0)
    values = np.exp(np.linspace(math.log(smallest), 0.0, 20_001))
    for num_steps in range(1, MAX_DEPTH):
        values = apply_quintic(JORDAN, values)
        if values.min() >= 0.68:
            return num_steps
    return MAX_DEPTH
