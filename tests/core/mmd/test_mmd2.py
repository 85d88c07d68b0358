"""Squared MMD against a plain loop in float64, closed forms for normal laws, and its first and second derivatives."""

import copy
import inspect
from typing import ClassVar

import pytest
import torch

import batchwright as bw
from batchwright.core.errors import InputError
from batchwright.core.kernels import GaussianMixture, Kernel, Laplace, Linear, Polynomial, RationalQuadratic
from batchwright.core.mmd import mmd2
from batchwright.core.mmd.blocks import cut, upper_triangle
from batchwright.core.mmd.value import checked_samples

KERNELS = {
    "published": None,
    "no ladder": GaussianMixture((1.0, 3.0, 6.0), (1.0, 2.0, 0.5)),
    "rational quadratic": RationalQuadratic(),
    "laplace": Laplace(),
    "linear": Linear(),
    "cubic": Polynomial(),
    "dot added": RationalQuadratic((0.5, 1.0)) + 0.3 * Linear(),
}


def plain(x, y, kernel, unbiased):
    """Three means over pairs, one pair after another."""
    kernel = GaussianMixture() if kernel is None else kernel

    def mean(a, b, same):
        values = [
            kernel.paired(a[i : i + 1], b[j : j + 1]).item()
            for i in range(len(a))
            for j in range(len(b))
            if not (same and unbiased and i == j)
        ]
        return sum(values) / len(values)

    return mean(x, x, True) + mean(y, y, True) - 2 * mean(x, y, False)


def samples(m, n, h, dtype=torch.float64, shift=0.5):
    generator = torch.Generator().manual_seed(m + n)
    x = torch.randn(m, h, generator=generator, dtype=dtype)
    return x, torch.randn(n, h, generator=generator, dtype=dtype) + shift


@pytest.mark.parametrize("unbiased", [True, False])
@pytest.mark.parametrize("name", KERNELS)
def test_the_value_is_that_of_a_plain_loop(name, unbiased):
    x, y = samples(5, 8, 3)
    wanted = plain(x, y, KERNELS[name], unbiased)
    for block_size in (1, 3, 4, 13, None):
        found = mmd2(x, y, KERNELS[name], unbiased, block_size=block_size)
        assert found.item() == pytest.approx(wanted, rel=1e-12)
        with_grad = mmd2(x.clone().requires_grad_(), y, KERNELS[name], unbiased, block_size=block_size)
        assert with_grad.item() == pytest.approx(found.item(), rel=1e-13)


@pytest.mark.parametrize("unbiased", [True, False])
@pytest.mark.parametrize("block_size", [3, 100])
@pytest.mark.parametrize("name", KERNELS)
def test_first_and_second_derivatives_are_those_of_finite_differences(name, block_size, unbiased):
    x, y = (sample.requires_grad_() for sample in samples(4, 6, 2))

    def value(a, b):
        return mmd2(a, b, KERNELS[name], unbiased, block_size=block_size)

    assert torch.autograd.gradcheck(value, (x, y))
    assert torch.autograd.gradgradcheck(value, (x, y))


class OwnLinear(Kernel):
    """Gives back its argument, whose derivative is one number seen many times."""

    of_product: ClassVar[bool] = True

    def values(self, pairs):
        return pairs.product


@pytest.mark.parametrize("block_size", [3, 100])
def test_a_kernel_of_ones_own_may_give_back_its_argument(block_size):
    x, y = (sample.requires_grad_() for sample in samples(4, 6, 2))
    wanted, found = (mmd2(x, y, kernel, block_size=block_size) for kernel in (Linear(), OwnLinear()))
    assert found.item() == pytest.approx(wanted.item(), rel=1e-12)
    for a, b in zip(torch.autograd.grad(found, (x, y)), torch.autograd.grad(wanted, (x, y)), strict=True):
        assert torch.allclose(a, b, rtol=1e-12)


def test_one_sample_alone_may_need_a_gradient():
    x, y = samples(4, 6, 2)
    y.requires_grad_()
    mmd2(x, y).backward()
    assert x.grad is None
    both = torch.autograd.grad(mmd2(x.clone().requires_grad_(), y), y)[0]
    assert torch.equal(y.grad, both)


def test_a_third_derivative_is_there():
    x, y = samples(3, 3, 1)
    y.requires_grad_()
    first = torch.autograd.grad(mmd2(x, y), y, create_graph=True)[0]
    second = torch.autograd.grad(first.square().sum(), y, create_graph=True)[0]
    third = torch.autograd.grad(second.sum(), y)[0]

    def gradient_of_second(at):
        at = at.detach().requires_grad_()
        first = torch.autograd.grad(mmd2(x, at), at, create_graph=True)[0]
        return torch.autograd.grad(first.square().sum(), at)[0].sum()

    step = 1e-5
    for i in range(3):
        change = torch.zeros_like(y)
        change[i] = step
        slope = (gradient_of_second(y + change) - gradient_of_second(y - change)) / (2 * step)
        assert third[i].item() == pytest.approx(slope.item(), abs=1e-7)


