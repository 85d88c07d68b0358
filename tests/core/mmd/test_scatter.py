"""Variance of the unbiased squared MMD, and estimates from a part of the pairs, against plain loops and repeated draws."""

import itertools

import pytest
import torch

from batchwright.core.errors import InputError
from batchwright.core.kernels import GaussianMixture, Polynomial
from batchwright.core.mmd import mmd2, mmd2_blocks, mmd2_estimate, mmd2_linear
from batchwright.core.mmd.sums import pair_sums

KERNEL = GaussianMixture((1.0,))


def draw(generator, m, n, shift, std=1.3):
    x = torch.randn(m, 2, generator=generator, dtype=torch.float64)
    return x, std * torch.randn(n, 2, generator=generator, dtype=torch.float64) + shift


@pytest.mark.parametrize(("m", "n", "shift"), [(12, 20, 0.0), (30, 15, 0.5)])
def test_the_variance_is_unbiased_for_samples_of_unequal_size(m, n, shift):
    generator = torch.Generator().manual_seed(m)
    found = [mmd2_estimate(*draw(generator, m, n, shift), KERNEL) for _ in range(600)]
    values = torch.tensor([each.value for each in found])
    variances = torch.tensor([each.variance for each in found])
    centred = (values - values.mean()).square()
    error = (variances - centred).std() / len(found) ** 0.5
    assert abs(variances.mean() - values.var()) < 4 * error
    assert 4 * error < 0.45 * values.var()


def test_the_parts_are_means_over_distinct_points():
    x, y = draw(torch.Generator().manual_seed(1), 5, 6, 0.5)
    k, c = KERNEL.gram(x), KERNEL.gram(x, y)

    def mean(values):
        values = list(values)
        return sum(values) / len(values)

    four = mean(k[a, b] * k[c_, d] for a, b, c_, d in itertools.permutations(range(5), 4))
    parts = mmd2_estimate(x, y, KERNEL).parts
    assert parts.x_first == pytest.approx(
        float(mean(k[a, b] * k[a, d] for a, b, d in itertools.permutations(range(5), 3)) - four)
    )
    assert parts.x_second == pytest.approx(
        float(mean(k[a, b] ** 2 for a, b in itertools.permutations(range(5), 2)) - four)
    )
    apart = mean(
        c[a, b] * c[d, e]
        for a, d in itertools.permutations(range(5), 2)
        for b, e in itertools.permutations(range(6), 2)
    )
    assert parts.cross_x == pytest.approx(
        float(mean(c[a, b] * c[a, e] for a in range(5) for b, e in itertools.permutations(range(6), 2)) - apart)
    )
    assert parts.cross_second == pytest.approx(float(mean(c[a, b] ** 2 for a in range(5) for b in range(6)) - apart))
    shared = mean(k[a, b] * c[a, e] for a, b in itertools.permutations(range(5), 2) for e in range(6))
    other = mean(k[a, b] * c[d, e] for a, b, d in itertools.permutations(range(5), 3) for e in range(6))
    assert parts.shared_x == pytest.approx(float(shared - other))


def test_the_parts_predict_the_variance_of_another_size():
    generator = torch.Generator().manual_seed(3)
    parts = mmd2_estimate(*draw(generator, 1500, 1500, 0.5), KERNEL).parts
    values = torch.stack([mmd2(*draw(generator, 16, 40, 0.5), KERNEL) for _ in range(1500)])
    assert parts.variance(16, 40) == pytest.approx(values.var().item(), rel=0.15)


def test_the_interval_covers_the_distance_of_laws_that_differ():
    def expected(total, sq_shift):
        return 1 / (1 + total) * torch.tensor(-sq_shift / (2 * (1 + total))).exp().item()

    truth = expected(2, 0) + expected(2 * 1.3**2, 0) - 2 * expected(1 + 1.3**2, 2 * 0.7**2)
    generator = torch.Generator().manual_seed(4)
    found = [mmd2_estimate(*draw(generator, 80, 120, 0.7), KERNEL) for _ in range(500)]
    covered = sum(each.low <= truth <= each.high for each in found) / len(found)
    assert abs(covered - 0.95) < 4 * (0.95 * 0.05 / 500) ** 0.5


