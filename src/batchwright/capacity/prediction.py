"""What the theory predicts: how many items one step stores, and the batch size beyond which it stores no more.

The exponents are derived from the signal and the noise of a score, up to constants and powers of ``log d``, which are left out, so
a number here is an order of magnitude and only its scaling is a prediction.

Source: Kim et al. (2026), arXiv:2603.26554; exponents derived anew, since the statements of its theorems were not at hand.
"""

import math
from dataclasses import dataclass

from batchwright.core.checks import check_choice, check_int, check_number

OPTIMIZERS = ("sgd", "muon", "newton")


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """Orders of magnitude for one step from zero.

    Attributes:
        recovered: Items that the step stores.
        critical_batch_size: Draws in a batch beyond which the step stores no more.
        missed_mass: Probability of an item that is not stored.
        limited_by: ``batch`` where rare items are missing from the batch, else ``dimension``.
        smoothing: ``lambda`` of the smoothed map, in the unit of the gradient; None for others than Muon.
        capacity_exponent: Power of ``d`` in the number of items that a step on the whole law stores.
        critical_batch_exponent: Power of ``d`` in the critical batch size.
    """

    recovered: float
    critical_batch_size: float
    missed_mass: float
    limited_by: str
    smoothing: float | None
    capacity_exponent: float
    critical_batch_exponent: float


def predict(dim: int, alpha: float, batch_size: int | None = None, optimizer: str = "sgd") -> Prediction:
    """Predict what one step stores.

    An item must be in the batch, ``j <= B^(1/alpha)``, and its signal must stand above the noise of the others: ``p_j >= d^(-1/2)``
    for SGD, whose gradient is ruled by the most frequent item, and ``p_j >= d^(-alpha-1/2)`` for Muon and Newton, which flatten the
    spectrum.

    Args:
        dim: Dimension ``d`` of the embeddings.
        alpha: Exponent of the frequencies, above 1.
        batch_size: Draws in the batch; the whole law where left out.
        optimizer: ``sgd``, ``muon`` or ``newton``.

    Raises:
        InputError: If an argument breaks a rule.

    Example:
        >>> round(predict(dim=256, alpha=2.0, optimizer="muon").recovered)
        1024
    """
    check_int("dim", dim, at_least=2)
    check_number("alpha", alpha, above=1.0, way_out="the sum of all frequencies is infinite otherwise")
    check_choice("optimizer", optimizer, OPTIMIZERS)
    if batch_size is not None:
        check_int("batch_size", batch_size, at_least=1)
    flat = optimizer != "sgd"
    capacity_exponent = (1.0 if flat else 0.0) + 1 / (2 * alpha)
    critical_exponent = alpha * capacity_exponent
    capacity = dim**capacity_exponent
    seen = math.inf if batch_size is None else batch_size ** (1 / alpha)
    recovered = min(capacity, seen)
    return Prediction(
        recovered=recovered,
        critical_batch_size=dim**critical_exponent,
        missed_mass=recovered ** (1 - alpha),
        limited_by="batch" if seen < capacity else "dimension",
        smoothing=smoothing(dim, alpha, batch_size) if optimizer == "muon" else None,
        capacity_exponent=capacity_exponent,
        critical_batch_exponent=critical_exponent,
    )


def smoothing(dim: int, alpha: float, batch_size: int | None = None, *, logs: bool = False) -> float:
    """``lambda`` that parts the items from the bulk of the gradient's spectrum: ``max(d^-alpha, 1/B)``.

    Args:
        dim: Dimension ``d``.
        alpha: Exponent of the frequencies.
        batch_size: Draws in the batch; the whole law where left out.
        logs: With the powers of the logarithm that the analysis uses, ``max((log d)^(2 alpha + 2) / d^alpha, (log d)^2 / B)``; at the
            sizes of a computer they are larger than what they multiply.
    """
    check_int("dim", dim, at_least=2)
    check_number("alpha", alpha, above=0.0)
    log = math.log(dim) if logs else 1.0
    from_batch = 0.0 if batch_size is None else log**2 / check_int("batch_size", batch_size, at_least=1)
    return max(float(log ** (2 * alpha + 2) / dim**alpha), from_batch)


def multi_step_exponents(alpha: float, num_steps: int, optimizer: str = "sgd") -> tuple[float, ...]:
    """Powers ``a_t`` of ``d`` in the number of items stored after ``t = 1 .. num_steps`` steps of the thresholded dynamics.

    Muon's are ``2 - (1 - 1/(2 alpha))^t``. SGD, with steps over the norm of its gradient, first takes ``a_t = t / (2 alpha)`` up to
    ``d`` items and closes on the limit ``d^2`` at Muon's rate from there on; it lags by about ``2 alpha`` steps.

    Args:
        alpha: Exponent of the frequencies, above 1.
        num_steps: Steps.
        optimizer: ``sgd`` or ``muon``.
    """
    check_number("alpha", alpha, above=1.0)
    check_int("num_steps", num_steps, at_least=1)
    check_choice("optimizer", optimizer, ("sgd", "muon"))
    gain, found, at = 1 / (2 * alpha), [], 0.0
    for _ in range(num_steps):
        before = 1.0 if optimizer == "muon" else at
        at = 2 - (1 - gain) * (2 - at) if at >= 1 else before + gain
        found.append(at)
    return tuple(found)
