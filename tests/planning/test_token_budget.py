"""The token-budget rule against the published numbers, and the bound it comes from against its closed form."""

import itertools
import math

import numpy as np
import pytest

from batchwright.core.errors import InputError
from batchwright.planning import (
    ScgConstants,
    TokenBudget,
    bst_error,
    bst_regime,
    bst_thresholds,
    token_budget,
    unrolled_bound,
)

BASE = TokenBudget(batch_size=256, sequence_length=1024, lr=3.6e-4, tokens=1.3e9)
RHO = {"rho_exponent": 0.1, "rho_shift": 9.4}


@pytest.mark.parametrize(
    ("ratio", "batch_size", "lr", "unrounded_lr"),
    [(2, 416, 3.0e-4, 2.96e-4), (4, 672, 2.4e-4, 2.43e-4), (6, 896, 2.1e-4, 2.16e-4), (8.065, 1120, 1.95e-4, None)],
)
def test_the_published_transfers_are_reproduced(ratio, batch_size, lr, unrounded_lr):
    found = token_budget(base=BASE, tokens=ratio * BASE.tokens, multiple_of=32, **RHO)
    assert found.batch_size == batch_size
    # The paper prints two digits; the step size here follows the rounded batch size.
    assert found.lr == pytest.approx(lr, rel=0.03)
    if unrounded_lr is not None:
        assert token_budget(base=BASE, tokens=ratio * BASE.tokens, **RHO).lr == pytest.approx(unrounded_lr, rel=0.003)


def test_the_published_constants_of_the_larger_model_give_the_published_factors():
    found = token_budget(
        base=BASE,
        tokens=8.065 * BASE.tokens,
        mu_ratio=2.9 / 3.1,
        rho_ratio=111.9 / 62.7,
        smoothness_ratio=10.6 / 7.2,
    )
    assert found.batch_size / 256 == pytest.approx(4.37, rel=0.005)
    assert found.lr / BASE.lr == pytest.approx(0.54, rel=0.01)
    powers = token_budget(base=BASE, tokens=10.8e9, rounding="power-of-two")
    assert powers.batch_size == 4 * 256
    assert powers.lr / BASE.lr == pytest.approx(0.5, rel=0.04)


@pytest.mark.parametrize(("rule", "exponent"), [("bst", 2 / 3), ("square-root", 1 / 2)])
def test_the_exponents_of_both_rules(rule, exponent):
    base = TokenBudget(batch_size=10**6, sequence_length=8, lr=1.0, tokens=1e9)
    for ratio in (0.1, 3.0, 50.0):
        found = token_budget(base=base, tokens=ratio * base.tokens, rule=rule)
        assert found.batch_size / base.batch_size == pytest.approx(ratio**exponent, rel=1e-5)
        assert found.lr == pytest.approx(ratio ** (exponent - 1), rel=1e-5)
        # The step size times the number of steps, c, stays.
        assert found.lr * found.num_steps == pytest.approx(base.lr * base.num_steps)


def test_the_way_there_in_two_steps_is_the_way_in_one():
    base = TokenBudget(batch_size=10**6, sequence_length=8, lr=1.0, tokens=1e9)
    once = token_budget(base=base, tokens=3e10)
    twice = token_budget(base=token_budget(base=base, tokens=5e9), tokens=3e10)
    assert twice.batch_size == pytest.approx(once.batch_size, rel=1e-5)
    assert twice.lr == pytest.approx(once.lr, rel=1e-5)


@pytest.mark.parametrize("tokens", [1.3e9, 5e9, 10.8e9, 90e9])
def test_batch_and_sequence_grow_by_what_the_batch_alone_would(tokens):
    alone = token_budget(base=BASE, tokens=tokens, rounding="power-of-two")
    both = token_budget(base=BASE, tokens=tokens, rounding="power-of-two", grow="batch-and-sequence")
    assert both.batch_size * both.sequence_length == alone.batch_size * alone.sequence_length
    assert both.lr == pytest.approx(alone.lr)
    assert both.batch_size / 256 / (both.sequence_length / 1024) in (1, 2)


def test_a_bound_on_the_batch_takes_the_step_size_along():
    found = token_budget(base=BASE, tokens=8 * BASE.tokens, max_batch_size=512)
    assert found.batch_size == 512
    assert found.lr == pytest.approx(BASE.lr * 2 / 8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tokens": 0.0}, "tokens must be"),
        ({"tokens": 1e9, "rule": "cube"}, "rule must be one of"),
        ({"tokens": 1e9, "mu_ratio": 0.0}, "mu_ratio must be"),
        ({"tokens": 1e9, "rho_exponent": 0.1, "rho_shift": 300.0}, "rho_shift must be below the base batch size"),
    ],
)
def test_arguments_are_checked(options, message):
    with pytest.raises(InputError, match=message):
        token_budget(base=BASE, **options)


# The bound


