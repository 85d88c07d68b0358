"""Level and power of the two-sample and the relative test, and their statistics against plain ones."""

import pytest
import torch
from scipy.stats import binomtest

from batchwright.core.errors import InputError
from batchwright.core.kernels import GaussianMixture, Linear, Polynomial
from batchwright.core.mmd import mmd2, relative_test, two_sample_test
from batchwright.core.mmd.permutation import permutation_p_value, random_members, split_values

KERNEL = GaussianMixture((1.0, 2.0))


def shifted(generator, num):
    """Three pairs whose laws differ: in the mean, in the spread, and in the dependence of the two coordinates alone."""
    x = [torch.randn(num, 2, generator=generator) for _ in range(3)]
    noise = [torch.randn(num, 2, generator=generator) for _ in range(3)]
    turned = torch.stack([noise[2][:, 0], 0.8 * noise[2][:, 0] + 0.6 * noise[2][:, 1]], dim=1)
    return {"mean": (x[0], noise[0] + 0.5), "spread": (x[1], 1.6 * noise[1]), "dependence": (x[2], turned)}


@pytest.mark.parametrize("block_size", [4, None])
def test_the_statistic_of_each_split_is_mmd2_of_that_split(block_size):
    generator = torch.Generator().manual_seed(0)
    pooled = torch.randn(15, 2, generator=generator, dtype=torch.float64)
    member = random_members(15, 6, 10, generator).double()
    found = split_values(pooled, member, KERNEL, block_size=block_size)
    for column, value in zip(member.T, found, strict=True):
        inside = column.bool()
        assert value.item() == pytest.approx(mmd2(pooled[inside], pooled[~inside], KERNEL).item(), abs=1e-12)


def test_random_members_are_uniform_subsets():
    member = random_members(6, 2, 6000, torch.Generator().manual_seed(0))
    assert (member.sum(dim=0) == 2).all()
    pairs = (member[:, None] * member[None]).sum(dim=2)[torch.ones(6, 6).triu(1).bool()]
    assert ((pairs / 6000 - 1 / 15).abs() < 4 * (1 / 15 * 14 / 15 / 6000) ** 0.5).all()


def test_a_test_repeats_with_its_generator_and_is_one_permutation_value():
    x, y = shifted(torch.Generator().manual_seed(1), 20)["mean"]
    first, second = (two_sample_test(x, y, KERNEL, generator=torch.Generator().manual_seed(5)) for _ in range(2))
    assert first == second
    assert first.statistic == pytest.approx(mmd2(x, y, KERNEL).item(), abs=1e-6)
    assert 1 / 500 <= first.p_value <= 1
    assert first.rejects(first.p_value)


def test_equal_values_of_all_splits_give_a_p_value_of_one():
    x = torch.ones(10, 2)
    assert two_sample_test(x, x.clone(), KERNEL).p_value == 1.0
    assert permutation_p_value(torch.tensor([1.0, 1.0 - 1e-9, 0.5, 2.0], dtype=torch.float64)) == 0.75


@pytest.mark.slow
@pytest.mark.parametrize(("method", "num"), [("permutation", 30), ("linear", 1000)])
def test_the_level_is_five_per_cent_within_one(method, num):
    # 1000 repeats alone scatter by 0.7 points; the first thousand is held to its binomial interval, 4000 to the band.
    generator = torch.Generator().manual_seed(0)
    rejected = []
    for _ in range(4000):
        x = torch.randn(num, 3, generator=generator)
        y = torch.randn(20 if method == "permutation" else num, 3, generator=generator)
        found = two_sample_test(x, y, KERNEL, method=method, num_permutations=199, generator=generator)
        rejected.append(found.rejects())
    assert binomtest(sum(rejected[:1000]), 1000, 0.05).pvalue > 0.001
    assert abs(sum(rejected) / len(rejected) - 0.05) < 0.01


