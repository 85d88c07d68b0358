"""Each kernel against a plain loop in float64, with its slopes, at distance zero, far from the origin, added and scaled."""

import math

import pytest
import torch

from batchwright.core.errors import InputError
from batchwright.core.kernels import (
    GaussianMixture,
    Kernel,
    Laplace,
    Linear,
    Pairs,
    Polynomial,
    RationalQuadratic,
    median_distance,
    median_gaussians,
)


def gaussians(stds, weights=None):
    weights = weights or [1.0] * len(stds)
    return lambda a, b: sum(
        w * math.exp(-((a - b) ** 2).sum().item() / (2 * s * s)) for s, w in zip(stds, weights, strict=True)
    )


PLAIN = {
    "published": (GaussianMixture(), gaussians([1, 2, 4, 8, 16])),
    "weights": (GaussianMixture((8.0, 1.0, 2.0), (0.5, 2.0, 3.0)), gaussians([8, 1, 2], [0.5, 2, 3])),
    "no ladder": (GaussianMixture((1.0, 3.0, 0.7)), gaussians([1, 3, 0.7])),
    "root two": (
        GaussianMixture.of_variances([2, 5, 10, 20, 40, 80]),
        gaussians([v**0.5 for v in (2, 5, 10, 20, 40, 80)]),
    ),
    "equal twice": (GaussianMixture((2.0, 2.0)), gaussians([2, 2])),
    "rational quadratic": (
        RationalQuadratic(),
        lambda a, b: sum((1 + ((a - b) ** 2).sum().item() / (2 * c)) ** -c for c in (0.2, 0.5, 1, 2, 5)),
    ),
    "laplace": (Laplace((1.0, 3.0)), lambda a, b: sum(math.exp(-math.dist(a, b) / s) for s in (1, 3))),
    "linear": (Linear(), lambda a, b: (a @ b).item()),
    "cubic": (Polynomial(), lambda a, b: ((a @ b).item() / len(a) + 1) ** 3),
    "quadratic": (Polynomial(degree=2, scale=0.5, offset=0.0), lambda a, b: (0.5 * (a @ b).item()) ** 2),
    "dot added": (
        RationalQuadratic((1.0,)) + 0.5 * Linear(),
        lambda a, b: 1 / (1 + ((a - b) ** 2).sum().item() / 2) + 0.5 * (a @ b).item(),
    ),
    "three added": (
        2 * (GaussianMixture((1.0,)) + Linear()) + Laplace(),
        lambda a, b: 2 * gaussians([1])(a, b) + 2 * (a @ b).item() + math.exp(-math.dist(a, b)),
    ),
}


