"""Each statistic is judged by its formula written out over the rows, and by gradients whose answer is known."""

import doctest
import math

import pytest
import torch

from batchwright.core.errors import InputError
from batchwright.measure import gradient_statistics as module
from batchwright.measure.gradient_statistics import (
    GradientStatistics,
    cosine_of_halves,
    gradient_diversity,
    gradient_snr,
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
        (lambda: cosine_of_halves([torch.ones(2)], [torch.ones(3)]), r"same shapes, got \[\(2,\)\] and \[\(3,\)\]"),
        (lambda: cosine_of_halves([], []), "same shapes"),
    ],
)
def test_bad_arguments_are_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_examples_of_the_docstrings_run():
    found = doctest.testmod(module, extraglobs={"torch": torch})
    assert found.attempted >= 4
    assert found.failed == 0
