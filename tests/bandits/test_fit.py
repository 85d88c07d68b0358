"""Kernel fits against finite differences, scikit-learn and BoTorch's formula, and the calibration against drawn processes."""

import math

import numpy as np
import pytest
import torch
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel

from batchwright.bandits.calibration import calibration, leave_one_out
from batchwright.bandits.dense_posterior import dense_posterior
from batchwright.bandits.fit import fit_kernel
from batchwright.bandits.kernels import Kernel
from batchwright.bandits.marginal_likelihood import LogNormal, Objective, Prior, default_prior
from batchwright.core.errors import InputError

FLAT = LogNormal(location=0.0, scale=1e6)


def data(number=60, dim=2, seed=0, noise=0.1, kernel=None):
    generator = torch.Generator().manual_seed(seed)
    points = torch.rand(number, dim, generator=generator, dtype=torch.float64)
    kernel = kernel or Kernel(lengthscales=(0.3,), variance=1.0)
    matrix = kernel(points, points) + noise**2 * torch.eye(number, dtype=torch.float64)
    draw = torch.randn(number, generator=generator, dtype=torch.float64)
    return points, torch.linalg.cholesky(matrix) @ draw


@pytest.mark.parametrize(("name", "nu"), [("se", 2.5), ("matern", 0.5), ("matern", 1.5), ("matern", 2.5)])
@pytest.mark.parametrize("free", [True, False])
def test_the_gradient_is_that_of_finite_differences(name, nu, free):
    points, values = data(25)
    prior = Prior(lengthscale=LogNormal(location=0.1, scale=0.7), variance=FLAT if free else None)
    objective = Objective(points=points, values=values, name=name, nu=nu, prior=prior)
    at = torch.tensor([-1.0, -0.5, -3.0, 0.3][: objective.num_parameters], dtype=torch.float64)
    value, gradient = objective.with_gradient(at.numpy())
    assert value == pytest.approx(float(objective(at[None])[0]), rel=1e-12)
    for index in range(len(at)):
        step = torch.zeros_like(at)
        step[index] = 1e-5
        two = objective(torch.stack([at + step, at - step]))
        assert float(gradient[index]) == pytest.approx(float(two[0] - two[1]) / 2e-5, rel=1e-5, abs=1e-6)


def test_without_a_prior_the_likelihood_reaches_that_of_scikit_learn():
    points, values = data(80)
    values = (values - values.mean()) / values.std()
    prior = Prior(lengthscale=FLAT, noise_variance=FLAT, variance=FLAT)
    found = fit_kernel(points, values, prior=prior, num_starts=3)
    objective = Objective(points=points, values=values, name="se", nu=2.5, prior=prior)
    ours = torch.tensor(
        [*np.log(found.kernel.lengthscales), math.log(found.noise_variance), math.log(found.kernel.variance)]
    )
    # Scikit-learn has no mean; ours can only raise the likelihood.
    other = GaussianProcessRegressor(
        ConstantKernel(1.0) * RBF([0.3, 0.3]) + WhiteKernel(0.01), n_restarts_optimizer=2, random_state=0
    ).fit(points.numpy(), values.numpy())
    flat = -len(ours) * (math.log(1e6) + 0.5 * math.log(2 * math.pi)) - float(ours.sum())
    assert float(objective(ours[None])[0]) - flat >= other.log_marginal_likelihood_value_ - 1e-3
    assert found.converged


def test_a_known_kernel_is_found_again():
    points, values = data(300, seed=3, kernel=Kernel(lengthscales=(0.2, 0.6), variance=4.0))
    found = fit_kernel(points, 5 + values)
    assert found.kernel.lengthscales[0] == pytest.approx(0.2, rel=0.25)
    assert found.kernel.lengthscales[1] == pytest.approx(0.6, rel=0.35)
    assert found.noise_variance == pytest.approx(0.01, rel=0.3)
    given = fit_kernel(points, 5 + values, noise_variance=0.02)
    assert given.noise_variance == pytest.approx(0.02, rel=1e-9)


def test_a_fit_does_not_look_at_units():
    points, values = data(50)
    one, other = fit_kernel(points, values), fit_kernel(points, 1e3 * values - 7)
    assert other.kernel.lengthscales == pytest.approx(one.kernel.lengthscales, rel=1e-4)
    assert other.kernel.variance == pytest.approx(1e6 * one.kernel.variance, rel=1e-3)
    constant = fit_kernel(points, torch.full((50,), 3.0, dtype=torch.float64))
    assert math.isfinite(constant.objective)
    assert constant.mean == pytest.approx(3.0)
    with pytest.raises(InputError, match="values must hold at least 2 finite"):
        fit_kernel(points[:1], values[:1])
    assert default_prior(4).lengthscale.location == pytest.approx(math.sqrt(2) + math.log(2))


def test_leaving_one_out_is_leaving_one_out():
    points, values = data(30)
    kernel = Kernel(lengthscales=(0.3,), variance=1.2)
    mean, variance = leave_one_out(points, values, kernel, 0.01, prior_mean=0.2)
    for index in range(30):
        rest = torch.arange(30) != index
        one = dense_posterior(points[rest], values[rest], kernel, 0.01, prior_mean=0.2)
        expected, spread = one.at(points[index : index + 1])
        assert float(mean[index]) == pytest.approx(float(expected), abs=1e-9)
        assert float(variance[index]) == pytest.approx(float(spread) + 0.01, abs=1e-9)


def test_a_true_model_is_called_wrong_as_rarely_as_promised():
    kernel = Kernel(lengthscales=(0.3,))
    verdicts = [calibration(*data(40, seed=seed), kernel, 0.01).verdict for seed in range(300)]
    # Two tests of 1 %; the bound is four standard errors above.
    assert sum(each != "fits" for each in verdicts) <= 6 + 4 * math.sqrt(6)


def test_wrong_models_are_found():
    kernel = Kernel(lengthscales=(0.3,))
    found = {"short": 0, "noise": 0, "outlier": 0}
    for seed in range(20):
        points, values = data(60, seed=seed, kernel=Kernel(lengthscales=(0.05,)))
        found["short"] += calibration(points, values, Kernel(lengthscales=(0.6,)), 0.01).misspecified
        points, values = data(60, seed=seed, noise=0.5)
        found["noise"] += calibration(points, values, kernel, 0.01).misspecified
        points, values = data(60, seed=seed)
        values[10] += 3.0
        found["outlier"] += calibration(points, values, kernel, 0.01).misspecified
    assert all(count >= 19 for count in found.values())
    assert "too few" in calibration(points[:3], values[:3], kernel, 0.01).words
    assert calibration(*data(60), Kernel(lengthscales=(0.3,)), 4.0).verdict == "too wide"