def best_error(
    constants: ScgConstants, tokens: float, batch_tokens: np.ndarray, smallest_alpha: float = 1e-6
) -> tuple[np.ndarray, np.ndarray]:
    """Smallest bound at each number of tokens in a step, over c, eta and alpha on grids, and the alpha it is at."""
    c = np.geomspace(0.05, 2, 14)[:, None, None]
    eta = np.geomspace(0.1, 300, 40)[None, :, None]
    alpha = np.geomspace(smallest_alpha, 1, 80)[None, None, :]
    errors, alphas = [], []
    for size in batch_tokens:
        found = unrolled_bound(constants, tokens=tokens, batch_tokens=size, c=c, eta=eta, alpha=alpha)
        place = np.unravel_index(found.argmin(), found.shape)
        errors.append(found[place])
        alphas.append(alpha[0, 0, place[2]])
    return np.array(errors), np.array(alphas)


def log_slope(y, x) -> float:
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def test_the_bound_has_the_published_landscape_over_budgets():
    budgets = [10.0**power for power in (4, 6, 8, 10, 12, 14)]
    errors, edges, alphas = [], [], []
    for tokens in budgets:
        sizes = np.geomspace(1, tokens**0.8, 40)
        found, alpha = best_error(ScgConstants(), tokens, sizes)
        errors.append(found.min())
        edge = np.flatnonzero(found <= 1.1 * found.min())[-1]
        edges.append(sizes[edge])
        alphas.append(alpha[edge])
    assert errors == pytest.approx([0.946, 0.233, 0.0548, 0.0127, 0.00299, 0.00069], rel=0.05)
    assert log_slope(errors[2:], budgets[2:]) == pytest.approx(-1 / 3, abs=0.06)
    assert log_slope(edges[2:], budgets[2:]) == pytest.approx(2 / 3, abs=0.06)
    assert max(alphas[2:]) / min(alphas[2:]) < 2


def test_the_closed_form_changes_regime_at_its_thresholds():
    constants = ScgConstants(sigma=1e3, rho=2.0, mu=0.5, smoothness=3.0)
    low, high = bst_thresholds(constants, tokens=1e12)
    ratio = 0.5 * 2.0 * 1e3 / 3.0
    assert (low, high) == pytest.approx((ratio**2, (1e12 * ratio) ** (2 / 3)))
    slopes = {"noise": -1 / 6, "flat": 0.0, "steps": 1.0}
    for regime, sizes in {
        "noise": (low / 100, low / 2),
        "flat": (low * 2, high / 2),
        "steps": (high * 2, high * 100),
    }.items():
        errors = [bst_error(constants, tokens=1e12, batch_tokens=size) for size in sizes]
        assert {bst_regime(constants, tokens=1e12, batch_tokens=size) for size in sizes} == {regime}
        assert log_slope(errors, sizes) == pytest.approx(slopes[regime], abs=1e-9)
    for threshold in (low, high):
        sides = [bst_error(constants, tokens=1e12, batch_tokens=threshold * side) for side in (1 - 1e-9, 1 + 1e-9)]
        assert sides[0] == pytest.approx(sides[1])


def test_the_numerical_bound_follows_the_three_regimes_of_the_closed_form():
    # Much noise and many tokens, so that each regime is wide: the flat one lies between 1e8 and 2e17 tokens a step.
    constants, tokens = ScgConstants(sigma=1e4), 1e22
    low, high = bst_thresholds(constants, tokens=tokens)
    ranges = {"noise": (low * 1e-6, low * 1e-2), "flat": (low * 1e2, high * 1e-2), "steps": (high * 3, high * 30)}
    expected = {"noise": -1 / 6, "flat": 0.0, "steps": 1.0}
    for regime, (start, stop) in ranges.items():
        sizes = np.geomspace(start, stop, 6)
        errors = best_error(constants, tokens, sizes, smallest_alpha=1e-14)[0]
        # The closed form leaves out log(2 (f0 - f*) / error).
        assert log_slope(errors / np.log(2 / errors), sizes) == pytest.approx(expected[regime], abs=0.06), regime


def test_the_closed_form_bounds_the_numerical_one_up_to_one_constant():
    ratios = []
    for sigma, power, part in itertools.product((1.0, 100.0), (10, 12, 14), (0.2, 0.4, 0.6)):
        constants, tokens = ScgConstants(sigma=sigma), 10.0**power
        size = tokens**part
        found = best_error(constants, tokens, np.array([size]))[0][0]
        ratios.append(found / bst_error(constants, tokens=tokens, batch_tokens=size))
    # The constants of the corollary are 32 e^(3c/2) and more, and logarithms come on top.
    assert min(ratios) > 1
    assert max(ratios) < 128
    assert max(ratios) / min(ratios) < 12


def test_the_bound_does_not_hold_with_too_few_steps():
    found = unrolled_bound(ScgConstants(), tokens=100.0, batch_tokens=[10.0, 100.0], c=1.0, eta=1.0, alpha=0.1)
    assert math.isfinite(found[0])
    assert found[1] == math.inf


def test_the_numbers_of_the_page():
    base = TokenBudget(batch_size=16, sequence_length=64, lr=2e-4, tokens=1e6)
    one = token_budget(base=base, tokens=1e7)
    assert (one.batch_size, one.sequence_length, round(one.lr, 7)) == (74, 64, 9.25e-5)
    both = token_budget(base=base, tokens=1e7, grow="batch-and-sequence")
    assert (both.batch_size, both.sequence_length, round(both.lr, 7)) == (37, 128, 9.25e-5)
