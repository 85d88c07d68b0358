"""The regime of a run: the largest term of the bound, closed thresholds, and nothing claimed that the interval does not hold."""

import math

import numpy as np
import pytest

from batchwright.core.statistics import Interval
from batchwright.measure import ConditionalGradientConstants
from batchwright.planning import ScgConstants, bst_error
from batchwright.planning.token_regime import noise_ratio, regime_at, token_regime


def near(value: float, factor: float = 1.0) -> Interval:
    return Interval(value=value, low=value / factor, high=value * factor)


ONE = near(1.0)


def constants(*, smoothness=ONE, mu=ONE, rho=ONE, sigma=ONE) -> ConditionalGradientConstants:
    return ConditionalGradientConstants(
        smoothness=smoothness,
        smoothness_two_batches=smoothness,
        mu=mu,
        rho=rho,
        sigma=sigma,
        batch_size=8,
        num_steps=100,
        num_gradients=200,
        first_loss=1.0,
        last_loss=0.5,
    )


def terms(k: ScgConstants, *, tokens: float, batch_tokens: float) -> dict[str, float]:
    """The three terms of the corollary, written out once more (papers-2026, 3.4)."""
    return {
        "steps": k.smoothness * batch_tokens / (k.mu**2 * tokens),
        "flat": (k.smoothness * k.rho**2 * k.sigma**2 / (k.mu**4 * tokens)) ** (1 / 3),
        "noise": k.rho * k.sigma / (k.mu * (tokens**2 * batch_tokens) ** (1 / 6)),
    }


def test_the_regime_is_the_largest_term_of_the_bound():
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(3000):
        smoothness, mu, rho, sigma = np.exp(rng.uniform(-6, 6, 4))
        tokens = float(np.exp(rng.uniform(5, 25)))
        batch_tokens = tokens ** float(rng.uniform(0, 0.99))
        k = ScgConstants(smoothness=smoothness, mu=mu, rho=rho, sigma=sigma)
        found = terms(k, tokens=tokens, batch_tokens=batch_tokens)
        assert max(found.values()) == pytest.approx(bst_error(k, tokens=tokens, batch_tokens=batch_tokens))
        largest = max(found, key=lambda name: found[name])
        assert regime_at(mu * rho * sigma / smoothness, batch_tokens=batch_tokens, tokens=tokens) == largest
        seen.add((largest, (mu * rho * sigma / smoothness) ** 2 > tokens))
    # All three with a flat part, and the two that are left without one.
    assert seen >= {("noise", False), ("flat", False), ("steps", False), ("noise", True)}


def test_where_nothing_is_flat_noise_meets_steps_at_its_own_point():
    tokens, ratio = 1e4, 1e3
    k = ScgConstants(mu=ratio)
    edge = ratio ** (6 / 7) * tokens ** (4 / 7)
    found = terms(k, tokens=tokens, batch_tokens=edge)
    assert found["noise"] == pytest.approx(found["steps"])
    assert found["noise"] > found["flat"]
    assert regime_at(ratio, batch_tokens=0.99 * edge, tokens=tokens) == "noise"
    assert regime_at(ratio, batch_tokens=1.01 * edge, tokens=tokens) == "steps"


def test_thresholds_are_those_of_the_paper_in_tokens():
    # sigma of one token is sqrt(S) that of an example: q = 2 * 3 * (5 * 4) / 6 = 20.
    known = constants(mu=near(2.0), rho=near(3.0), sigma=near(5.0), smoothness=near(6.0))
    found = token_regime(known, batch_size=100, sequence_length=16, tokens=1_000_000)
    assert found.noise_threshold.value == pytest.approx(400)
    assert found.steps_threshold.value == pytest.approx((20 * 1e6) ** (2 / 3))
    assert (found.name, found.candidates) == ("flat", ("flat",))
    assert "1,600 tokens in a step; the noise rules below 400 (400 to 400)" in found.told


@pytest.mark.parametrize(("batch_size", "name"), [(1, "noise"), (1000, "flat"), (10**6, "steps")])
def test_each_regime_is_named(batch_size, name):
    found = token_regime(constants(sigma=near(20.0, 1.1)), batch_size=batch_size, sequence_length=1, tokens=10_000_000)
    assert found.name == name


def test_intervals_of_the_constants_add_in_the_logarithm():
    wide = constants(mu=near(2.0, 2.0), rho=near(3.0, 3.0), sigma=near(1.0, 1.5), smoothness=near(1.0, 2.0))
    found = noise_ratio(wide, sequence_length=1)
    spread = math.sqrt(sum(math.log(factor) ** 2 for factor in (2.0, 3.0, 1.5, 2.0)))
    assert found.value == pytest.approx(6.0)
    assert found.high == pytest.approx(6.0 * math.exp(spread))
    regime = token_regime(wide, batch_size=1, sequence_length=1, tokens=10**6)
    assert regime.noise_threshold.low == pytest.approx((6.0 * math.exp(-spread)) ** 2)


@pytest.mark.parametrize(
    ("factor", "batch_size", "candidates"),
    [
        (1.01, 450, ("flat",)),
        (1.2, 450, ("noise", "flat")),
        (1.2, 75_000, ("flat", "steps")),
        (1e6, 450, ("noise", "flat", "steps")),
    ],
)
def test_an_interval_over_a_threshold_leaves_the_regime_open(factor, batch_size, candidates):
    found = token_regime(
        constants(sigma=near(20.0, factor)), batch_size=batch_size, sequence_length=1, tokens=1_000_000
    )
    assert found.candidates == candidates
    assert found.name == (candidates[0] if len(candidates) == 1 else None)
    if found.name is None:
        assert found.told.startswith(f"not settled, {' or '.join(candidates)}: ")


@pytest.mark.parametrize(
    "changes",
    [
        {"mu": Interval(value=-1.0, low=-2.0, high=1.0)},
        {"mu": Interval(value=math.nan, low=-math.inf, high=math.inf)},
        {"sigma": near(0.0)},
    ],
)
def test_a_constant_that_was_not_measured_names_no_regime(changes):
    found = token_regime(constants(**changes), batch_size=8, sequence_length=4, tokens=10**6)
    assert found.name is None
    assert found.candidates == ("noise", "flat", "steps")
    assert found.told.startswith("not enough evidence")


def test_a_constant_whose_interval_reaches_zero_excludes_no_lower_regime():
    known = constants(mu=Interval(value=20.0, low=-1.0, high=30.0))
    found = token_regime(known, batch_size=1000, sequence_length=1, tokens=10**6)
    assert found.candidates == ("flat", "steps")
    assert found.noise_threshold.low == 0.0
