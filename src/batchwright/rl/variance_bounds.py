"""Bounds of the variance of a policy gradient's single-trajectory estimate.

With ``|r| <= R``, ``E score² <= kappa`` whatever the state, and ``Z_t`` the sum of the scores up to ``t`` (a martingale, so
``E Z_t² <= kappa (t + 1)``), in one coordinate of the parameters, or over all of them with the norm's ``kappa``:

- REINFORCE: ``R² kappa H (sum_t gamma^t)²``, Papini et al. (2017).
- G(PO)MDP, ``cauchy-schwarz``: ``kappa R² (sum gamma^t)(sum gamma^t (t+1))``, because ``(sum gamma^t |Z_t|)²`` is at most
  ``(sum gamma^t)(sum gamma^t Z_t²)``.
- G(PO)MDP, ``minkowski``: ``kappa R² (sum gamma^t sqrt(t+1))²``, by the triangle inequality of the mean square; smaller. It holds for
  the best fixed baselines too, which shrink each term ``E Z_t² (gamma^t r_t - b)²`` by itself.
- G(PO)MDP, ``published``: the formula of Papini et al. (2017). **It is not a bound**: with ``phi = 1`` and rewards
  ``R xi sign(Z_t)``, ``xi`` a fair sign drawn at the start, the variance is 1.18 times it at discount .9 and horizon 20.
"""

import math

from batchwright.core.checks import check_choice, check_int, check_number

GPOMDP_FORMS = ("cauchy-schwarz", "minkowski", "published")


def reinforce_variance(*, reward_bound: float, kappa: float, discount: float, horizon: int) -> float:
    """Bound of the variance of one trajectory's REINFORCE estimate.

    Args:
        reward_bound: ``R``.
        kappa: Bound of the mean squared score.
        discount: ``gamma``, 1 included.
        horizon: ``H``.

    Raises:
        InputError: On a bad value.

    Example:
        >>> round(reinforce_variance(reward_bound=4.0, kappa=4.0, discount=0.9, horizon=20), 1)
        98768.3
    """
    _check(reward_bound, kappa, discount, horizon)
    return reward_bound**2 * kappa * horizon * math.fsum(discount**t for t in range(horizon)) ** 2


def gpomdp_variance(
    *, reward_bound: float, kappa: float, discount: float, horizon: int, form: str = "cauchy-schwarz"
) -> float:
    """Bound of the variance of one trajectory's G(PO)MDP estimate.

    Args:
        reward_bound: ``R``.
        kappa: Bound of the mean squared score.
        discount: ``gamma``, 1 included.
        horizon: ``H``.
        form: ``cauchy-schwarz``, ``minkowski``, or ``published``, which is not a bound.

    Raises:
        InputError: On a bad value.

    Example:
        >>> round(gpomdp_variance(reward_bound=4.0, kappa=4.0, discount=0.9, horizon=20), 1)
        35714.3
    """
    _check(reward_bound, kappa, discount, horizon)
    check_choice("form", form, GPOMDP_FORMS)
    powers = [discount**t for t in range(horizon)]
    if form == "published":
        # (gamma^k - gamma^H) / (1 - gamma) is the sum of gamma^t over k <= t < H, which holds at gamma = 1 too.
        total = math.fsum(math.fsum(powers[k:]) ** 2 for k in range(horizon))
    elif form == "minkowski":
        total = math.fsum(power * math.sqrt(t + 1) for t, power in enumerate(powers)) ** 2
    else:
        total = math.fsum(powers) * math.fsum(power * (t + 1) for t, power in enumerate(powers))
    return kappa * reward_bound**2 * total


def _check(reward_bound: float, kappa: float, discount: float, horizon: int) -> None:
    check_number("reward_bound", reward_bound, at_least=0.0)
    check_number("kappa", kappa, at_least=0.0)
    check_number("discount", discount, above=0.0, at_most=1.0)
    check_int("horizon", horizon, at_least=1)
