"""Batch sizes that published rules make of the scatter of gradients: DiveBatch of their diversity, CABS of their trace."""

from batchwright.core.checks import check_int, check_number
from batchwright.core.errors import InputError
from batchwright.measure.gradient_statistics import ratio


def dive_batch_size(diversity: float, *, num_examples: int, delta: float, max_batch_size: int) -> float:
    """Next batch size of DiveBatch: ``min(max_batch_size, delta * num_examples * diversity)``, in examples, not rounded.

    Source: Chen, Wang & Sundaram (2025), arXiv:2509.16173, algorithm 1. Deviation: the paper sums the norms over an epoch while the
    parameters move; any diversity may be given here.

    Args:
        diversity: As of `gradient_diversity`.
        num_examples: Rows behind ``diversity``: the training set for an epoch's worth.
        delta: Share of the bound that is used, above 0; 0.1 and 1 in the paper's runs.
        max_batch_size: Never more.

    Raises:
        InputError: If an argument breaks a rule.

    Example:
        >>> dive_batch_size(0.02, num_examples=50_000, delta=0.1, max_batch_size=2048)
        100.0
    """
    check_int("num_examples", num_examples, at_least=1)
    check_int("max_batch_size", max_batch_size, at_least=1)
    check_number("delta", delta, above=0.0)
    if not diversity >= 0:
        raise InputError(f"diversity must not be negative, got {diversity!r}; take it from gradient_diversity")
    return float(min(max_batch_size, delta * num_examples * diversity))


def cabs_batch_size(trace: float, *, loss: float, lr: float) -> float:
    """Batch size of CABS, ``lr * trace / loss``, in examples, not rounded.

    Source: Balles, Romero & Hennig (2017), arXiv:1612.05086, eq. (22): for SGD without momentum, whose loss can fall to zero.

    Args:
        trace: Of the per-example gradient covariance, as `GradientStatistics.trace` or a noise scale gives it.
        loss: Mean loss above the lowest that can be reached; not negative.
        lr: Learning rate, above 0.

    Returns:
        The batch size; ``inf`` for a loss of zero, NaN where both are zero.

    Raises:
        InputError: If an argument breaks a rule.

    Example:
        >>> cabs_batch_size(64.0, loss=2.0, lr=0.5)
        16.0
    """
    check_number("trace", trace, at_least=0.0)
    check_number("loss", loss, at_least=0.0, way_out="subtract the lowest loss that can be reached")
    check_number("lr", lr, above=0.0)
    return ratio(lr * trace, loss)