def test_sums_over_pairs_do_not_depend_on_the_blocks():
    x, y = draw(torch.Generator().manual_seed(5), 9, 7, 0.0)
    gram = KERNEL.gram(x).fill_diagonal_(0)
    for size in (2, 4, 100):
        within, between = pair_sums(KERNEL, x, block_size=size), pair_sums(KERNEL, x, y, block_size=size)
        assert torch.allclose(within.rows, gram.sum(dim=1))
        assert within.squares == pytest.approx(gram.square().sum().item())
        assert torch.allclose(between.columns, KERNEL.gram(x, y).sum(dim=0))
        assert torch.allclose(between.rows, KERNEL.gram(x, y).sum(dim=1))


def test_the_estimate_is_that_of_mmd2():
    x, y = draw(torch.Generator().manual_seed(6), 9, 7, 0.3)
    assert mmd2_estimate(x, y, Polynomial()).value == pytest.approx(mmd2(x, y, Polynomial()).item(), rel=1e-12)


def test_the_linear_estimate_is_the_mean_of_its_formula():
    x, y = draw(torch.Generator().manual_seed(7), 9, 9, 0.3)
    k, c, d = KERNEL.gram(x), KERNEL.gram(x, y), KERNEL.gram(y)
    parts = torch.stack([k[i, i + 1] + d[i, i + 1] - c[i, i + 1] - c[i + 1, i] for i in (0, 2, 4, 6)])
    found = mmd2_linear(x, y, KERNEL)
    assert found.value == pytest.approx(parts.mean().item())
    assert found.variance == pytest.approx(parts.var().item() / 4)
    assert (found.num_parts, found.num_points) == (4, 8)


def test_the_block_estimate_is_the_mean_over_its_blocks():
    x, y = draw(torch.Generator().manual_seed(8), 11, 11, 0.3)
    parts = torch.stack([mmd2(x[i : i + 3], y[i : i + 3], KERNEL) for i in (0, 3, 6)])
    found = mmd2_blocks(x, y, KERNEL, num_rows=3)
    assert found.value == pytest.approx(parts.mean().item())
    assert found.variance == pytest.approx(parts.var().item() / 3)
    assert mmd2_blocks(x, y, KERNEL).num_parts == 3


def test_estimates_from_a_part_of_the_pairs_are_unbiased_and_their_variance_too():
    generator = torch.Generator().manual_seed(9)
    for estimate in (mmd2_linear, mmd2_blocks):
        draws = [draw(generator, 64, 64, 0.5) for _ in range(300)]
        found = [estimate(x, y, KERNEL) for x, y in draws]
        values = torch.tensor([each.value for each in found])
        whole = torch.stack([mmd2(x, y, KERNEL) for x, y in draws])
        difference = values - whole
        assert abs(difference.mean()) < 4 * difference.std() / len(found) ** 0.5
        variances = torch.tensor([each.variance for each in found])
        error = (variances - (values - values.mean()).square()).std() / len(found) ** 0.5
        assert abs(variances.mean() - values.var()) < 4 * error
        assert whole.var() < values.var()


def test_what_cannot_be_estimated_is_refused():
    x = torch.zeros(8, 2)
    with pytest.raises(InputError, match="x must hold at least 4 points, got 3"):
        mmd2_estimate(x[:3], x)
    with pytest.raises(InputError, match="equally many points here, got 8 and 6"):
        mmd2_linear(x, x[:6])
    with pytest.raises(InputError, match="at least two blocks, got num_rows=5 for 8 points; use at most 4"):
        mmd2_blocks(x, x, num_rows=5)
    with pytest.raises(InputError, match="level must be"):
        mmd2_estimate(x, x, level=1.0)
