"""The convergence bound of momentum stochastic conditional gradient, from which the token-budget rule comes.

Source: Islamov et al. (2026), arXiv:2603.21191, the unrolled bound and the BST corollary. Notation of the paper: step size
``beta = c / K``, radius ``eta`` of the norm ball, weight ``alpha`` of the new gradient in the momentum average, ``K = T / BS`` steps.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from batchwright.core.checks import check_number


@dataclass(frozen=True, kw_only=True, slots=True)
class ScgConstants:
    """Constants of a problem.

    Attributes:
        smoothness: ``L``: the gradient's dual norm changes by at most this times the distance.
        mu: Of the Kurdyka-Lojasiewicz condition ``||grad f||_* >= mu (f - f*)``.
        rho: ``||x||_* <= rho ||x||_2``.
        sigma: Root of the variance of the gradient of one token, in the Euclidean norm.
        gap: ``f(x_0) - f*``.
    """

    smoothness: float = 1.0
    mu: float = 1.0
    rho: float = 1.0
    sigma: float = 1.0
    gap: float = 1.0

    def __post_init__(self) -> None:
        for name in ("smoothness", "mu", "rho", "sigma", "gap"):
            check_number(name, getattr(self, name), above=0.0)


def unrolled_bound(
    constants: ScgConstants,
    *,
    tokens: ArrayLike,
    batch_tokens: ArrayLike,
    c: ArrayLike,
    eta: ArrayLike,
    alpha: ArrayLike,
) -> NDArray[np.float64]:
    """Bound on ``E f(x_K) - f*`` after all tokens; the arguments broadcast, and it is ``inf`` where it does not hold.

    Args:
        constants: Of the problem.
        tokens: Token budget ``T``.
        batch_tokens: Tokens in a step, ``BS``.
        c: Step size times number of steps; at most half the number of steps.
        eta: Radius of the ball.
        alpha: Weight of the new gradient, above 0 and at most 1.
    """
    budget, step_tokens, c, eta, alpha = (
        np.asarray(value, dtype=np.float64) for value in (tokens, batch_tokens, c, eta, alpha)
    )
    num_steps = budget / step_tokens
    beta = c / num_steps
    noise = constants.rho * constants.sigma / np.sqrt(step_tokens)
    inflation = np.exp(1.5 * c)
    rate = constants.mu * beta * eta / (2 * inflation)
    with np.errstate(over="ignore", invalid="ignore"):
        start = constants.gap * np.exp(num_steps * np.log1p(-np.minimum(rate, 1 - 1e-16)))
        bound = (
            start
            + 2 * beta * eta * noise / alpha
            + 4 * noise * np.sqrt(alpha) / constants.mu * inflation
            + 4 * constants.smoothness * beta * eta / constants.mu * inflation
            + 8 * constants.smoothness * beta * eta / (alpha * constants.mu) * inflation
        )
    return np.asarray(np.where((rate < 1) & (num_steps >= 2 * c), bound, np.inf))


def bst_error(constants: ScgConstants, *, tokens: float, batch_tokens: float) -> float:
    """Error that the best parameters reach, up to numerical constants and logarithms: the largest of three terms.

    Example:
        >>> round(bst_error(ScgConstants(sigma=100.0), tokens=1e9, batch_tokens=1e6), 6)
        0.021544
    """
    k = constants
    starved = k.smoothness * batch_tokens / (k.mu**2 * tokens)
    flat = float((k.smoothness * (k.rho * k.sigma) ** 2 / (k.mu**4 * tokens)) ** (1 / 3))
    noisy = float(k.rho * k.sigma / (k.mu * (tokens**2 * batch_tokens) ** (1 / 6)))
    return max(starved, flat, noisy)


def bst_thresholds(constants: ScgConstants, *, tokens: float) -> tuple[float, float]:
    """Tokens in a step at which the error stops falling with the batch, and at which it starts to rise; the rule sits at the second."""
    ratio = constants.mu * constants.rho * constants.sigma / constants.smoothness
    return ratio**2, (tokens * ratio) ** (2 / 3)


def bst_regime(constants: ScgConstants, *, tokens: float, batch_tokens: float) -> str:
    """``noise`` (more tokens in a step help), ``flat`` (they cost nothing) or ``steps`` (too few steps are left)."""
    low, high = bst_thresholds(constants, tokens=tokens)
    if batch_tokens > high:
        return "steps"
    return "noise" if batch_tokens < low else "flat"