@pytest.mark.parametrize("name", KERNELS)
def test_equal_samples_give_zero_and_finite_gradients_in_float32(name):
    x, _ = samples(40, 40, 5, torch.float32)
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    value = mmd2(a, b, KERNELS[name], unbiased=False)
    value.backward()
    scale = 1e-3 if name == "laplace" else 2e-6  # the root of a rounded distance
    assert abs(value.item()) < scale
    assert a.grad.isfinite().all()
    assert a.grad.abs().max() < 100 * scale


def test_float32_is_near_float64_also_far_from_the_origin():
    x, y = samples(300, 500, 64, torch.float64, shift=0.1)
    for offset in (0.0, 1000.0):
        a, b = ((sample + offset).float().requires_grad_() for sample in (x, y))
        c, d = (sample.detach().double().requires_grad_() for sample in (a, b))
        kernel = GaussianMixture((4.0, 8.0, 16.0))
        near, exact = mmd2(a, b, kernel), mmd2(c, d, kernel)
        assert near.item() == pytest.approx(exact.item(), abs=1e-6)
        near.backward()
        exact.backward()
        assert (a.grad - c.grad).abs().max() < 1e-4 * c.grad.abs().max()


def test_half_precision_is_computed_in_float32():
    x, y = samples(10, 10, 4, torch.float32)
    found = mmd2(x.bfloat16(), y.bfloat16())
    assert found.dtype == torch.float32
    assert found == mmd2(x.bfloat16().float(), y.bfloat16().float())


def test_means_of_both_estimates_at_sixty_four_points_of_one_law():
    # Target 1 of the paper's sheet: X, Y ~ N(0, I_10), B = 64, 200 draws.
    generator = torch.Generator().manual_seed(0)
    draws = [torch.randn(2, 64, 10, generator=generator) for _ in range(200)]
    biased = torch.stack([mmd2(x, y, unbiased=False) for x, y in draws])
    unbiased = torch.stack([mmd2(x, y) for x, y in draws])
    assert biased.mean().item() == pytest.approx(0.078, abs=0.002)
    assert unbiased.mean().item() == pytest.approx(0.0, abs=0.003)
    assert (biased >= 0).all()


@pytest.mark.parametrize(
    ("h", "wanted"),
    [
        (1, (0.0853, 0.0213, 0.0053, 0.0014)),
        (10, (0.311, 0.0778, 0.0195, 0.0050)),
        (64, (0.478, 0.1195, 0.0299, 0.0076)),
    ],
)
def test_the_bias_is_the_closed_form_of_the_sheet(h, wanted):
    # E k(x, x') = sum_s (s^2 / (s^2 + 2))^(h/2) for X ~ N(0, I): the published table, and the estimate's own bias.
    spread = sum((s * s / (s * s + 2)) ** (h / 2) for s in (1, 2, 4, 8, 16))
    for batch_size, number in zip((16, 64, 256, 1000), wanted, strict=True):
        bias = 2 * (5 - spread) / batch_size
        assert bias == pytest.approx(number, abs=0.6 * 10.0 ** -len(str(number).split(".")[1]))
    generator = torch.Generator().manual_seed(h)
    found = []
    for _ in range(400):
        x, y = torch.randn(2, 16, h, generator=generator)
        found.append(mmd2(x, y, unbiased=False))
    values = torch.stack(found)
    assert abs(values.mean() - 2 * (5 - spread) / 16) < 4 * values.std() / 20


def test_the_expectation_for_two_normal_laws_is_the_closed_form():
    # For N(0, I) against N(mu, t^2 I): E k(x, y) = (s^2 / (s^2 + 1 + t^2))^(h/2) exp(-|mu|^2 / (2 (s^2 + 1 + t^2))).
    h, t, shift, std = 3, 1.5, 0.7, 2.0

    def expected(total, sq_shift):
        return (std**2 / (std**2 + total)) ** (h / 2) * torch.tensor(-sq_shift / (2 * (std**2 + total))).exp().item()

    wanted = expected(2, 0) + expected(2 * t * t, 0) - 2 * expected(1 + t * t, h * shift**2)
    generator = torch.Generator().manual_seed(0)
    found = []
    for _ in range(400):
        x = torch.randn(30, h, generator=generator, dtype=torch.float64)
        y = t * torch.randn(50, h, generator=generator, dtype=torch.float64) + shift
        found.append(mmd2(x, y, GaussianMixture((std,))))
    values = torch.stack(found)
    assert abs(values.mean() - wanted) < 4 * values.std() / 20


