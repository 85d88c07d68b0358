"""Multiplicative noise gives a large batch's gradient the covariance of a small one's."""

import pytest
import torch

from batchwright.core.errors import InputError
from batchwright.training.gradient_noise import KINDS, noise_variance, noise_weights


def exact_covariance(gradients: torch.Tensor, size: int) -> torch.Tensor:
    """Of the mean of ``size`` of the rows without replacement: (1/M) (N-M)/(N-1) S0."""
    number = len(gradients)
    centred = gradients - gradients.mean(0)
    return centred.T @ centred / number / size * (number - size) / (number - 1)


def added_by_noise(gradients: torch.Tensor, size: int, like: int, kind: str) -> torch.Tensor:
    """Closed form of what weights add: the covariance of (1/M) sum z g over z, averaged over batches of ``size`` rows."""
    number, variance = len(gradients), noise_variance(size, like, kind=kind)
    centred = gradients - gradients.mean(0)
    if kind == "balanced":
        # Over a batch, sum (g - mean)(g - mean)' is (M-1) times the unbiased covariance, which is N/(N-1) S0 on average.
        return variance * (size - 1) / size**2 * centred.T @ centred / (number - 1)
    return variance / size * gradients.T @ gradients / number


@pytest.mark.parametrize(("size", "like"), [(24, 6), (30, 30), (40, 1)])
def test_balanced_weights_match_the_small_batch_matrix_by_matrix(size, like):
    gradients = torch.randn(40, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 2.0
    total = exact_covariance(gradients, size) + added_by_noise(gradients, size, like, "balanced")
    assert torch.allclose(total, exact_covariance(gradients, like), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("kind", ["normal", "gamma"])
def test_independent_weights_are_too_much_by_the_mean_gradient(kind):
    gradients = torch.randn(40, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 2.0
    gradients_about_zero = gradients - gradients.mean(0)
    size, like = 20, 4
    variance = noise_variance(size, like, kind=kind)
    assert variance == 4.0
    mean = gradients.mean(0)
    excess = (
        exact_covariance(gradients, size)
        + added_by_noise(gradients, size, like, kind)
        - exact_covariance(gradients_about_zero, size)
        - added_by_noise(gradients_about_zero, size, like, kind)
    )
    assert torch.allclose(excess, variance / size * torch.outer(mean, mean))
    # Without a mean gradient what is left is that N is finite: N/(N-1).
    matched = exact_covariance(gradients_about_zero, size) + added_by_noise(gradients_about_zero, size, like, kind)
    assert torch.allclose(matched, exact_covariance(gradients_about_zero, like), rtol=1 / 39 + 1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_drawn_weights_have_the_covariance_of_the_closed_form(kind):
    """The whole of it by simulation, batches drawn without replacement: within four standard errors."""
    generator = torch.Generator().manual_seed(2)
    gradients = torch.randn(60, 2, generator=generator, dtype=torch.float64) + 0.5
    size, like, draws = 30, 5, 20_000
    found = torch.empty(draws, 2, dtype=torch.float64)
    for i in range(draws):
        rows = gradients[torch.randperm(60, generator=generator)[:size]]
        weights = noise_weights(size, like, generator=generator, kind=kind).double()
        found[i] = (weights[:, None] * rows).mean(0)
    expected = exact_covariance(gradients, size) + added_by_noise(gradients, size, like, kind)
    assert (found.mean(0) - gradients.mean(0)).abs().max() < 4 * float(expected.diag().max() / draws) ** 0.5
    products = (found - gradients.mean(0))[:, :, None] * (found - gradients.mean(0))[:, None, :]
    errors = products.std(0) / draws**0.5
    assert ((products.mean(0) - expected).abs() < 4 * errors).all()


@pytest.mark.parametrize("kind", KINDS)
def test_weights_have_mean_one_and_the_variance_they_say(kind):
    generator = torch.Generator().manual_seed(4)
    weights = torch.stack([noise_weights(64, 16, generator=generator, kind=kind) for _ in range(2000)]).double()
    variance = noise_variance(64, 16, kind=kind)
    assert abs(float(weights.mean()) - 1) < 4 * (variance / weights.numel()) ** 0.5
    within = variance * (63 / 64 if kind == "balanced" else 1)  # balancing takes one degree of freedom
    squares = (weights - 1).square()
    assert abs(float(squares.mean()) - within) < 4 * float(squares.std()) / weights.numel() ** 0.5
    if kind == "balanced":
        assert torch.allclose(weights.sum(1), torch.full((2000,), 64.0, dtype=torch.float64), atol=1e-3)
    if kind == "gamma":
        assert weights.min() >= 0


def test_no_noise_where_the_sizes_are_equal():
    before = torch.Generator().manual_seed(0)
    assert noise_weights(8, 8, generator=before).eq(1).all()
    assert noise_variance(1, 1) == 0


def test_noise_cannot_be_taken_away():
    with pytest.raises(InputError, match="like_batch_size must be at most the batch size, got 64 for 32"):
        noise_variance(32, 64)
    with pytest.raises(InputError, match="kind must be one of"):
        noise_weights(32, 8, generator=torch.Generator(), kind="cauchy")
