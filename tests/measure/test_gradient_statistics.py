"""Each test is judged by the paper's formula written out over the rows, and by gradients whose answer is known."""

import doctest
import math

import pytest
import torch

from batchwright.core.errors import InputError
from batchwright.measure import gradient_statistics as module
from batchwright.measure.gradient_statistics import (
    GradientStatistics,
    cabs_batch_size,
    cosine_of_halves,
    dive_batch_size,
    gradient_diversity,
    gradient_snr,
    inner_product_test,
    norm_test,
    orthogonality_test,
)


def gaussian(num_rows: int = 12, dim: int = 5, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 0.5 + torch.randn(num_rows, dim, generator=generator)


def test_diversity_meets_its_definition_row_by_row():
    grads = gaussian()
    plain = sum(float(row.square().sum()) for row in grads) / float(sum(grads).square().sum())
    assert gradient_diversity(GradientStatistics.of(grads)) == pytest.approx(plain, rel=1e-5)


@pytest.mark.parametrize(("grads", "bound"), [(torch.ones(6, 3), 1.0), (torch.eye(6), 6.0)])
def test_diversity_of_equal_and_of_orthogonal_gradients(grads, bound):
    assert len(grads) * gradient_diversity(GradientStatistics.of(grads)) == pytest.approx(bound)


def test_diversity_of_gradients_that_cancel_is_infinite():
    grads = torch.tensor([[1.0], [-1.0]])
    assert gradient_diversity(GradientStatistics.of(grads)) == math.inf
    assert dive_batch_size(math.inf, num_examples=100, delta=0.1, max_batch_size=64) == 64.0


@pytest.mark.parametrize("examples_per_row", [1, 4])
def test_trace_meets_the_variance_of_the_rows_and_needs_norms_alone(examples_per_row):
    grads = gaussian()
    of_rows = GradientStatistics.of(grads, examples_per_row=examples_per_row)
    of_norms = GradientStatistics(
        sq_norms=grads.square().sum(1),
        grad_sq_norm=float(grads.mean(0).square().sum()),
        examples_per_row=examples_per_row,
    )
    expected = examples_per_row * float(grads.var(dim=0, correction=1).sum())
    assert of_rows.trace == pytest.approx(expected, rel=1e-5)
    assert of_norms.trace == pytest.approx(expected, rel=1e-5)


def test_trace_is_unbiased_on_gaussian_gradients_also_from_micro_batches():
    generator = torch.Generator().manual_seed(0)
    draws = torch.randn(2000, 8, 4, 3, generator=generator)  # covariance I, so the trace is 3
    found = torch.tensor([GradientStatistics.of(draw.mean(1), examples_per_row=4).trace for draw in draws])
    assert abs(found.mean() - 3.0) < 4 * found.std() / len(found) ** 0.5


def test_signal_to_noise_meets_mean_and_variance_parameter_by_parameter():
    grads = gaussian().double()
    found = gradient_snr(grads)
    for index, column in enumerate(grads.T.tolist()):
        mean = sum(column) / len(column)
        variance = sum((value - mean) ** 2 for value in column) / (len(column) - 1)
        assert float(found[index]) == pytest.approx(mean**2 / variance)
    assert torch.allclose(gradient_snr(grads, examples_per_row=4), found / 4)


def test_signal_to_noise_of_one_dimension_is_the_inverse_noise_scale():
    generator = torch.Generator().manual_seed(0)
    grads = 2 + 4 * torch.randn(200_000, 1, generator=generator)
    assert float(gradient_snr(grads)) == pytest.approx(0.25, rel=0.02)


@pytest.mark.parametrize("seed", range(3))
def test_the_three_tests_meet_their_formulas_over_the_rows(seed):
    grads = gaussian(seed=seed).double()
    count, mean = len(grads), grads.mean(0)
    sq_length = float(mean @ mean)
    norm = sum(float((row - mean) @ (row - mean)) for row in grads) / (count - 1)
    inner = sum(float(row @ mean - mean @ mean) ** 2 for row in grads) / (count - 1)
    residuals = [row - float(row @ mean) / sq_length * mean for row in grads]
    across = sum(float(residual @ residual) for residual in residuals) / (count - 1)
    statistics = GradientStatistics.of(grads)
    for found, scatter, signal, tolerance in (
        (norm_test(statistics, theta=0.3), norm, sq_length, 0.3),
        (inner_product_test(statistics, theta=0.3), inner, sq_length**2, 0.3),
        (orthogonality_test(statistics, nu=0.3), across, sq_length, 0.3),
    ):
        assert found.batch_size == pytest.approx(scatter / (tolerance**2 * signal))
        assert found.smallest_tolerance == pytest.approx(math.sqrt(scatter / count / signal))
        assert found.passed == (scatter / count <= tolerance**2 * signal)


def test_scatter_along_and_across_the_mean_make_up_the_norm_test():
    statistics = GradientStatistics.of(gaussian().double())
    along = inner_product_test(statistics, theta=1.0).batch_size
    across = orthogonality_test(statistics, nu=1.0).batch_size
    assert along + across == pytest.approx(norm_test(statistics, theta=1.0).batch_size)


@pytest.mark.parametrize("test", [norm_test, inner_product_test, orthogonality_test])
def test_a_batch_as_large_as_proposed_just_passes(test):
    grads = gaussian(64, 3).double()
    found = test(GradientStatistics.of(grads))
    # The same rows repeated: the same scatter but for the degree of freedom, and a larger batch.
    times = max(1, math.ceil(found.batch_size / len(grads)))
    assert test(GradientStatistics.of(grads.repeat(times, 1))).passed


@pytest.mark.parametrize("test", [norm_test, inner_product_test, orthogonality_test])
def test_micro_batches_give_the_statistic_of_their_examples(test):
    generator = torch.Generator().manual_seed(1)
    grads = 1 + torch.randn(80_000, 3, generator=generator)
    of_examples = test(GradientStatistics.of(grads))
    of_parts = test(GradientStatistics.of(grads.view(20_000, 4, 3).mean(1), examples_per_row=4))
    assert of_parts.batch_size == pytest.approx(of_examples.batch_size, rel=0.05)
    assert of_parts.smallest_tolerance == pytest.approx(of_examples.smallest_tolerance, rel=0.03)


@pytest.mark.parametrize("test", [norm_test, inner_product_test, orthogonality_test])
def test_no_gradient_never_passes_and_nan_is_no_pass(test):
    zero = test(GradientStatistics.of(torch.tensor([[1.0], [-1.0]])))
    assert not zero.passed
    assert zero.batch_size == zero.smallest_tolerance == math.inf
    unknown = test(GradientStatistics.of(torch.tensor([[math.nan], [1.0]])))
    assert not unknown.passed
    assert math.isnan(unknown.batch_size)


def test_equal_gradients_pass_with_any_batch():
    found = norm_test(GradientStatistics.of(torch.full((5, 2), 0.1)), theta=1e-3)
    assert found.passed
    assert found.batch_size == pytest.approx(0.0, abs=1e-6)


def test_cabs_is_the_learning_rate_times_the_trace_over_the_loss():
    assert cabs_batch_size(30.0, loss=1.5, lr=0.1) == pytest.approx(2.0)
    assert cabs_batch_size(30.0, loss=0.0, lr=0.1) == math.inf
    assert math.isnan(cabs_batch_size(0.0, loss=0.0, lr=0.1))


def test_cosine_meets_torch_over_the_flattened_halves():
    generator = torch.Generator().manual_seed(0)
    left = [torch.randn(3, 4, generator=generator), torch.randn(5, generator=generator)]
    right = [torch.randn(3, 4, generator=generator), torch.randn(5, generator=generator)]
    flat = [torch.cat([part.flatten() for part in half]) for half in (left, right)]
    expected = float(torch.nn.functional.cosine_similarity(*flat, dim=0))
    assert cosine_of_halves(left, right) == pytest.approx(expected, rel=1e-5)
    assert cosine_of_halves(left, left) == pytest.approx(1.0)
    assert cosine_of_halves(left, [-part for part in left]) == pytest.approx(-1.0)
    assert math.isnan(cosine_of_halves(left, [0 * part for part in left]))
    assert math.isnan(cosine_of_halves(left, [math.nan * part for part in left]))


def test_cosine_of_halves_follows_the_noise_scale():
    """In many dimensions the cosine of halves of ``h`` examples is close to ``1 / (1 + S / h)``."""
    generator = torch.Generator().manual_seed(0)
    dim, half, noise_scale = 40_000, 16, 8.0
    gradient = torch.randn(dim, generator=generator)
    gradient *= math.sqrt(dim / noise_scale) / gradient.norm()  # unit noise in each dimension: the trace is dim
    halves = [[gradient + torch.randn(dim, generator=generator) / math.sqrt(half)] for _ in range(2)]
    assert cosine_of_halves(*halves) == pytest.approx(1 / (1 + noise_scale / half), abs=0.02)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: GradientStatistics.of(torch.ones(1, 2)), "grads must hold at least 2 rows, got 1"),
        (lambda: GradientStatistics(sq_norms=torch.ones(1), grad_sq_norm=1.0), "sq_norms must hold at least 2 rows"),
        (lambda: GradientStatistics(sq_norms=-torch.ones(2), grad_sq_norm=1.0), "must not be negative"),
        (
            lambda: GradientStatistics.of(torch.ones(2, 2), examples_per_row=0),
            "examples_per_row must be an integer of at least 1",
        ),
        (lambda: gradient_snr(torch.ones(1, 2)), "grads must hold at least 2 rows"),
        (lambda: norm_test(GradientStatistics.of(gaussian()), theta=0.0), "theta must be a finite number and above 0"),
        (lambda: orthogonality_test(GradientStatistics.of(gaussian()), nu=-1.0), "nu must be a finite number"),
        (
            lambda: inner_product_test(GradientStatistics(sq_norms=torch.ones(2), grad_sq_norm=1.0)),
            "inner_product_test needs the inner products of the rows with their mean, got norms alone",
        ),
        (lambda: cabs_batch_size(1.0, loss=-1.0, lr=0.1), "loss must be .* at least 0, got -1.0; subtract the lowest"),
        (lambda: dive_batch_size(math.nan, num_examples=1, delta=1.0, max_batch_size=1), "diversity must not be"),
        (lambda: dive_batch_size(1.0, num_examples=1, delta=0.0, max_batch_size=1), "delta must be"),
        (lambda: cosine_of_halves([torch.ones(2)], [torch.ones(3)]), r"same shapes, got \[\(2,\)\] and \[\(3,\)\]"),
        (lambda: cosine_of_halves([], []), "same shapes"),
    ],
)
def test_bad_arguments_are_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_examples_of_the_docstrings_run():
    found = doctest.testmod(module, extraglobs={"torch": torch})
    assert found.attempted >= 8
    assert found.failed == 0
