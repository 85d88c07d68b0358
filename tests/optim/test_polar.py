"""The polar factor by every route against the singular value decomposition in float64."""

import math

import pytest
import torch

from batchwright.core.errors import InputError
from batchwright.optim.polar import (
    PolarOptions,
    exact_polar,
    polar,
    polar_all,
    polar_of_factors,
    smoothing_for,
    svd_polar,
)
from batchwright.optim.polar.gram import eigenvalue_bounds, full_gram, lower_gram

SHAPES = [(1, 1), (1, 7), (7, 1), (5, 5), (40, 24), (24, 40), (130, 300)]
SPECTRA = {
    "flat": lambda size: torch.ones(size),
    "linear": lambda size: torch.linspace(0.1, 1, size),
    "power law": lambda size: torch.arange(1, size + 1.0) ** -1.0,
    "steps of ten": lambda size: torch.logspace(0, -2.5, size),
    "spike": lambda size: torch.cat([torch.ones(1), torch.full((size - 1,), 0.02)]),
}
ROUTES = ("rational", "polar-express", "gram", "newton-schulz", "exact")


def with_spectrum(rows, columns, values, seed=0):
    generator = torch.Generator().manual_seed(seed)
    size = min(rows, columns)
    left = torch.linalg.qr(torch.randn(rows, size, generator=generator, dtype=torch.float64))[0]
    right = torch.linalg.qr(torch.randn(columns, size, generator=generator, dtype=torch.float64))[0]
    return (left * values.double()) @ right.T, left @ right.T


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", SPECTRA)
def test_every_route_is_as_near_to_the_exact_factor_as_it_says(shape, name):
    matrix, factor = with_spectrum(*shape, SPECTRA[name](min(shape)))
    for route in ROUTES:
        for dtype in (torch.float32, torch.float64):
            options = PolarOptions(route=route, dtype=str(dtype).removeprefix("torch."))
            found = polar(matrix.to(dtype), options)
            assert found.dtype == dtype
            error = torch.linalg.matrix_norm(found.double() - factor, 2)
            bound = {"newton-schulz": 0.33, "exact": 2e-4 if dtype == torch.float32 else 1e-9}.get(route, 0.185)
            if route in ("polar-express", "gram", "newton-schulz"):
                # Over the Frobenius norm the spectrum begins lower, by up to the root of its length, and so may end lower.
                low = torch.linalg.svdvals(matrix)[-1] / torch.linalg.matrix_norm(matrix)
                bound = bound if low >= 1e-3 else 0.75
            assert error <= bound, (route, dtype, float(error))


@pytest.mark.parametrize("shape", [(64, 64), (256, 64), (96, 160)])
@pytest.mark.parametrize("name", [*SPECTRA, "gauss"])
def test_five_terms_are_nearer_than_the_five_quintics_of_torch_and_so_is_the_default(shape, name):
    if name == "gauss":
        matrix = torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        factor = svd_polar(matrix)
    else:
        matrix, factor = with_spectrum(*shape, SPECTRA[name](min(shape)))
    quintic = polar(matrix.float(), PolarOptions(route="newton-schulz", depth=5))
    for options in (PolarOptions(), PolarOptions(route="rational", depth=5)):
        found = polar(matrix.float(), options)
        assert torch.linalg.norm(found - factor) < torch.linalg.norm(quintic - factor)


def test_five_fixed_steps_are_those_of_torch():
    muon = pytest.importorskip("torch.optim._muon")
    for shape in ((20, 30), (30, 20)):
        matrix = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
        ours = polar(matrix, PolarOptions(route="newton-schulz", depth=5))
        theirs = muon._zeropower_via_newtonschulz(matrix, (3.4445, -4.7750, 2.0315), 5, 1e-7)
        # Both in bfloat16, which has three digits; theirs ends in it too.
        assert (ours - theirs.float()).abs().max() < 0.02


def test_bfloat16_steps_stay_below_the_margin():
    for seed in range(5):
        matrix, _ = with_spectrum(96, 96, torch.logspace(0, -3, 96), seed)
        for depth in (5, 8):
            values = torch.linalg.svdvals(polar(matrix.float(), PolarOptions(route="polar-express", depth=depth)))
            assert values.max() < 1.2, (seed, depth)


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_type_of_the_matrix_comes_back(route, dtype):
    matrix = torch.randn(6, 9, generator=torch.Generator().manual_seed(0)).to(dtype)
    found = polar(matrix, PolarOptions(route=route))
    assert found.dtype == dtype
    assert torch.linalg.norm(found.double() - svd_polar(matrix.double())) < 0.33 * 6**0.5


