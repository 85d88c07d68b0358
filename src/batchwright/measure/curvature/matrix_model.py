"""Mean-square stability of heavy ball when the Hessian itself is random: noise couples the directions of the mean Hessian.

``theta`` takes heavy-ball steps with ``H_t`` drawn afresh, mean ``Sigma = diag(lambda)`` and noise operator
``N(X) = E[(H - Sigma) X (H - Sigma)]``. With ``a_i = 1 + b - lr lambda_i`` and momentum ``b``

    1/kappa_ij = 1 - a_i a_j - b^2 + b (a_i^2 + a_j^2 - 2 b a_i a_j) / (1 - b^2)

it is stable in mean square exactly where ``X -> lr^2 kappa * N(X)`` (elementwise product) has spectral radius below one and every
``lr lambda_i`` is below ``2(1+b)``. The diagonal alone is the boundary of `mean_square`. Derived here, tested against the spectral
radius of the second moments of the whole state.
"""

import numpy as np
from numpy.typing import NDArray

from batchwright.core.checks import check_number
from batchwright.core.errors import InputError
from batchwright.measure.curvature.mean_square import check_momentum

Array = NDArray[np.float64]
MAX_DIM = 48


def second_moment_gain(curvatures: Array, *, lr: float, momentum: float = 0.0) -> Array:
    """``kappa``, shape ``(D, D)``: how much of a steady noise second moment gathers in each pair of directions.

    Args:
        curvatures: Eigenvalues of the mean Hessian, shape ``(D,)``, each between 0 and ``2(1+b)/lr``.
        lr: Learning rate in torch's form.
        momentum: In [0, 1).

    Raises:
        InputError: If an argument is out of its range; outside of it the mean itself grows.
    """
    rate, beta = check_number("lr", lr, above=0.0), check_momentum(momentum)
    values = np.asarray(curvatures, dtype=np.float64)
    limit = 2 * (1 + beta) / rate
    if not ((values > 0) & (values < limit)).all():
        raise InputError(
            f"curvatures must lie between 0 and {limit:g} at lr={rate:g} and momentum={beta:g}, got "
            f"{values.min():g} to {values.max():g}; the mean step is unstable outside, or flat"
        )
    a = 1 + beta - rate * values
    products, squares = np.outer(a, a), np.add.outer(a**2, a**2)
    return np.asarray(1 / (1 - products - beta**2 + beta * (squares - 2 * beta * products) / (1 - beta**2)))


def noise_gain(hessians: Array, *, lr: float, momentum: float = 0.0) -> float:
    """Spectral radius of ``X -> lr^2 kappa * N(X)``: below one the steps are stable in mean square.

    Args:
        hessians: Equally likely batch Hessians, shape ``(n, D, D)``, symmetric.
        lr: Learning rate in torch's form.
        momentum: In [0, 1).

    Returns:
        The spectral radius; ``inf`` where the mean step alone is unstable.

    Raises:
        InputError: If the shape is another, or ``D`` above 48: the operator is a matrix of ``D^2`` rows.
    """
    values = np.asarray(hessians, dtype=np.float64)
    if values.ndim != 3 or values.shape[1] != values.shape[2] or not 1 <= values.shape[1] <= MAX_DIM:
        raise InputError(
            f"hessians must have shape (n, D, D) with D at most {MAX_DIM}, got {values.shape}; project them on fewer directions"
        )
    check_momentum(momentum)
    mean = values.mean(axis=0)
    curvatures, vectors = np.linalg.eigh(mean)
    if lr * curvatures.max() >= 2 * (1 + momentum):
        return float("inf")
    centred = vectors.T @ (values - mean) @ vectors
    dim = len(curvatures)
    operator = np.einsum("nij,nkl->ikjl", centred, centred).reshape(dim * dim, dim * dim) / len(values)
    gain = second_moment_gain(curvatures, lr=lr, momentum=momentum).reshape(-1, 1)
    return float(np.abs(np.linalg.eigvals(lr**2 * gain * operator)).max())
