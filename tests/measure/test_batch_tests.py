"""Each test is judged by the paper's formula written out over the rows, and by gradients whose answer is known."""

import doctest
import math

import pytest
import torch

from batchwright.core.errors import InputError
from batchwright.measure import batch_tests as module
from batchwright.measure.batch_tests import inner_product_test, norm_test, orthogonality_test
from batchwright.measure.gradient_statistics import GradientStatistics


def gaussian(num_rows: int = 12, dim: int = 5, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 0.5 + torch.randn(num_rows, dim, generator=generator)


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


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: norm_test(GradientStatistics.of(gaussian()), theta=0.0), "theta must be a finite number and above 0"),
        (lambda: orthogonality_test(GradientStatistics.of(gaussian()), nu=-1.0), "nu must be a finite number"),
        (
            lambda: inner_product_test(GradientStatistics(sq_norms=torch.ones(2), grad_sq_norm=1.0)),
            "inner_product_test needs the inner products of the rows with their mean, got norms alone",
        ),
    ],
)
def test_bad_arguments_are_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_examples_of_the_docstrings_run():
    found = doctest.testmod(module, extraglobs={"torch": torch})
    assert found.attempted >= 3
    assert found.failed == 0
