"""How far weights travel from where they began: distance against the logarithm, the root and a power of the number of steps.

Source: Hoffer, Hubara & Soudry (2017), Train longer, generalize better, arXiv:1705.08741, section 2: a walk in a random potential with
``E (L(w1) - L(w2))^2 ~ ||w1 - w2||^alpha`` travels ``d ~ (log t)^(2/alpha)``, a free walk ``d ~ sqrt(t)``; observed was ``d ~ log t``.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from batchwright.core.errors import InputError
from batchwright.core.statistics import Interval, student_quantile
from batchwright.measure.diffusion_family import Family, fit_family

Array = NDArray[np.float64]

LAWS = ("log", "square-root", "power", "log-power")
MIN_POINTS, MIN_SPAN = 8, 10.0
POWERS = np.linspace(0.02, 4.0, 399)


@dataclass(frozen=True, kw_only=True, slots=True)
class LawFit:
    """One law fitted to distances by least squares.

    Attributes:
        law: ``log``: ``a + b ln t``; ``square-root``: ``a + b sqrt(t)``; ``power``: ``b t^p``; ``log-power``: ``b (ln t)^p``.
        offset: ``a``, in units of the distance; 0 for laws without one.
        slope: ``b``.
        exponent: ``p``; of the logarithm and the root 1 and one half.
        r_squared: Share of the variance of the distances that the law explains.
    """

    law: str
    offset: float
    slope: Interval
    exponent: Interval
    r_squared: float

    def at(self, steps: Sequence[float]) -> list[float]:
        """Distances that the law has at ``steps``."""
        t = np.asarray(steps, dtype=np.float64)
        return [float(d) for d in self.offset + self.slope.value * _shape(self.law, self.exponent.value, t)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Diffusion:
    """Distances from the beginning with the laws that may describe them.

    Attributes:
        steps: Optimizer steps, rising, all at least 1.
        distances: Euclidean distance of the weights from where they began.
        laws: Fits by name.
        exponent: ``p`` of ``a + b (t^p - 1)/p``, of which the logarithm (``p = 0``) and the root (``p = 1/2``) are members: the one
            number by which they are told apart.
        decay: Rate by which the correlation of the scatter falls with each e-fold of the steps; intervals are as wide as it makes them.
        alpha: Exponent of the random potential that goes with the log-power law, ``2 / p``.
        told: What can be said, in a sentence.
    """

    steps: tuple[float, ...]
    distances: tuple[float, ...]
    laws: dict[str, LawFit]
    exponent: Interval
    decay: float
    alpha: Interval
    told: str

    @property
    def compatible(self) -> tuple[str, ...]:
        """Which of the logarithm and the root the exponent's interval holds."""
        ends = (("log", 0.0), ("square-root", 0.5))
        return tuple(law for law, value in ends if self.exponent.low <= value <= self.exponent.high)


def diffusion(steps: Sequence[float], distances: Sequence[float]) -> Diffusion:
    """Fit all laws to the distances of one run, and say which of logarithm and root they can be.

    Fits are least squares in the distance, as published. Intervals are those of a scatter that is proportional to the distance and
    correlated in ``log t`` (`diffusion_family`): a single run's points are far from independent. Points should be spaced
    evenly in ``log t``, at a constant learning rate and batch size.

    Args:
        steps: At least 8 step numbers, rising, from 1 on, the last at least ten times the first.
        distances: In the same order.

    Returns:
        The fits, with a sentence on what they say.

    Raises:
        InputError: If there are too few points, they span too little to tell a curve from a line, or nothing moved.

    Example:
        >>> steps = [2.0**k for k in range(12)]
        >>> diffusion(steps, [1 + 0.5 * math.log(t) for t in steps]).compatible
        ('log',)
    """
    t, d = np.asarray(steps, dtype=np.float64), np.asarray(distances, dtype=np.float64)
    if t.shape != d.shape or t.ndim != 1 or len(t) < MIN_POINTS:
        raise InputError(
            f"steps and distances must be {MIN_POINTS} or more pairs, got {t.shape} and {d.shape}; train longer or record more often"
        )
    if not (np.isfinite(t).all() and np.isfinite(d).all()) or t[0] < 1 or (np.diff(t) <= 0).any():
        raise InputError("steps must rise from 1 on and all numbers be finite, got others; leave out diverged ends")
    if t[-1] < MIN_SPAN * t[0]:
        raise InputError(
            f"steps must span a factor of at least {MIN_SPAN:g}, got {t[0]:g} to {t[-1]:g}: over less every law is a straight line"
        )
    if float(np.ptp(d)) <= 1e-9 * float(d.max()):
        raise InputError(f"distances must change, got {d[0]:g} at every step; is the learning rate zero?")
    family = fit_family(t, d)
    laws = {law: _fit(law, t, d, family) for law in LAWS}
    power = laws["log-power"].exponent
    found = Diffusion(
        steps=tuple(t.tolist()),
        distances=tuple(d.tolist()),
        laws=laws,
        exponent=family.exponent,
        decay=family.rate,
        alpha=Interval(
            value=2 / power.value,
            low=2 / power.high,
            high=2 / power.low if power.low > 0 else math.inf,
            level=power.level,
        ),
        told="",
    )
    return replace(found, told=_told(found))


