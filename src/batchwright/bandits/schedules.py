"""How many points each batch holds: the square-root schedule, that of a fixed number of batches, and the one whose regrets grow.

A batch of ``N_i`` points costs regret ``N_i N_{i−1}^{−η}`` up to logarithms, with ``η = (1 − c)/2`` and ``c`` the exponent of the
information gain. With ``B`` batches the least total is ``T^{(1−η)/(1−η^B)}``; without a limit of batches ``T^{1−η}``.

Sources: Li & Scarlett (2022), arXiv:2110.07788 (square-root and exponent schedules); Ma, Chen, Scarlett (2026), arXiv:2603.12627 (the
optimal number of batches with its constant, and a factor ``B`` removed). The refined schedule of the second was not at hand:
Deviation: ours lets the regrets of the batches grow by a factor of 2, which reaches the stated result.
"""

import math
from collections.abc import Sequence

from batchwright.bandits.kernels import information_exponent
from batchwright.core.checks import check_choice, check_int
from batchwright.core.errors import InputError

RULES = ("equal", "exponent", "geometric", "sqrt")
# Regret of a batch over that of the next one in the geometric schedule.
GROWTH = 0.5


def batch_schedule(
    horizon: int,
    num_batches: int | None = None,
    kernel: str = "se",
    nu: float = 2.5,
    dim: int = 1,
    *,
    rule: str = "exponent",
) -> list[int]:
    """Lengths of the batches of a horizon; they sum to it.

    Args:
        horizon: Points in all, ``T``.
        num_batches: How many batches; None for the optimal number (with `geometric_num_batches` for that rule). The square-root
            rule has a number of its own and takes none.
        kernel: ``se`` or ``matern``.
        nu: Smoothness of ``matern``.
        dim: Dimension of the domain; only ``matern`` looks at it.
        rule: ``exponent``: ``T^{(1−η^i)/(1−η^B)}``, all rescaled to sum to the horizon; ``sqrt``: ``⌈√(T N_{i−1})⌉`` until the
            horizon is used up; ``geometric``: ``R 2^{i−B} N_{i−1}^η``; ``equal``: ``T/B``.

    Raises:
        InputError: If a name or number breaks these rules, or there are more batches than points.

    Example:
        >>> batch_schedule(64, rule="sqrt")
        [8, 23, 33]
    """
    check_int("horizon", horizon, at_least=1)
    check_choice("rule", rule, RULES)
    check_int("dim", dim, at_least=1)
    if rule == "sqrt":
        if num_batches is not None:
            raise InputError(f"num_batches must be None with rule 'sqrt', got {num_batches}; 'exponent' takes a number")
        return _sqrt_schedule(horizon)
    eta = regret_exponent(kernel, nu, dim)
    if num_batches is None:
        number = (geometric_num_batches if rule == "geometric" else optimal_num_batches)(horizon, kernel, nu, dim)
        number = min(number, horizon)
    else:
        number = check_int("num_batches", num_batches, at_least=1)
    if number > horizon:
        raise InputError(f"num_batches must be at most the horizon, got {number} and horizon {horizon}")
    if rule == "equal":
        return _fit([1.0] * number, horizon)
    if rule == "geometric":
        return _fit(geometric_lengths(float(horizon), number, eta), horizon)
    return _fit(exponent_lengths(float(horizon), number, eta), horizon)


def regret_exponent(kernel: str, nu: float, dim: int) -> float:
    """``η``: with ``n`` points without feedback the regret of what survives falls like ``n^{−η}``; 1/2 for ``se``, ``ν/(2ν+d)``."""
    return (1 - information_exponent(kernel, nu, dim)) / 2


def optimal_num_batches(horizon: float, kernel: str = "se", nu: float = 2.5, dim: int = 1) -> int:
    """Fewest batches whose bound ``T^{(1−η)/(1−η^B)}`` is within a factor ``e`` of the one without a limit, ``T^{1−η}``.

    It grows like ``log log T / log(1/η)``: ``log2 log T`` for ``se``, and fewer for ``matern``, ``log log T / log(2 + d/ν)``.
    """
    eta = regret_exponent(kernel, nu, dim)
    number = 1
    while (1 - eta) * eta**number / (1 - eta**number) * math.log(horizon) > 1:
        number += 1
    return number


def geometric_num_batches(horizon: float, kernel: str = "se", nu: float = 2.5, dim: int = 1) -> int:
    """Batches of the geometric schedule: ``⌈log log T / log(1/η)⌉`` and ``2 log2`` of that more, which are of lower order."""
    if horizon <= math.e:
        return 1
    leading = max(1, math.ceil(math.log(math.log(horizon)) / -math.log(regret_exponent(kernel, nu, dim))))
    return leading + math.ceil(2 * math.log2(leading))


def exponent_lengths(horizon: float, number: int, eta: float) -> list[float]:
    """``T^{(1−η^i)/(1−η^B)}``: every batch of the same regret; the last is the horizon itself, so the sum is larger."""
    return [horizon ** ((1 - eta**i) / (1 - eta**number)) for i in range(1, number + 1)]


def geometric_lengths(horizon: float, number: int, eta: float) -> list[float]:
    """``N_i = R q^{B−i} N_{i−1}^η`` with ``q = 1/2``, ``N_0 = 1`` and ``R`` such that they sum to the horizon."""
    low, high = -math.log(2.0) * number, math.log(horizon) + math.log(2.0) * number
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if sum(_geometric(middle, number, eta)) < horizon else (low, middle)
    return _geometric(low, number, eta)


def _geometric(log_factor: float, number: int, eta: float) -> list[float]:
    log_length, lengths = 0.0, []
    for i in range(1, number + 1):
        log_length = log_factor + (number - i) * math.log(GROWTH) + eta * log_length
        lengths.append(math.exp(log_length))
    return lengths


def regret_sum(lengths: Sequence[float], eta: float = 0.5) -> float:
    """``Σ N_i N_{i−1}^{−η} / T^{1−η}``: the bound on the regret of a schedule over the one without a limit of batches."""
    before, total = 1.0, 0.0
    for length in lengths:
        total += length * before**-eta
        before = length
    return float(total / sum(lengths) ** (1 - eta))


def describe(lengths: Sequence[int]) -> str:
    """The plan in a sentence.

    Example:
        >>> describe([8, 23, 33])
        '64 trials in 3 rounds: 8, 23, 33'
    """
    if all(length == 1 for length in lengths) and len(lengths) > 3:
        return f"{len(lengths)} trials in {len(lengths)} rounds of one"
    shown = ", ".join(str(length) for length in lengths[:12]) + (", ..." if len(lengths) > 12 else "")
    words = "round" if len(lengths) == 1 else "rounds"
    return f"{sum(lengths)} trials in {len(lengths)} {words}: {shown}"


def _sqrt_schedule(horizon: int) -> list[int]:
    lengths, before, left = [], 1, horizon
    while left:
        # The integer root is exact where that of floating point is not, beyond 2^53.
        root = math.isqrt(horizon * before - 1) + 1
        before = min(root, left)
        lengths.append(before)
        left -= before
    return lengths


def _fit(lengths: Sequence[float], horizon: int) -> list[int]:
    """Whole numbers of at least one in the given proportions; the last takes what is left."""
    factor = horizon / sum(lengths)
    found: list[int] = []
    for number, length in enumerate(lengths[:-1], start=1):
        room = horizon - sum(found) - (len(lengths) - number)
        found.append(max(1, min(math.ceil(length * factor - 1e-9), room)))
    return [*found, horizon - sum(found)]