def test_flips_of_coordinates_leave_the_biased_estimate_alone():
    # Target 2: the feasible set of MMD GAN may be halved, since a flip of a coordinate of the critic keeps every distance.
    x, y = samples(64, 64, 10)
    flip = torch.tensor([1.0, -1.0] * 5, dtype=torch.float64)
    assert abs(mmd2(x, y, unbiased=False) - mmd2(flip * x, flip * y, unbiased=False)) < 1e-12


@pytest.mark.parametrize(
    ("theta", "clipped", "scaled"), [(1.0, 0.8871, 0.2721), (0.1, 0.0999, 0.0311), (0.01, 0.0100, 0.00316)]
)
def test_the_dirac_table(theta, clipped, scaled):
    # Target 2, table 1.8: P = delta_0 against delta_theta under f(x) = psi x and one Gaussian of bandwidth 1.
    psi = torch.cat([torch.linspace(0, 60, 60001), torch.logspace(1, 5, 20001)]).double()
    kernel = GaussianMixture((1.0,))

    def distance(factor):
        x, y = torch.zeros(1, 1, dtype=torch.float64), torch.full((1, 1), factor * theta, dtype=torch.float64)
        return mmd2(x, y, kernel, unbiased=False)

    # The squared MMD of two points, at all factors at once.
    squared = 2 - 2 * kernel.paired(torch.zeros_like(psi)[:, None], (psi * theta)[:, None])
    for at in (10, 1000, 60005):
        assert squared[at].item() == pytest.approx(distance(psi[at].item()).item(), abs=1e-12)
    digits = 5e-5 if theta > 0.05 else 5e-6
    assert squared[psi <= 1].max().sqrt().item() == pytest.approx(clipped, abs=5e-5)
    assert squared.max().sqrt().item() == pytest.approx(2**0.5, abs=1e-6)
    assert (squared / (1 + 10 * psi**2)).max().sqrt().item() == pytest.approx(scaled, abs=digits)


def test_small_distances_are_in_the_quadratic_regime():
    # Section 1.4: sum_s 1/s^2 = 1.332 times the squared distance of the means.
    x, y = samples(200, 200, 8, shift=1.0)
    x, y = 1e-3 * x, 1e-3 * y
    wanted = sum(1 / s**2 for s in (1, 2, 4, 8, 16)) * (x.mean(dim=0) - y.mean(dim=0)).square().sum()
    assert mmd2(x, y, unbiased=False).item() == pytest.approx(wanted.item(), rel=1e-4)


def test_nan_in_a_sample_gives_nan():
    x, y = samples(5, 5, 2)
    x[3, 1] = torch.nan
    assert mmd2(x, y).isnan()
    x.requires_grad_()
    value = mmd2(x, y)
    value.backward()
    assert value.isnan()
    assert x.grad.isnan().any()


def test_blocks_cover_the_upper_triangle_once():
    seen = torch.zeros(23, 23)
    for rows, columns in upper_triangle(cut(23, 5)):
        seen[slice(*rows), slice(*columns)] += 1
    assert torch.equal((seen + seen.T).clamp(max=1), torch.ones(23, 23))
    assert seen[torch.ones(23, 23, dtype=torch.bool).triu()].min() == seen.max() == 1


def test_the_room_offers_it_and_leaves_its_samples_alone():
    x, y = samples(6, 7, 2)
    kept = copy.deepcopy((x, y))
    assert bw.gan.mmd2(x, y, None, True) == mmd2(x, y)
    bw.gan.mmd2(x.requires_grad_(), y, unbiased=False).backward()
    assert torch.equal(x, kept[0])
    assert torch.equal(y, kept[1])


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (torch.ones(3, 2), torch.ones(3, 4), "x and y must agree in dimension.*got 2.*4"),
        (torch.ones(3, 2), torch.ones(3, 2).double(), "x and y must agree in.*data type"),
        (torch.ones(1, 2), torch.ones(3, 2), "x must hold at least 2 points, got 1"),
        (torch.ones(3, 2), torch.ones(0, 2), "y must hold at least 2 points, got 0"),
    ],
)
def test_samples_that_do_not_go_together_are_refused(x, y, message):
    with pytest.raises(InputError, match=message):
        checked_samples(x, y, at_least=2)
    with pytest.raises(InputError, match="block_size must be an integer of at least 1"):
        mmd2(torch.ones(3, 2), torch.ones(3, 2), block_size=0)


def test_an_array_is_refused_with_the_way_to_a_tensor():
    # Beside the type checks of the test run, which a user has not.
    with pytest.raises(InputError, match=r"x must be a tensor, got ndarray; torch.as_tensor\(...\) makes one"):
        inspect.unwrap(checked_samples)(torch.ones(3, 2).numpy(), torch.ones(3, 2), at_least=2)