def _told(found: Diffusion) -> str:
    p = found.exponent
    reach = f"exponent {p.value:.2g}, 95 % {p.low:.2g} to {p.high:.2g}"
    fits = f"R² {found.laws['log'].r_squared:.3f} and {found.laws['square-root'].r_squared:.3f}"
    if len(found.compatible) == 2:
        return f"log t and sqrt t cannot be told apart over these steps ({reach}; {fits})"
    if found.compatible == ("log",):
        return f"log t and not sqrt t ({reach}; {fits})"
    if found.compatible == ("square-root",):
        return f"sqrt t and not log t ({reach}; {fits})"
    where = "slower than log t" if p.high < 0 else "faster than sqrt t" if p.low > 0.5 else "between log t and sqrt t"
    nearer = "log t" if found.laws["log"].r_squared >= found.laws["square-root"].r_squared else "sqrt t"
    return f"neither log t nor sqrt t: {where}, nearer to {nearer} ({reach}; {fits})"


def _shape(law: str, exponent: float, t: Array) -> Array:
    if law == "log":
        return np.log(t)
    return np.asarray((np.log(t) if law == "log-power" else t) ** exponent)


def _fit(law: str, t: Array, d: Array, family: Family) -> LawFit:
    covariance = family.covariance
    if law == "log-power":  # the logarithm of the first step is 0
        t, d, covariance = t[t > 1], d[t > 1], covariance[t > 1][:, t > 1]
    fixed = law in ("log", "square-root")
    if fixed:
        power = 1.0 if law == "log" else 0.5
        jacobian = np.stack([_shape(law, power, t), np.ones_like(t)], axis=1)
        slope, offset = (float(each) for each in np.linalg.lstsq(jacobian, d, rcond=None)[0])
    else:
        shapes = np.stack([_shape(law, p, t) for p in POWERS])
        slopes = (shapes @ d) / (shapes**2).sum(axis=1)
        best = int((((d - slopes[:, None] * shapes) ** 2).sum(axis=1)).argmin())
        power, slope, offset = float(POWERS[best]), float(slopes[best]), 0.0
        base = np.log(t) if law == "log-power" else t
        jacobian = np.stack([shapes[best], slope * shapes[best] * np.log(base)], axis=1)
    inverse = np.linalg.pinv(jacobian)
    errors = np.sqrt(np.diag(inverse @ covariance @ inverse.T))
    quantile = student_quantile(0.95, family.dof)
    half = quantile * float(errors[0])
    reach = 0.0 if fixed else quantile * float(errors[1]) + float(POWERS[1] - POWERS[0]) / 2
    rest = d - offset - slope * _shape(law, power, t)
    return LawFit(
        law=law,
        offset=offset,
        slope=Interval(value=slope, low=slope - half, high=slope + half),
        exponent=Interval(value=power, low=max(power - reach, 0.0) if not fixed else power, high=power + reach),
        r_squared=1 - float((rest**2).sum()) / float(((d - d.mean()) ** 2).sum()),
    )
