"""Intervals of every noise scale cover at their nominal level, on Gaussian gradients and on a network known by 20 000 examples."""

from functools import cache

import pytest
from benchmarks import coverage


@cache
def problem(name: str):
    return {"gaussian": coverage.Gaussian, "network": coverage.Network}[name]()


def share_covered(name: str, method: str, repeats: int) -> float:
    ends, true = coverage.ends_of(problem(name), method, repeats), coverage.truth(problem(name), method)
    return float(((ends[:, 0] <= true) & (true <= ends[:, 1])).mean())


def test_truths_of_the_gaussian_are_the_closed_forms():
    found = problem("gaussian")
    variances, squares = found.sd.square(), found.mean.square()
    assert coverage.truth(found, "micro-batch") == pytest.approx(float(variances.sum() / squares.sum()))
    assert coverage.truth(found, "one layer") == pytest.approx(float(variances[3:].sum() / squares[3:].sum()))
    assert coverage.truth(found, "l1") == pytest.approx(float(found.sd.sum() / found.mean.abs().sum()) ** 2)
    # A matrix of one row has one singular value: its length.
    assert coverage.truth(found, "nuclear") == pytest.approx(coverage.truth(found, "one layer"))


@pytest.mark.parametrize("method", ["one layer", "adam", "l1", "nuclear", "ranks"])
def test_interval_does_not_undercover(method):
    """The short form of the next test: three standard errors of 60 repeats below 95 %."""
    assert share_covered("gaussian", method, 60) >= 0.866


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("method", coverage.METHODS)
@pytest.mark.parametrize("name", ["gaussian", "network"])
def test_interval_covers_at_its_nominal_level(name, method):
    assert 0.92 <= share_covered(name, method, 300) <= 0.98
