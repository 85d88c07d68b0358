"""The matrix model and the isotropic regression meet their slow versions and the printed table."""

import numpy as np
import pytest
import torch

from batchwright.core.errors import InputError
from batchwright.measure.curvature.linear_model import edge_lr, edge_ratio, growth_rate
from batchwright.measure.curvature.matrix_model import noise_gain, second_moment_gain
from batchwright.measure.curvature.mean_square import max_stable_lr

# BS lr*/2 at D = 64 by batch size: heavy ball at momentum 0, .5, .9, then Nesterov at .5, .9.
COLUMNS = [(0.0, False), (0.5, False), (0.9, False), (0.5, True), (0.9, True)]
TABLE = {
    1: (1.00, 0.505, 0.102, 0.505, 0.104),
    16: (1.11, 0.64, 0.139, 0.63, 0.20),
    64: (1.21, 0.92, 0.235, 0.80, 0.52),
    256: (1.14, 1.23, 0.48, 0.82, 0.69),
    1024: (1.05, 1.41, 0.98, 0.78, 0.69),
    4096: (1.01, 1.48, 1.51, 0.76, 0.68),
}


def regression_hessians() -> np.ndarray:
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(12, 4)) * np.array([1.0, 0.7, 0.4, 0.2])
    return np.einsum("ni,nj->nij", inputs, inputs)


def state_growth(hessians: np.ndarray, lr: float, beta: float) -> float:
    """Spectral radius of E[M (x) M] of the whole heavy-ball state, the slow way."""
    dim = hessians.shape[1]
    eye, zero = np.eye(dim), np.zeros((dim, dim))
    total = np.zeros((4 * dim**2, 4 * dim**2))
    for hessian in hessians:
        step = np.block([[(1 + beta) * eye - lr * hessian, -beta * eye], [eye, zero]])
        total += np.kron(step, step) / len(hessians)
    return float(np.abs(np.linalg.eigvals(total)).max())


@pytest.mark.parametrize("beta", [0.0, 0.5, 0.9])
def test_matrix_model_has_its_edge_where_the_second_moments_of_the_state_have_theirs(beta):
    hessians = regression_hessians()
    low, high = 1e-3, 2 * (1 + beta) / np.linalg.eigvalsh(hessians.mean(0)).max()
    for _ in range(50):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if state_growth(hessians, middle, beta) < 1 else (low, middle)
    assert noise_gain(hessians, lr=low, momentum=beta) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("beta", [0.0, 0.4, 0.9])
def test_the_diagonal_is_the_scalar_boundary(beta):
    hessians = np.array([[[0.5]], [[1.7]], [[3.1]]])
    edge = max_stable_lr(curvature_mean=hessians.mean(), curvature_variance=hessians.var(), momentum=beta)
    assert noise_gain(hessians, lr=edge, momentum=beta) == pytest.approx(1.0)


def test_an_unstable_mean_is_infinite_or_refused():
    assert noise_gain(np.ones((2, 1, 1)), lr=2.5) == np.inf
    with pytest.raises(InputError, match="curvatures must lie between 0 and 2 at lr=1 and momentum=0"):
        second_moment_gain(np.array([3.0]), lr=1.0)
    with pytest.raises(InputError, match=r"hessians must have shape \(n, D, D\)"):
        noise_gain(np.ones((2, 3)), lr=0.1)


@pytest.mark.parametrize("batch_size", TABLE)
def test_edge_ratios_are_those_of_the_table(batch_size):
    for (momentum, nesterov), expected in zip(COLUMNS, TABLE[batch_size], strict=True):
        found = edge_ratio(
            dim=64,
            batch_size=batch_size,
            momentum=momentum,
            nesterov=nesterov,
            num_draws={1: 100, 16: 1000, 64: 600, 256: 150, 1024: 60, 4096: 20}[batch_size],
            generator=torch.Generator().manual_seed(batch_size),
        )
        assert found.value == pytest.approx(expected, rel=0.03)
        assert found.standard_error < 0.01 * found.value


def test_edge_ratio_runs_between_the_two_thresholds():
    for momentum, nesterov in COLUMNS:
        generator = torch.Generator().manual_seed(0)
        small = edge_ratio(dim=64, batch_size=1, momentum=momentum, nesterov=nesterov, generator=generator)
        large = edge_ratio(
            dim=8, batch_size=40_000, momentum=momentum, nesterov=nesterov, num_draws=10, generator=generator
        )
        assert small.value == pytest.approx(1 - momentum, rel=0.05)
        assert large.value == pytest.approx((1 + momentum) / (1 + 2 * momentum * nesterov), rel=0.02)


def growth_signs(momentum: float, nesterov: bool, batch_size: int, num_steps: int) -> tuple[float, float]:
    edge = edge_lr(dim=64, batch_size=batch_size, momentum=momentum, nesterov=nesterov)
    below, above = (
        growth_rate(
            lr=factor * edge,
            dim=64,
            batch_size=batch_size,
            momentum=momentum,
            nesterov=nesterov,
            num_steps=num_steps,
            generator=torch.Generator().manual_seed(7),
        )
        for factor in (0.93, 1.07)
    )
    return below, above


@pytest.mark.parametrize(("momentum", "nesterov"), [(0.5, False), (0.5, True)])
@pytest.mark.parametrize("batch_size", [16, 64])
def test_the_error_grows_above_the_edge_and_shrinks_below(momentum, nesterov, batch_size):
    below, above = growth_signs(momentum, nesterov, batch_size, 3000)
    assert below < 0 < above


@pytest.mark.slow
@pytest.mark.parametrize(("momentum", "nesterov"), COLUMNS)
@pytest.mark.parametrize("batch_size", [1, 4, 16, 64, 256, 1024])
def test_growth_changes_sign_at_every_edge_of_the_table(momentum, nesterov, batch_size):
    below, above = growth_signs(momentum, nesterov, batch_size, 40_000 if batch_size <= 16 else 8000)
    assert below < 0 < above