def points(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("name", PLAIN)
def test_a_kernel_is_its_formula(name):
    kernel, plain = PLAIN[name]
    x, y = points(4, 3), points(5, 3, seed=1)
    found = kernel.gram(x, y)
    assert torch.allclose(found, torch.tensor([[plain(a, b) for b in y] for a in x], dtype=torch.float64), rtol=1e-12)
    assert torch.allclose(kernel.paired(x, y[:4]), found.diagonal(), rtol=1e-12)
    assert torch.allclose(kernel.diagonal(x), torch.tensor([plain(a, a) for a in x], dtype=torch.float64), rtol=1e-12)


@pytest.mark.parametrize("name", PLAIN)
def test_slopes_are_the_derivatives_of_the_values(name):
    kernel, _ = PLAIN[name]
    distance, product = points(6, 4).square(), points(6, 4, seed=1)
    leaves = [distance.clone().requires_grad_(), product.clone().requires_grad_()]
    values = kernel.values(Pairs(sq_distance=leaves[0], product=leaves[1], dim=3))
    wanted = torch.autograd.grad(values.sum(), leaves, allow_unused=True)
    found = kernel.slopes(Pairs(sq_distance=distance.clone(), product=product.clone(), dim=3))
    assert torch.allclose(found.values, values.detach(), rtol=1e-12)
    for slope, derivative in zip((found.by_distance, found.by_product), wanted, strict=True):
        assert (slope is None) == (derivative is None)
        if derivative is not None:
            assert torch.allclose(slope, derivative, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", PLAIN)
def test_a_gram_matrix_is_positive_and_symmetric(name):
    gram = PLAIN[name][0].gram(points(12, 3))
    assert torch.equal(gram, gram.T) or torch.allclose(gram, gram.T, rtol=1e-13)
    assert torch.linalg.eigvalsh(gram).min() > -1e-10 * gram.abs().max()


@pytest.mark.parametrize("name", PLAIN)
def test_a_gram_matrix_is_twice_differentiable(name):
    x, y = points(3, 2).requires_grad_(), points(4, 2, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(PLAIN[name][0].gram, (x, y))
    assert torch.autograd.gradgradcheck(PLAIN[name][0].gram, (x, y))


@pytest.mark.parametrize("name", PLAIN)
def test_equal_rows_give_finite_first_and_second_derivatives(name):
    x = points(3, 2, dtype=torch.float32).requires_grad_()
    y = x.detach().clone().requires_grad_()
    for other in (None, y):
        first = torch.autograd.grad(PLAIN[name][0].gram(x, other).square().sum(), x, create_graph=True)[0]
        second = torch.autograd.grad(first.square().sum(), x)[0]
        assert first.isfinite().all()
        assert second.isfinite().all()


def test_the_curvature_at_distance_zero_is_not_lost_to_rounding():
    # d^2/dx^2 of exp(-|x - y|^2 / 2) at x = y is -1, also where the distance was rounded to below zero and lifted to it.
    x = (100 + points(1, 3, dtype=torch.float32)).requires_grad_()
    y = x.detach().repeat(1, 1)
    first = torch.autograd.grad(GaussianMixture((1.0,)).gram(x, y).sum(), x, create_graph=True)[0]
    second = torch.autograd.grad(first[0, 0], x)[0]
    assert second[0, 0] == pytest.approx(-1.0, abs=1e-4)


def test_float32_distances_are_never_negative_and_exact_far_from_the_origin():
    x = points(200, 64, dtype=torch.float32)
    far = x + 3000
    from batchwright.core.kernels.pairs import pairs_of

    found = pairs_of(far, far[:100].clone(), distance=True, product=False).sq_distance
    wanted = torch.cdist(far.double(), far[:100].double()).square()
    assert found.min() >= 0
    assert (found - wanted).abs().max() < 2e-4  # one unit in the last place of ||x||^2 would be 32 at the origin
    assert torch.equal(pairs_of(far, None, distance=True, product=False).sq_distance.diagonal(), torch.zeros(200))


def test_one_exponential_serves_bandwidths_that_double():
    assert [squarings for *_, squarings in GaussianMixture()._ladder] == [0, 2, 2, 2, 2]
    assert [squarings for *_, squarings in GaussianMixture.of_variances([10, 20, 40, 80])._ladder] == [0, 1, 1, 1]
    assert [squarings for *_, squarings in GaussianMixture((1.0, 2.0, 3.0))._ladder] == [0, 0, 2]
    # Each power multiplies the rounding error of the exponential; past 2^8 there is another one.
    assert [s for *_, s in GaussianMixture(tuple(2.0**i for i in range(7)))._ladder] == [0, 2, 2, 2, 2, 0, 2]


def test_the_ladder_in_float32_is_as_near_as_float32_allows():
    distance = torch.linspace(0, 2000, 20001)
    kernel = GaussianMixture()
    exact = kernel.values(Pairs(sq_distance=distance.double(), product=distance, dim=1))
    found = kernel.slopes(Pairs(sq_distance=distance.clone(), product=distance, dim=1))
    assert (found.values - exact).abs().max() < 2e-5
    assert (found.values - exact).double().mean().abs() < 2e-6


def test_conventions_of_a_bandwidth():
    assert GaussianMixture.of_variances([4.0, 9.0]) == GaussianMixture((2.0, 3.0))
    one = torch.ones(1, 1)
    assert GaussianMixture((2.0,)).gram(0 * one, one).item() == pytest.approx(math.exp(-1 / 8))
    assert GaussianMixture().diagonal(one).item() == 5.0
    assert {GaussianMixture(): 1}[GaussianMixture((1.0, 2.0, 4.0, 8.0, 16.0))] == 1


def test_the_median_distance_is_that_of_distinct_pairs():
    x = points(40, 3)
    pairs = [math.dist(x[i], x[j]) for i in range(40) for j in range(i)]
    assert median_distance(x) == pytest.approx(sorted(pairs)[(len(pairs) - 1) // 2])
    assert median_gaussians(x).stds[2] == pytest.approx(median_distance(x))
    assert [squarings for *_, squarings in median_gaussians(x)._ladder] == [0, 2, 2, 2, 2]
    with pytest.raises(InputError, match=r"median distance of points must be above zero, got 0.*GaussianMixture"):
        median_distance(torch.ones(5, 2))
    with pytest.raises(InputError, match="points must hold at least 2 rows, got 1"):
        median_distance(torch.ones(1, 2))


def test_a_kernel_of_ones_own_needs_its_values_alone():
    class InverseMultiquadric(Kernel):
        of_distance = True

        def values(self, pairs):
            return (1 + pairs.sq_distance) ** -0.5

    found = InverseMultiquadric().slopes(Pairs(sq_distance=torch.tensor([3.0]), product=torch.empty(0), dim=1))
    assert found.values.item() == pytest.approx(0.5)
    assert found.by_distance.item() == pytest.approx(-0.5 * 4**-1.5)
    assert found.by_product is None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GaussianMixture(()), "stds must hold at least one bandwidth"),
        (lambda: GaussianMixture((1.0, 0.0)), "std must be a finite number and above 0, got 0.0"),
        (lambda: GaussianMixture((1.0,), (1.0, 2.0)), "weights must hold one number a bandwidth, got 2 for 1"),
        (lambda: GaussianMixture.of_variances([-1.0]), "variance must be a finite number and above 0, got -1.0"),
        (lambda: RationalQuadratic(()), "alphas must hold at least one"),
        (lambda: Laplace((-1.0,)), "scale must be a finite number and above 0"),
        (lambda: Laplace(()), "scales must hold at least one"),
        (lambda: Polynomial(degree=0), "degree must be an integer of at least 1"),
        (lambda: Polynomial(offset=-1.0), "offset must be a finite number and at least 0"),
        (lambda: -1 * Linear(), "weight of a kernel must be a finite number and above 0.*difference of kernels"),
    ],
)
def test_what_makes_no_kernel_is_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()
