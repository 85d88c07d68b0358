"""The laws a plan is made of: examples and time to a target against batch size, and the learning rate that goes with it.

Sources: McCandlish et al. (2018), arXiv:1812.06162, eqs. (2.7), (2.10) and (2.11); Malladi et al. (2022), arXiv:2205.10287 (square root
for Adam); Marek et al. (2025), arXiv:2507.07101 (half-life of beta2 in examples).
"""

import math

from batchwright.core.checks import check_choice, check_number
from batchwright.core.statistics import Interval
from batchwright.tasks.optimizers import KINDS, names_of


def examples_ratio(batch_size: float, critical_batch_size: float) -> float:
    """Examples to target over those of the small-batch limit: ``1 + B / B_crit``."""
    return 1.0 + batch_size / critical_batch_size


def steps_ratio(batch_size: float, critical_batch_size: float) -> float:
    """Steps to target over those of the large-batch limit: ``1 + B_crit / B``."""
    return 1.0 + critical_batch_size / batch_size


def fastest_batch_size(critical_batch_size: float, overhead_s: float, per_example_s: float) -> float:
    """Minimum of ``(1 + B_crit / B) (a + b B)``: ``sqrt(B_crit a / b)``; infinite where an example costs nothing."""
    if per_example_s <= 0:
        return math.inf
    return math.sqrt(critical_batch_size * overhead_s / per_example_s)


def scale_lr(
    optimizer: str, lr: float, *, base_batch_size: float, batch_size: float, critical_batch_size: float
) -> float:
    """Learning rate at ``batch_size`` from the one that holds at ``base_batch_size``.

    SGD follows the gain rule ``lr(B) = lr_max / (1 + B_crit / B)``: linear far below the critical batch size, constant
    far above it. Adam, AdamW and Muon follow the square root up to the critical batch size and are constant above it.

    Args:
        optimizer: ``sgd``, ``adam``, ``adamw`` or ``muon``; Scion follows its token budget, `token_budget`.
        lr: Learning rate that is right at ``base_batch_size``.
        base_batch_size: In examples.
        batch_size: In examples.
        critical_batch_size: In examples; infinite gives the plain linear or square-root rule.
    """
    check_choice("optimizer", optimizer, (*names_of(update="gradient"), *names_of(update="normalised")))
    check_number("lr", lr, above=0.0)
    if KINDS[optimizer].update == "gradient":
        if math.isinf(critical_batch_size):
            return lr * batch_size / base_batch_size
        return lr * (1 + critical_batch_size / base_batch_size) / (1 + critical_batch_size / batch_size)
    ceiling = max(critical_batch_size, base_batch_size)
    return lr * math.sqrt(min(batch_size, ceiling) / base_batch_size)


def keep_half_life(decay: float, *, base_batch_size: float, batch_size: float) -> float:
    """Decay of a moving average whose half-life, counted in examples, stays what it was at ``base_batch_size``."""
    check_number("decay", decay, at_least=0.0, below=1.0)
    return float(decay ** (batch_size / base_batch_size))


def power_of_two(value: float, *, at_least: int = 1, at_most: int | None = None) -> int:
    """Power of two nearest to ``value`` on a logarithmic scale, within the bounds.

    Where no power of two lies within the bounds, the upper bound itself is given.
    """
    exponent = round(math.log2(max(value, 1.0)))
    if at_most is not None:
        exponent = min(exponent, math.floor(math.log2(at_most)))
    found = 1 << max(exponent, 0)
    return max(found, at_least) if at_most is None else min(max(found, at_least), at_most)


def lr_turning_point(critical: Interval, noise: Interval) -> Interval:
    """Batch size at which the learning rate stops following the batch: the larger of critical size and noise scale.

    McCandlish et al. write the gain rule with the noise scale. Where training wastes examples earlier than that (kappa below one), the
    best learning rates of the sweeps still followed the batch to the noise scale: see docs/benchmarks.md.
    """
    return critical if critical.value >= noise.value else noise
