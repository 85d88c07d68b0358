"""The regime that a run for a budget of tokens is in, from measured constants and with their uncertainty.

Source: Islamov et al. (2026), arXiv:2603.21191, the BST corollary and its three regimes (papers-2026, 3.4). The regimes depend on the
constants through one number, ``q = mu rho sigma_* / L``: with ``B S`` tokens in a step and ``T`` in all, the noise rules below ``q^2``,
and steps are too few above ``(T q)^(2/3)``.
"""

import math
from dataclasses import dataclass

from batchwright.core.statistics import Interval
from batchwright.measure.conditional_gradient import ConditionalGradientConstants
from batchwright.planning.log_normal import inverse, product
from batchwright.planning.scg_bound import ScgConstants, bst_regime

REGIMES = ("noise", "flat", "steps")
TOLD = {
    "noise": "the noise rules: more tokens in a step would lower the loss",
    "flat": "flat: the tokens of a step may be more or fewer at the same loss",
    "steps": "too few steps are left: fewer tokens in a step would lower the loss",
}
# The paper's thresholds leave out the numbers in front of the terms of its bound (papers-2026, 3.4: 128 e^3c, 128 e^6c 32^2 and
# 32 e^3c/2). With them the lower one is 2^-4 e^-3c of what it is without, the upper one 2^-4/3 e^-c, where c > 0 is step size
# times steps.
CONSTANTS_TOLD = (
    "the thresholds leave out the numbers of the bound, as the paper does, which put the lower one at most at 1/16 of it and the "
    "upper at most at 0.40 of it"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenRegime:
    """Which of the three regimes, and how sure.

    Attributes:
        name: ``noise``, ``flat`` or ``steps``; None where the interval of the constants spans two, or one of them was not measured.
        candidates: The regimes that the interval of the constants allows.
        noise_threshold: Tokens in a step below which the noise rules, ``q^2``.
        steps_threshold: Tokens in a step above which too few steps are left, ``(T q)^(2/3)``.
        batch_tokens: Tokens in a step of the plan.
        tokens: Of the whole run.
    """

    name: str | None
    candidates: tuple[str, ...]
    noise_threshold: Interval
    steps_threshold: Interval
    batch_tokens: int
    tokens: int

    @property
    def told(self) -> str:
        """The regime in a sentence, with both thresholds."""
        if math.isnan(self.noise_threshold.value):
            return (
                "not enough evidence: a constant of the bound was not resolved from zero; raise the budget of measuring"
            )
        where = (
            f"{self.batch_tokens:,} tokens in a step; the noise rules below {_told(self.noise_threshold)}, steps are too few above "
            f"{_told(self.steps_threshold)}"
        )
        if self.name is None:
            return f"not settled, {' or '.join(self.candidates)}: {where}; {CONSTANTS_TOLD}"
        return f"{TOLD[self.name]}; {where}; {CONSTANTS_TOLD}"


def token_regime(
    found: ConditionalGradientConstants, *, batch_size: int, sequence_length: int, tokens: int
) -> TokenRegime:
    """The regime of a run of ``tokens`` with ``batch_size`` sequences of ``sequence_length`` tokens in a step.

    The four constants are taken as independent and log-normal. They were measured along one run, so their errors are not quite
    independent.

    Args:
        found: Measured constants, in one norm.
        batch_size: Sequences in a step.
        sequence_length: Tokens in a sequence.
        tokens: Of the whole run.
    """
    batch_tokens = batch_size * sequence_length
    ratio = noise_ratio(found, sequence_length=sequence_length)
    if ratio is None:
        unknown = Interval(value=math.nan, low=0.0, high=math.inf)
        return TokenRegime(
            name=None,
            candidates=REGIMES,
            noise_threshold=unknown,
            steps_threshold=unknown,
            batch_tokens=batch_tokens,
            tokens=tokens,
        )
    ends = [regime_at(value, batch_tokens=batch_tokens, tokens=tokens) for value in (ratio.low, ratio.high)]
    # Along q the regime goes from steps over flat to noise, so the ends and what lies between them are all there can be.
    first, last = (REGIMES[::-1].index(name) for name in ends)
    middle = regime_at(ratio.value, batch_tokens=batch_tokens, tokens=tokens)
    inside = {middle, *ends}
    if last - first == 2:
        inside.add("flat")
    candidates = tuple(name for name in REGIMES if name in inside)
    return TokenRegime(
        name=candidates[0] if len(candidates) == 1 else None,
        candidates=candidates,
        noise_threshold=_power(ratio, 2.0),
        steps_threshold=_power(ratio.scaled(float(tokens)), 2 / 3),
        batch_tokens=batch_tokens,
        tokens=tokens,
    )


def noise_ratio(found: ConditionalGradientConstants, *, sequence_length: int) -> Interval | None:
    """``q = mu rho sigma_* / L``, in roots of tokens; None where a constant was not measured or is not positive.

    ``sigma_*`` is that of one token, ``sqrt(S)`` times that of one sequence, whose gradient is a mean over its tokens.
    """
    parts = (found.mu, found.rho, found.sigma.scaled(math.sqrt(sequence_length)), found.smoothness)
    if not all(math.isfinite(part.value) and part.value > 0 for part in parts):
        return None
    mu, rho, sigma, smoothness = (_positive(part) for part in parts)
    return product(product(mu, rho), product(sigma, inverse(smoothness)))


def regime_at(ratio: float, *, batch_tokens: float, tokens: float) -> str:
    """The regime for one value of ``q``: the largest of the three terms of the bound.

    Where ``q`` is so large that there is no flat part (above the root of the tokens), the noise and the steps meet at ``q^(6/7)
    tokens^(4/7)``.

    Example:
        >>> [regime_at(10.0, batch_tokens=size, tokens=1e6) for size in (50, 5000, 500_000)]
        ['noise', 'flat', 'steps']
    """
    if ratio <= 0:
        return "steps"
    if math.isinf(ratio):
        return "noise"
    if ratio * ratio >= tokens:
        return "noise" if batch_tokens < ratio ** (6 / 7) * tokens ** (4 / 7) else "steps"
    return bst_regime(ScgConstants(mu=ratio), tokens=tokens, batch_tokens=batch_tokens)


def _positive(interval: Interval) -> Interval:
    """With its lower end at zero where that was below."""
    return Interval(value=interval.value, low=max(interval.low, 0.0), high=interval.high, level=interval.level)


def _power(interval: Interval, exponent: float) -> Interval:
    value, low, high = (end**exponent for end in (interval.value, interval.low, interval.high))
    return Interval(value=value, low=low, high=high, level=interval.level)


def _told(interval: Interval) -> str:
    return f"{interval.value:,.0f} ({interval.low:,.0f} to {interval.high:,.0f})"
