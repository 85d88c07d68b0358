"""The exponent of ``a + b (t^p - 1)/p`` through the distances of one run, and the scatter that goes with it.

One run gives no independent draws: what pushed the weights far at one step is still there at the next, for about a factor of
``t``, and far points scatter more than near ones. A free walk of ``D`` dimensions has a closed form: ``log d`` is a stationary
process in ``log t``, of standard deviation ``1/sqrt(2 D)``. So the scatter is taken as a power of the distance, with a
correlation that decays exponentially in ``log t``; power and rate are found with the exponent by maximum likelihood.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from batchwright.core.statistics import Interval, student_quantile

Array = NDArray[np.float64]

EXPONENTS = np.linspace(-1.0, 1.5, 251)
# Decay of the correlation with each e-fold of the steps; at the last one neighbours have nothing in common.
RATES = np.geomspace(0.1, 100.0, 25)
# Scatter as a power of the distance: the same everywhere, or proportional to it, or between.
SCATTERS = (0.0, 0.5, 1.0)
# A distance this much smaller than the largest scatters no less than it would there: the first step may have none at all.
LEAST_SHARE = 1e-3
# Of twice the log-likelihood ratio: the one-sided 95 % quantile of one number.
LIKELY = 2.7
# Numbers that are fitted: offset, slope, exponent, and of the scatter its size, power and rate.
NUM_FITTED = 6


@dataclass(frozen=True, kw_only=True, slots=True)
class Family:
    """The exponent with its interval, and the scatter about the fitted curve.

    Attributes:
        exponent: ``p``; an end that the grid of exponents does not reach is infinite.
        rate: By which the correlation decays with each e-fold of the steps.
        covariance: Of the distances, ``(n, n)``.
        dof: Degrees of freedom that are left.
    """

    exponent: Interval
    rate: float
    covariance: Array
    dof: float


def box_cox(exponent: float, t: Array) -> Array:
    """``(t^p - 1)/p``, which goes over into the logarithm at 0."""
    return np.asarray(np.log(t) if abs(exponent) < 1e-9 else (t**exponent - 1) / exponent)


def fit_family(t: Array, d: Array) -> Family:
    """Fit exponent and scatter; the interval of the exponent is that of the likelihood ratio, by an F test.

    Args:
        t: Steps, rising from 1 on.
        d: Distances, not all the same.
    """
    curves = np.stack([box_cox(p, t) for p in EXPONENTS])
    share = np.maximum(d / d.max(), LEAST_SHARE)
    noises = [(share**scatter, rate) for scatter in SCATTERS for rate in RATES]
    curves /= curves[:, -1:] - curves[:, :1]
    squares, information = np.moveaxis(np.array([_squares(t, d, curves, scale, rate) for scale, rate in noises]), 1, 0)
    volume = np.array([np.log(scale).sum() + np.log(_decay(t, rate)[1]).sum() for scale, rate in noises])
    # Restricted likelihood: what the two fitted numbers of the line take from the scatter is given back to it.
    criterion = (len(t) - 2) * np.log(squares) + 2 * volume[:, None] + information
    profile = criterion.min(axis=0)
    best = int(profile.argmin())
    # Likelihood likes its scatter short-lived: of all that it does not tell apart, the longest-lived is the honest one.
    likely = np.flatnonzero(criterion[:, best] <= profile[best] + LIKELY)
    row = int(min(likely, key=lambda index: (noises[index][1], criterion[index, best])))
    scale, rate = noises[row]
    dof = float(max(len(t) - NUM_FITTED, 1))
    allowed = profile[best] + (len(t) - 2) * math.log1p(student_quantile(0.95, dof) ** 2 / dof)
    inside = np.flatnonzero(profile <= allowed)
    gap = float(EXPONENTS[1] - EXPONENTS[0]) / 2  # between two exponents of the grid nothing was tried
    log_t = np.log(t)
    correlation = np.exp(-rate * np.abs(log_t[:, None] - log_t[None, :]))
    return Family(
        exponent=Interval(
            value=float(EXPONENTS[best]),
            low=-math.inf if inside[0] == 0 else float(EXPONENTS[inside[0]]) - gap,
            high=math.inf if inside[-1] == len(EXPONENTS) - 1 else float(EXPONENTS[inside[-1]]) + gap,
        ),
        rate=float(rate),
        covariance=correlation * np.outer(scale, scale) * squares[row, best] / dof,
        dof=dof,
    )


def _squares(t: Array, d: Array, curves: Array, scale: Array, rate: float) -> tuple[Array, Array]:
    """Weighted sum of squares about the best line in each curve, one an exponent; and the log-determinant of the line's information."""
    kept, fresh = _decay(t, rate)
    one, curve, seen = (_whiten(z / scale, kept, fresh) for z in (np.ones_like(t), curves, d))
    length = float(np.linalg.norm(one))
    unit = one / length
    curve = curve - (curve @ unit)[:, None] * unit
    rest = seen - (seen @ unit) * unit
    spread = (curve**2).sum(axis=1)
    slope = (curve @ rest) / spread
    # Rounding is scatter too: without it a perfect fit has none, and no two exponents would differ by it.
    square = ((rest - slope[:, None] * curve) ** 2).sum(axis=1) + len(t) * (1e-9 * d.max()) ** 2
    return square, np.log(spread) + 2 * math.log(length)


def _decay(t: Array, rate: float) -> tuple[Array, Array]:
    """What is left of the scatter of one point at the next, and the share of each point's that is new."""
    kept = np.exp(-rate * np.diff(np.log(t)))
    return kept, np.concatenate([[1.0], np.sqrt(1 - kept**2)])


def _whiten(z: Array, kept: Array, fresh: Array) -> Array:
    new = z.copy()
    new[..., 1:] -= kept * z[..., :-1]
    return np.asarray(new / fresh)
