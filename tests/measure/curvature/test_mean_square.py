"""The closed boundaries meet the spectral radius of the second moments' map."""

import numpy as np
import pytest

from batchwright.core.errors import InputError
from batchwright.measure.curvature.mean_square import (
    crossover_batch_size,
    max_stable_lr,
    second_moment_growth,
    second_moment_matrix,
    thresholds,
    torch_lr,
)

BETAS = (0.0, 0.3, 0.5, 0.8, 0.9, 0.95, 0.99)


def critical_variance(mean: float, momentum: float, nesterov: bool) -> float:
    """Largest stable variance of ``lr * h`` at ``lr * mean = mean``, by bisection on the spectral radius alone."""

    def growth(variance: float) -> float:
        return second_moment_growth(
            lr=1.0, curvature_mean=mean, curvature_variance=variance, momentum=momentum, nesterov=nesterov
        )

    low, high = 0.0, 16.0
    for _ in range(80):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if growth(middle) < 1 else (low, middle)
    return 0.5 * (low + high)


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("part", [0.001, 0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99, 0.999])
def test_boundary_is_where_the_spectral_radius_crosses_one(nesterov, beta, part):
    mean = part * thresholds(lr=1.0, momentum=beta, nesterov=nesterov)[1]
    if nesterov:
        closed = mean * (1 - beta + beta * mean) * (2 * (1 + beta) - (1 + 2 * beta) * mean)
        closed /= 1 + beta + beta * (1 + 2 * beta) * mean
    else:
        closed = (1 - beta) * mean * (2 * (1 + beta) - mean) / (1 + beta)
    assert critical_variance(mean, beta, nesterov) == pytest.approx(closed, rel=1e-3)


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("noise", [0.0, 1e-3, 0.1, 1.0, 10.0, 1e3])
def test_growth_changes_sign_at_the_largest_stable_lr(nesterov, beta, noise):
    mean = 3.0
    edge = max_stable_lr(curvature_mean=mean, curvature_variance=noise * mean**2, momentum=beta, nesterov=nesterov)
    below, above = (
        second_moment_growth(
            lr=factor * edge, curvature_mean=mean, curvature_variance=noise * mean**2, momentum=beta, nesterov=nesterov
        )
        for factor in (0.999, 1.001)
    )
    assert below < 1 < above


@pytest.mark.parametrize("nesterov", [False, True])
def test_the_matrix_is_that_of_torch_sgd(nesterov):
    """Second moments over many noisy curvatures, stepped by torch.optim.SGD itself, against one application of the matrix."""
    import torch

    lr, momentum, mean = 0.3, 0.6, 1.0
    curvature = mean + torch.randn(400_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    theta = torch.nn.Parameter(torch.full_like(curvature, 1.3))
    optimizer = torch.optim.SGD([theta], lr=lr, momentum=momentum, nesterov=nesterov)
    theta.grad = torch.full_like(curvature, 0.7)  # a first step that is not random fills the buffer
    before = theta.detach().clone()
    optimizer.step()
    now = theta.detach().clone()
    other = lr * optimizer.state[theta]["momentum_buffer"].clone() if nesterov else before
    theta.grad = curvature * now
    optimizer.step()
    after = theta.detach()
    next_other = lr * optimizer.state[theta]["momentum_buffer"] if nesterov else now

    def moments(a, b):
        return np.array([float((a * a).mean()), float((a * b).mean()), float((b * b).mean())])

    matrix = second_moment_matrix(
        lr=lr,
        curvature_mean=float(curvature.mean()),
        curvature_variance=float(curvature.var(correction=0)),
        momentum=momentum,
        nesterov=nesterov,
    )
    np.testing.assert_allclose(matrix @ moments(now, other), moments(after, next_other), rtol=1e-9)


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("beta", BETAS)
def test_limits_are_the_two_thresholds(nesterov, beta):
    low, high = thresholds(lr=1.0, momentum=beta, nesterov=nesterov)
    assert max_stable_lr(curvature_mean=2.0, momentum=beta, nesterov=nesterov) == pytest.approx(high / 2)
    noisy = max_stable_lr(curvature_mean=1e-9, curvature_variance=2e-9, momentum=beta, nesterov=nesterov)
    assert noisy == pytest.approx(low / 2, rel=1e-6)


@pytest.mark.parametrize(
    ("beta", "heavy_ball", "nesterov"), [(0, 1, 1), (0.5, 3, 1.29), (0.8, 9, 1.65), (0.9, 19, 1.81), (0.99, 199, 1.98)]
)
def test_crossover_is_where_the_largest_lr_is_half_its_limit(beta, heavy_ball, nesterov):
    """The published table, and the definition."""
    for is_nesterov, expected in ((False, heavy_ball), (True, nesterov)):
        size = crossover_batch_size(effective_dimension=7.0, momentum=beta, nesterov=is_nesterov)
        assert size / 7.0 == pytest.approx(expected, abs=0.005)
        at_size = max_stable_lr(curvature_mean=1.0, curvature_variance=7.0 / size, momentum=beta, nesterov=is_nesterov)
        assert at_size == pytest.approx(max_stable_lr(curvature_mean=1.0, momentum=beta, nesterov=is_nesterov) / 2)


def test_the_averaging_form_takes_the_same_steps_at_its_converted_lr():
    import torch

    grads = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    found = []
    for lr, dampening in ((0.2, 0.8), (torch_lr(0.2, 0.8, "ema"), 0.0)):
        theta = torch.nn.Parameter(torch.zeros(3))
        optimizer = torch.optim.SGD([theta], lr=lr, momentum=0.8, dampening=dampening)
        # torch does not dampen the very first gradient, so a zero one goes first.
        for grad in [torch.zeros(3), *grads]:
            theta.grad = grad.clone()
            optimizer.step()
        found.append(theta.detach())
    torch.testing.assert_close(found[0], found[1])


def test_what_is_out_of_range_is_said():
    with pytest.raises(InputError, match="momentum must be a finite number and at least 0 and below 1, got 1"):
        max_stable_lr(curvature_mean=1.0, momentum=1.0)
    with pytest.raises(InputError, match="curvature_mean must be a finite number and above 0, got -1"):
        max_stable_lr(curvature_mean=-1.0)
    with pytest.raises(InputError, match="form must be one of ema, torch, got 'heavy'"):
        torch_lr(0.1, 0.5, "heavy")
