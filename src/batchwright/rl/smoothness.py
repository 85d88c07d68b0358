"""The constant ``c`` of ``J(theta + u) - J(theta) >= <∇J, u> - c ‖u‖²``: how fast a return can bend.

Sources: Papini et al. (2017) (the first form); Papini et al. (2022) (the second); Yuan, Gower, Lazaric (2022), *A general sample
complexity analysis of vanilla policy gradient* (the third). Deviation: the finite horizon is kept in the third, which is smaller by a
factor that tends to one. The reward bound ``R`` is in all three; some public code drops it from the third, which only R = 1 allows.
"""

import math

from batchwright.core.checks import check_choice, check_number
from batchwright.core.errors import InputError
from batchwright.rl.policies import Smoothing

FORMS = ("finite-horizon", "infinite-horizon", "smoothing", "published")


def curvature(
    smoothing: Smoothing, *, reward_bound: float, discount: float, horizon: int, form: str = "finite-horizon"
) -> float:
    """Half the Lipschitz constant of the gradient, ``L / 2``.

    ``∇²J = E sum_t gamma^t r_t (Z_t Z_tᵀ + sum_{k<=t} ∇² log pi)``, so ``‖∇²J‖ <= R (kappa + xi) sum_{t<H} gamma^t (t + 1)``.

    Args:
        smoothing: Of the policy; that of one coordinate gives the constant of a move of one coordinate.
        reward_bound: ``R``.
        discount: ``gamma``.
        horizon: ``H``.
        form: ``finite-horizon``, as above; ``infinite-horizon``, its limit ``R (kappa + xi) / (1 - gamma)²``; ``smoothing``, the
            ``R/(1-gamma)² (2 gamma psi²/(1-gamma) + kappa + xi)`` of Papini et al. (2022).

    Raises:
        InputError: On a bad value, or a discount of one where the horizon does not enter.
    """
    check_choice("form", form, FORMS[:3])
    check_number("reward_bound", reward_bound, at_least=0.0)
    check_number("discount", discount, above=0.0, at_most=1.0)
    if form == "finite-horizon":
        weights = math.fsum(discount**t * (t + 1) for t in range(horizon))
        return 0.5 * reward_bound * (smoothing.kappa + smoothing.xi) * weights
    if discount == 1:
        raise InputError(f"discount must be below 1 for the form {form}, got 1; take the form finite-horizon")
    first = 2 * discount * smoothing.psi**2 / (1 - discount) if form == "smoothing" else 0.0
    return 0.5 * reward_bound / (1 - discount) ** 2 * (first + smoothing.kappa + smoothing.xi)


def published_curvature(
    *, reward_bound: float, feature_bound: float, std: float, action_volume: float, discount: float
) -> float:
    """The constant of Papini et al. (2017), for a Gaussian policy over one action and the penalty ``c ‖u‖₁²``.

    Args:
        reward_bound: ``R``.
        feature_bound: ``M``, of each feature.
        std: Standard deviation of the policy.
        action_volume: ``|A|``.
        discount: ``gamma``, below 1.

    Raises:
        InputError: On a bad value.

    Example:
        >>> value = published_curvature(reward_bound=5.0, feature_bound=2.0, std=0.1, action_volume=4.0, discount=0.9)
        >>> round(value, 3)
        4091538.243
    """
    check_number("reward_bound", reward_bound, at_least=0.0)
    check_number("std", std, above=0.0)
    check_number("discount", discount, above=0.0, below=1.0)
    scale = reward_bound * feature_bound**2 / ((1 - discount) * std) ** 2
    return scale * (action_volume / (math.sqrt(2 * math.pi) * std) + discount / (2 * (1 - discount)))