def test_the_level_holds_in_a_short_run():
    generator = torch.Generator().manual_seed(2)
    rejected = sum(
        two_sample_test(
            torch.randn(20, 3, generator=generator),
            torch.randn(30, 3, generator=generator),
            KERNEL,
            num_permutations=99,
            generator=generator,
        ).rejects()
        for _ in range(300)
    )
    assert binomtest(rejected, 300, 0.05).pvalue > 0.001


@pytest.mark.parametrize(
    ("name", "num", "power"), [("mean", 60, 0.85), ("spread", 60, 0.85), ("dependence", 150, 0.85)]
)
def test_the_power_against_known_differences(name, num, power):
    generator = torch.Generator().manual_seed(3)
    found = [
        two_sample_test(*shifted(generator, num)[name], KERNEL, num_permutations=99, generator=generator).rejects()
        for _ in range(60)
    ]
    assert sum(found) / len(found) > power


def test_a_linear_kernel_sees_the_mean_and_not_the_spread():
    generator = torch.Generator().manual_seed(4)
    pairs = shifted(generator, 200)
    assert two_sample_test(*pairs["mean"], Linear(), generator=generator).p_value < 0.01
    assert two_sample_test(*pairs["spread"], Linear(), generator=generator).p_value > 0.05


@pytest.mark.parametrize("method", ["block", "linear"])
def test_asymptotic_methods_see_a_difference_with_more_points(method):
    x, y = shifted(torch.Generator().manual_seed(5), 4000)["mean"]
    found = two_sample_test(x, y, KERNEL, method=method)
    assert found.p_value < 1e-3
    assert found.num_permutations == 0


def test_the_relative_test_holds_its_level_and_has_power():
    # Two candidates equally far from the reference, and one nearer than the other.
    generator = torch.Generator().manual_seed(6)

    def p_value(first, second):
        reference = torch.randn(60, 2, generator=generator)
        one = torch.randn(50, 2, generator=generator) + first
        two = torch.randn(70, 2, generator=generator) + second
        return relative_test(reference, one, two, KERNEL).p_value

    equal = [p_value(torch.tensor([0.8, 0.0]), torch.tensor([-0.8, 0.0])) for _ in range(200)]
    assert binomtest(sum(p <= 0.05 for p in equal), 200, 0.05).pvalue > 0.001
    assert binomtest(sum(p <= 0.5 for p in equal), 200, 0.5).pvalue > 0.001
    assert sum(p_value(1.0, 0.2) <= 0.05 for _ in range(50)) > 40
    assert sum(p_value(0.2, 1.0) <= 0.05 for _ in range(50)) == 0


def test_the_relative_difference_and_its_jackknife_are_the_plain_ones():
    generator = torch.Generator().manual_seed(7)
    r, a, b = (torch.randn(num, 2, generator=generator, dtype=torch.float64) for num in (7, 5, 6))

    def difference(r, a, b):
        return (mmd2(r, a, Polynomial()) - mmd2(r, b, Polynomial())).item()

    found = relative_test(r, a, b, Polynomial())
    assert found.difference == pytest.approx(difference(r, a, b), rel=1e-9)
    variance = 0.0
    for which in range(3):
        samples = [r, a, b]
        values = []
        for i in range(len(samples[which])):
            kept = list(samples)
            kept[which] = torch.cat([samples[which][:i], samples[which][i + 1 :]])
            values.append(difference(*kept))
        values = torch.tensor(values, dtype=torch.float64)
        variance += (len(values) - 1) / len(values) * (values - values.mean()).square().sum().item()
    assert found.standard_error == pytest.approx(variance**0.5, rel=1e-9)


def test_what_cannot_be_tested_is_refused():
    x = torch.zeros(8, 2)
    with pytest.raises(
        InputError, match="num_permutations must be an integer of at least 19, got 9; fewer cannot reach"
    ):
        two_sample_test(x, x, num_permutations=9)
    with pytest.raises(InputError, match="method must be one of block, linear, permutation, got 'gamma'"):
        two_sample_test(x, x, method="gamma")
    with pytest.raises(InputError, match="the statistic must be finite"):
        two_sample_test(x * torch.nan, x)
    with pytest.raises(InputError, match="y must hold at least 3 points, got 2"):
        relative_test(x, x[:2], x)
