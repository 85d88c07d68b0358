"""Kernels and posteriors against dense solves, scikit-learn's kernels and finite differences."""

import numpy as np
import pytest
import torch
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, Matern

from batchwright.bandits.candidate_posterior import CandidatePosterior
from batchwright.bandits.dense_posterior import dense_posterior, merged
from batchwright.bandits.kernels import Kernel, information_exponent
from batchwright.core.errors import InputError

KERNELS = [("se", 2.5), ("matern", 0.5), ("matern", 1.5), ("matern", 2.5)]


def kernel_of(name, nu, variance=1.7):
    return Kernel(name=name, nu=nu, lengthscales=(0.3, 0.5, 0.2), variance=variance)


def points(number, seed=0, dim=3):
    return torch.rand(number, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(("name", "nu"), KERNELS)
def test_kernels_are_those_of_scikit_learn(name, nu):
    kernel, x, y = kernel_of(name, nu), points(40), points(30, 1)
    scales = np.array(kernel.lengthscales)
    other = ConstantKernel(1.7) * (RBF(scales) if name == "se" else Matern(scales, nu=nu))
    np.testing.assert_allclose(kernel(x, y).numpy(), other(x.numpy(), y.numpy()), rtol=0, atol=1e-13)


@pytest.mark.parametrize("plain_torch", [False, True])
@pytest.mark.parametrize(("name", "nu"), KERNELS)
def test_the_incremental_posterior_is_that_of_a_dense_solve(name, nu, plain_torch):
    kernel, candidates = kernel_of(name, nu), points(300)
    posterior = CandidatePosterior(candidates, kernel, 1e-3, prior_mean=0.4, plain_torch=plain_torch)
    chosen = posterior.select(80)
    values = torch.randn(80, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    # In parts: what is told late must not matter.
    posterior.observe(values[:30])
    posterior.observe(values[30:])
    posterior.add(7)
    posterior.observe(values[:1])
    places, told = candidates[[*chosen.tolist(), 7]], torch.cat([values, values[:1]])
    dense = dense_posterior(places, told, kernel, 1e-3, prior_mean=0.4)
    mean, variance = dense.at(candidates)
    assert (posterior.mean - mean).abs().max() < 1e-8
    assert (posterior.variance - variance).abs().max() < 1e-8


def test_each_point_has_the_largest_variance_left_by_scikit_learn():
    kernel, candidates = Kernel(lengthscales=(0.25,)), points(200, dim=2)
    chosen = CandidatePosterior(candidates, kernel, 0.01).select(20).tolist()
    for number in range(1, 20):
        other = GaussianProcessRegressor(RBF(0.25), alpha=0.01, optimizer=None)
        other.fit(candidates[chosen[:number]].numpy(), np.zeros(number))
        deviation = other.predict(candidates.numpy(), return_std=True)[1]
        assert deviation[chosen[number]] == pytest.approx(deviation.max(), abs=1e-9)


def test_a_block_of_earlier_points_is_as_good_as_one_after_another():
    kernel, candidates, earlier = kernel_of("matern", 2.5), points(250), points(60, 3)
    values = torch.randn(60, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    posterior = CandidatePosterior(candidates, kernel, 0.01)
    posterior.condition(earlier, values)
    chosen = posterior.select(10)
    posterior.observe(torch.ones(10, dtype=torch.float64))
    dense = dense_posterior(
        torch.cat([earlier, candidates[chosen]]), torch.cat([values, torch.ones(10, dtype=torch.float64)]), kernel, 0.01
    )
    mean, variance = dense.at(candidates)
    assert (posterior.mean - mean).abs().max() < 1e-8
    assert (posterior.variance - variance).abs().max() < 1e-8


def test_merged_points_give_the_same_posterior():
    kernel, candidates = kernel_of("se", 2.5), points(50)
    places = points(12, 5)[torch.arange(40) % 12]
    values = torch.randn(40, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    plain = dense_posterior(places, values, kernel, 0.1)
    distinct, means, counts = merged(places, values)
    assert len(distinct) == 12
    one = dense_posterior(distinct, means, kernel, 0.1, counts=counts)
    block = CandidatePosterior(candidates, kernel, 0.1)
    block.condition(distinct, means, counts=counts)
    for got, expected in zip(one.at(candidates), plain.at(candidates), strict=True):
        assert (got - expected).abs().max() < 1e-10
    assert (block.mean - plain.at(candidates)[0]).abs().max() < 1e-10
    # A change of one of the values moves the mean by its weight.
    moved = torch.stack(
        [
            dense_posterior(places, values + 1.0 * (torch.arange(40) == i), kernel, 0.1).at(candidates)[0]
            for i in range(40)
        ]
    )
    largest = (moved - plain.at(candidates)[0]).abs().amax(0)
    assert (one.largest_weight(candidates) - largest).abs().max() < 1e-10


def test_only_what_is_allowed_is_chosen_and_the_variance_is_kept_for_all():
    candidates = points(100, dim=2)
    allowed = torch.zeros(100, dtype=torch.bool)
    allowed[10:20] = True
    posterior = CandidatePosterior(candidates, Kernel(lengthscales=(0.3,)), 0.01)
    chosen = posterior.select(25, allowed=allowed)
    assert set(chosen.tolist()) <= set(range(10, 20))
    dense = dense_posterior(candidates[chosen], torch.zeros(25, dtype=torch.float64), posterior.kernel, 0.01)
    assert (posterior.variance - dense.at(candidates)[1]).abs().max() < 1e-8


def test_without_noise_it_is_the_pivoted_cholesky_and_stops_at_its_tolerance():
    candidates, kernel = points(400, dim=2), Kernel(lengthscales=(0.5,))
    posterior = CandidatePosterior(candidates, kernel, 0.0)
    chosen = posterior.select(400, stop_below=1e-8)
    assert 20 < len(chosen) < 200
    rows = posterior.rows[: len(chosen)]
    assert (rows.T @ rows - kernel(candidates, candidates)).abs().max() < 2e-8


def test_the_information_gain_is_half_the_log_determinant():
    candidates, kernel = points(100, dim=2), Kernel(lengthscales=(0.3,))
    posterior = CandidatePosterior(candidates, kernel, 0.05)
    chosen = posterior.select(30)
    matrix = torch.eye(30, dtype=torch.float64) + kernel(candidates[chosen], candidates[chosen]) / 0.05
    assert posterior.information_gain == pytest.approx(float(matrix.logdet()) / 2)
    assert information_exponent("matern", 2.5, 2) == pytest.approx(2 / 7)


def test_wrong_input_is_told():
    with pytest.raises(InputError, match="candidates must hold at least one"):
        CandidatePosterior(points(0), Kernel(), 0.1)
    with pytest.raises(InputError, match=r"nu must be one of 0\.5"):
        Kernel(name="matern", nu=2.0)
    with pytest.raises(InputError, match="lengthscales must hold 1 or 3"):
        CandidatePosterior(points(5), Kernel(lengthscales=(1.0, 2.0)), 0.1)
    posterior = CandidatePosterior(points(5), Kernel(), 0.1)
    with pytest.raises(InputError, match="allowed must hold"):
        posterior.select(1, allowed=torch.zeros(5, dtype=torch.bool))
    posterior.select(2)
    with pytest.raises(InputError, match="mean needs the values of all 2"):
        _ = posterior.mean
    with pytest.raises(InputError, match="values must be at most one a chosen point"):
        posterior.observe(torch.zeros(3, dtype=torch.float64))
    with pytest.raises(InputError, match="condition must come before"):
        posterior.condition(points(2))
    exact = CandidatePosterior(points(2), Kernel(), 0.0)
    exact.add(0)
    with pytest.raises(InputError, match="known exactly"):
        exact.add(0)