@pytest.mark.parametrize("route", ROUTES)
def test_zeros_stay_zeros_and_nan_and_infinities_are_seen(route):
    options = PolarOptions(route=route)
    assert torch.equal(polar(torch.zeros(4, 7), options), torch.zeros(4, 7))
    assert torch.equal(polar(torch.zeros(7, 4), options), torch.zeros(7, 4))
    assert polar(torch.zeros(0, 4), options).shape == (0, 4)
    for bad in (math.nan, math.inf):
        matrix = torch.randn(4, 7)
        matrix[1, 2] = bad
        assert polar(matrix, options).isnan().any()


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("size", [1e-38, 1e-20, 1e20, 1e38])
def test_the_size_of_the_entries_is_of_no_account(route, size):
    matrix = torch.randn(8, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    small = polar((matrix * size / matrix.abs().max()).float(), PolarOptions(route=route))
    plain = polar((matrix / matrix.abs().max()).float(), PolarOptions(route=route))
    # Below 1e-38 float32 has fewer digits: the matrix itself is no longer the same.
    assert torch.allclose(small, plain, atol=0.03 if size == 1e-38 or route != "rational" else 1e-4)


@pytest.mark.parametrize("route", ["rational", "exact"])
@pytest.mark.parametrize("rank", [1, 3, 10])
def test_the_factor_of_a_matrix_of_lower_rank_is_the_partial_isometry(route, rank):
    generator = torch.Generator().manual_seed(0)
    left, right = torch.randn(64, rank, generator=generator), torch.randn(48, rank, generator=generator)
    matrix = left @ right.T
    found = polar(matrix, PolarOptions(route=route)).double()
    u, s, v = torch.linalg.svd(matrix.double(), full_matrices=False)
    wanted = u[:, :rank] @ v[:rank]
    assert torch.linalg.matrix_norm(found - wanted, 2) < (0.18 if route == "rational" else 1e-4)
    assert s[rank] < 1e-4 * s[0]


def test_the_power_law_tail_that_five_steps_lose_is_lifted_by_the_depth_asked_for():
    matrix, factor = with_spectrum(128, 128, torch.arange(1, 129.0) ** -2.0)
    lost = polar(matrix.float(), PolarOptions(route="newton-schulz", depth=5))
    kept = polar(matrix.float(), PolarOptions(smallest=128.0**-2))
    assert torch.linalg.norm(lost - factor) / 128**0.5 > 0.6
    assert torch.linalg.matrix_norm(kept - factor, 2) < 0.01  # below float32's squares, so the exact route


def test_auto_names_its_route():
    options = PolarOptions()
    assert options.route_for(10, 20) == "rational"
    assert PolarOptions(smallest=1e-5).route_for(10, 20) == "exact"
    assert options.route_for(10, 20, "cuda") == "polar-express"
    gram = PolarOptions(route="gram")
    assert (gram.route_for(10, 15), gram.route_for(14, 10)) == ("gram", "polar-express")


def test_a_batch_is_its_matrices_one_by_one():
    batch = torch.randn(2, 3, 6, 9, generator=torch.Generator().manual_seed(0))
    for route in ROUTES:
        options = PolarOptions(route=route, dtype="float32")
        found = polar(batch, options)
        for i in range(2):
            for j in range(3):
                assert torch.allclose(found[i, j], polar(batch[i, j], options), atol=2e-5)
    matrices = [batch[0, 0], batch[0, 1].T, batch[1, 2]]
    for each, found in zip(matrices, polar_all(matrices), strict=True):
        assert torch.equal(found, polar(each))


def test_the_matrix_is_left_as_it_was():
    for size in (1.0, 1e-30):
        matrix = size * torch.randn(8, 5)
        before = matrix.clone()
        for route in ROUTES:
            polar(matrix, PolarOptions(route=route))
        assert torch.equal(matrix, before)


def test_the_smoothed_factor_maps_each_singular_value_as_it_says():
    values = torch.logspace(0, -3, 20, dtype=torch.float64)
    matrix, _ = with_spectrum(20, 33, values)
    for dtype, size in ((torch.float64, 1.0), (torch.float32, 1.0), (torch.float32, 2.0**-50)):
        for smoothing in (0.01, 0.3):
            found = exact_polar((size * matrix).to(dtype), smoothing=size * smoothing)
            wanted = values / (values.square() + smoothing**2).sqrt()
            assert torch.linalg.svdvals(found.double()) == pytest.approx(wanted.numpy(), rel=2e-4)
    assert smoothing_for(100, num_rows=10, alpha=2.0) == pytest.approx(0.01)


def test_two_thin_factors_give_the_factor_of_their_product():
    generator = torch.Generator().manual_seed(0)
    for rank in (1, 4, 12):
        left = torch.randn(30, rank, generator=generator)
        right = torch.randn(12, rank, generator=generator)
        u, _, v = torch.linalg.svd((left @ right.T).double(), full_matrices=False)
        wanted = u[:, :rank] @ v[:rank]
        assert torch.linalg.matrix_norm(polar_of_factors(left, right) - wanted, 2) < 1e-4
    with pytest.raises(InputError, match="must have at most 3 columns"):
        polar_of_factors(torch.ones(5, 4), torch.ones(3, 4))


def test_the_blocks_of_a_gram_matrix_make_it():
    for rows in (1, 128, 129, 300):
        wide = torch.randn(rows, 310, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        assert torch.allclose(lower_gram(wide), (wide @ wide.T).tril())
        assert torch.allclose(full_gram(wide), wide @ wide.T)


@pytest.mark.parametrize("name", SPECTRA)
def test_the_bounds_hold_all_eigenvalues(name):
    matrix, _ = with_spectrum(60, 70, SPECTRA[name](60))
    gram = lower_gram(matrix.float())
    low, high = eigenvalue_bounds(gram)
    values = torch.linalg.svdvals(matrix).square()
    assert low <= values.min() * (1 + 1e-5)
    assert values.max() * (1 - 1e-5) <= high <= torch.linalg.norm(full_gram(matrix)) * (1 + 1e-3)
    if name == "flat":
        assert low == pytest.approx(1.0, abs=0.02)
        assert high == pytest.approx(1.0, abs=0.02)


def test_what_is_no_matrix_is_refused():
    with pytest.raises(InputError, match="matrix must be of real floats and have at least two axes"):
        polar(torch.ones(3))
    with pytest.raises(InputError, match="of real floats"):
        polar(torch.ones(3, 3, dtype=torch.int64))
    with pytest.raises(InputError, match="dtype must be float32 or float64 for route='gram'"):
        PolarOptions(route="gram", dtype="bfloat16")
    with pytest.raises(InputError, match="route must be one of"):
        PolarOptions(route="svd")
