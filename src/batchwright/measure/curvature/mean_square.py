"""Mean-square stability of SGD with momentum on one noisy curvature: second moments of the iterate must not grow.

The gradient is ``h * theta`` with ``h`` drawn afresh each step, mean ``curvature_mean`` and variance ``curvature_variance``. With
``m = lr * mean`` and ``tau^2 = lr^2 * variance`` the state's three second moments follow a linear map, and the iterate is stable in
mean square exactly where

    heavy ball   (1+b) tau^2 < (1-b) m (2(1+b) - m),   that is   lr [mean/(2(1+b)) + (variance/mean)/(2(1-b))] < 1
    Nesterov     tau^2 < m (1-b+b m) (2(1+b) - (1+2b) m) / (1+b + b(1+2b) m)

with momentum ``b``. So the mean of the curvature is limited by ``2(1+b)/lr``, Nesterov's by ``2(1+b)/((1+2b) lr)``, and its noise,
variance over mean, by ``2(1-b)/lr``. These are the two levels at which Andreyev et al. (2026), arXiv:2604.14108, see batch sharpness
settle at large and at small batch size; the boundary between them is derived here and tested against the spectral radius.
"""

import math

import numpy as np
from numpy.typing import NDArray

from batchwright.core.checks import check_choice, check_number

Array = NDArray[np.float64]
FORMS = ("ema", "torch")


def thresholds(*, lr: float, momentum: float, nesterov: bool = False) -> tuple[float, float]:
    """The levels ``2(1-b)/lr`` and ``2(1+b)/lr``, Nesterov's ``2(1+b)/((1+2b) lr)``: limits of noise alone and of the mean alone.

    Args:
        lr: Learning rate in torch's form.
        momentum: In [0, 1).
        nesterov: Whether the step is Nesterov's in torch's form.

    Raises:
        InputError: If ``lr`` is not positive or ``momentum`` not in [0, 1).
    """
    check_number("lr", lr, above=0.0)
    check_momentum(momentum)
    divisor = 1 + 2 * momentum if nesterov else 1.0
    return 2 * (1 - momentum) / lr, 2 * (1 + momentum) / (divisor * lr)


def torch_lr(lr: float, momentum: float, form: str = "torch") -> float:
    """The learning rate in torch's form, in which a new gradient enters the momentum buffer with weight one.

    The other form, ``ema``, is ``v <- b v + (1-b) g``: Adam's, and torch's with ``dampening`` equal to ``momentum``. Its steps are
    those of torch's form at ``lr * (1-b)``.

    Raises:
        InputError: If ``form`` is neither.
    """
    check_choice("form", form, FORMS)
    return lr * (1 - momentum) if form == "ema" else lr


def max_stable_lr(
    *, curvature_mean: float, curvature_variance: float = 0.0, momentum: float = 0.0, nesterov: bool = False
) -> float:
    """Largest learning rate, in torch's form, at which one noisy curvature is stable in mean square.

    Args:
        curvature_mean: Positive.
        curvature_variance: Variance from one step's batch to the next, in the squared unit of the mean; of per-example variance
            ``v`` it is ``v / batch_size`` for batches drawn afresh.
        momentum: In [0, 1).
        nesterov: Whether the step is Nesterov's in torch's form.

    Raises:
        InputError: If an argument is out of its range.

    Example:
        >>> max_stable_lr(curvature_mean=1.0, momentum=0.9)
        3.8
    """
    mean = check_number("curvature_mean", curvature_mean, above=0.0, way_out="no learning rate is stable below")
    noise = check_number("curvature_variance", curvature_variance, at_least=0.0) / mean**2
    beta = check_momentum(momentum)
    if not nesterov:
        return 2 * (1 - beta**2) / ((1 - beta) + (1 + beta) * noise) / mean
    # Both sides of the boundary over lr make a quadratic in lr * mean with one positive root.
    a = beta * (1 + 2 * beta) * (1 + noise)
    b = noise * (1 + beta) + (1 - beta) * (1 + 2 * beta) - 2 * beta * (1 + beta)
    c = 2 * (1 - beta**2)
    root = math.sqrt(b * b + 4 * a * c)
    # The form without cancellation, which also holds at a = 0.
    scaled = 2 * c / (b + root) if b > 0 else (root - b) / (2 * a)
    return scaled / mean


def crossover_batch_size(*, effective_dimension: float, momentum: float = 0.0, nesterov: bool = False) -> float:
    """Batch size, in examples, at which the largest stable learning rate is half of its full-batch limit.

    ``effective_dimension * (1+b)/(1-b)`` for heavy ball, ``effective_dimension * (1+b)^2/(1+2b-b^2)`` for Nesterov: momentum moves the
    one out like ``1/(1-b)`` and the other by a factor of two at most.

    Args:
        effective_dimension: Variance of the curvature from example to example over its squared mean.
        momentum: In [0, 1).
        nesterov: Whether the step is Nesterov's in torch's form.

    Raises:
        InputError: If an argument is out of its range.
    """
    dimension = check_number("effective_dimension", effective_dimension, above=0.0)
    beta = check_momentum(momentum)
    if nesterov:
        return dimension * (1 + beta) ** 2 / (1 + 2 * beta - beta**2)
    return dimension * (1 + beta) / (1 - beta)


def second_moment_matrix(
    *, lr: float, curvature_mean: float, curvature_variance: float, momentum: float, nesterov: bool = False
) -> Array:
    """The map of three second moments of the state over one step, shape ``(3, 3)``.

    For heavy ball the state is the iterate and the one before it; for Nesterov the iterate and ``lr`` times the momentum buffer. The
    moments are those of the first, the product, and the second.

    Raises:
        InputError: If ``lr`` or ``curvature_variance`` is negative, ``momentum`` not in [0, 1), or a number not finite.
    """
    rate = check_number("lr", lr, at_least=0.0)
    a = rate * check_number("curvature_mean", curvature_mean)
    noise = rate**2 * check_number("curvature_variance", curvature_variance, at_least=0.0)
    beta = check_momentum(momentum)
    if not nesterov:
        keep = 1 + beta - a
        return np.array([[keep**2 + noise, -2 * keep * beta, beta**2], [keep, -beta, 0.0], [1.0, 0.0, 0.0]])
    # p' = (1 - (1+b) u) p - b^2 w and w' = u p + b w, with E u = a and E u^2 = a^2 + noise.
    square = a**2 + noise
    return np.array(
        [
            [1 - 2 * (1 + beta) * a + (1 + beta) ** 2 * square, -2 * beta**2 * (1 - (1 + beta) * a), beta**4],
            [a - (1 + beta) * square, beta * (1 - (1 + beta) * a) - beta**2 * a, -(beta**3)],
            [square, 2 * beta * a, beta**2],
        ]
    )


def second_moment_growth(
    *, lr: float, curvature_mean: float, curvature_variance: float, momentum: float, nesterov: bool = False
) -> float:
    """Factor by which second moments grow in one step in the long run: the spectral radius of `second_moment_matrix`.

    Raises:
        InputError: As `second_moment_matrix`.
    """
    matrix = second_moment_matrix(
        lr=lr,
        curvature_mean=curvature_mean,
        curvature_variance=curvature_variance,
        momentum=momentum,
        nesterov=nesterov,
    )
    return float(np.abs(np.linalg.eigvals(matrix)).max())


def check_momentum(momentum: float) -> float:
    """Return ``momentum`` if it lies in [0, 1).

    Raises:
        InputError: Otherwise.
    """
    return check_number("momentum", momentum, at_least=0.0, below=1.0)
