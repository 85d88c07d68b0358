"""The depth of the polar factor from a measured spectrum: the exact singular values are the oracle."""

import math

import pytest
import torch

from batchwright.core.errors import InputError
from batchwright.optim import Muon, PolarOptions, polar
from batchwright.optim.polar import depth_for, measure_spectrum

ROUTES = ("rational", "polar-express", "newton-schulz")


def matrix_of(values: torch.Tensor, num_columns: int, seed: int = 0) -> torch.Tensor:
    """A matrix with these singular values, in float64."""
    generator = torch.Generator().manual_seed(seed)
    left = torch.linalg.qr(torch.randn(len(values), len(values), generator=generator, dtype=torch.float64)).Q
    right = torch.linalg.qr(torch.randn(num_columns, len(values), generator=generator, dtype=torch.float64)).Q
    return left @ torch.diag(values.double()) @ right.mT


def power_law(size: int, alpha: float) -> torch.Tensor:
    return torch.arange(1.0, size + 1, dtype=torch.float64) ** -alpha


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0, 1.5, 2.0])
@pytest.mark.parametrize("share", [0.9, 0.99, 0.999])
@pytest.mark.parametrize("shape", [(48, 80), (80, 48), (48, 48)])
def test_a_power_law_is_measured_as_the_exact_decomposition_has_it(alpha, share, shape):
    values = power_law(48, alpha)
    matrix = matrix_of(values, 80 if shape != (48, 48) else 48)
    matrix = matrix.mT if shape == (80, 48) else matrix
    exact = torch.linalg.svdvals(matrix)
    wanted = 1 + int((exact.cumsum(0) < share * exact.sum()).sum())
    for route in ROUTES:
        found = measure_spectrum(matrix.float(), share=share, route=route)
        assert abs(found.num_carrying - wanted) <= (1 if alpha == 0.0 else 0)
        bound = float(torch.linalg.norm(exact))
        if route == "rational":
            squares = exact.square()
            bound = float((squares.mean() + squares.std(correction=0) * math.sqrt(47)).sqrt())
        place = float(exact[found.num_carrying - 1]) / bound
        # A power of two, at most a factor of 2 below.
        assert found.smallest <= place * (1 + 1e-6)
        assert found.smallest > place / 2 * (1 - 1e-6)
        assert math.log2(found.smallest) == round(math.log2(found.smallest))
        assert found.effective_rank == pytest.approx(float(exact.sum() ** 2 / exact.square().sum()), rel=1e-4)


@pytest.mark.parametrize("alpha", [0.5, 1.0, 1.5, 2.0])
@pytest.mark.parametrize("route", ["rational", "polar-express"])
def test_the_measured_depth_brings_the_stated_share_within_the_tolerance(alpha, route):
    """In the exact singular vectors: those that carry 99 % come out within the tolerance, and the fixed default leaves some outside."""
    matrix = matrix_of(power_law(200, alpha), 200)
    left, values, right = torch.linalg.svd(matrix)
    found = measure_spectrum(matrix, share=0.99, route=route)
    factor = polar(matrix, PolarOptions(route=route, smallest=found.smallest, tolerance=0.16))
    lifted = torch.diagonal(left.mT @ factor @ right.mT)
    carrying = lifted[: found.num_carrying]
    assert float(values[: found.num_carrying].sum() / values.sum()) >= 0.99
    assert float((carrying - 1).abs().max()) <= 0.16 + 1e-3
    # One term or step fewer does not hold what is asked for on the interval that was measured.
    depth = depth_for(route, found.smallest)
    assert depth > 1 or (alpha, route) == (0.5, "rational")
    if depth > 1:
        fewer = PolarOptions(route=route, smallest=found.smallest, depth=depth - 1)
        worst = matrix_of(torch.logspace(0, math.log10(found.smallest), 200, dtype=torch.float64), 200)
        assert float((torch.linalg.svdvals(polar(worst, fewer)) - 1).abs().max()) > 0.16


def test_a_tail_that_five_steps_lose_is_kept():
    """T2.3 (papers-2026): a tail of exponent 2 at 256 rows; the measured spectrum asks for more steps, a flat one for fewer."""
    steep = measure_spectrum(matrix_of(power_law(256, 2.0), 256), share=0.999, route="newton-schulz")
    flat = measure_spectrum(matrix_of(torch.ones(256), 256), share=0.999, route="rational")
    assert depth_for("newton-schulz", steep.smallest) >= 8
    assert depth_for("rational", flat.smallest) == 1
    assert PolarOptions(smallest=steep.smallest).route_for(256, 256) == "exact"


def muon_factor(matrix: torch.Tensor, **options) -> tuple[torch.Tensor, Muon, torch.nn.Parameter]:
    parameter = torch.nn.Parameter(torch.zeros_like(matrix))
    parameter.grad = matrix.clone()
    optimizer = Muon([parameter], lr=1.0, weight_decay=0.0, momentum=0.0, nesterov=False, **options)
    optimizer.step()
    return -parameter.detach(), optimizer, parameter


def test_muon_lifts_the_tail_that_its_fixed_depth_loses():
    matrix = matrix_of(power_law(128, 2.0), 128).float()
    left, _, right = torch.linalg.svd(matrix.double())
    recovered = {}
    for name, options in {
        "five steps": {"route": "newton-schulz"},
        "fixed": {},
        "measured steps": {"route": "newton-schulz", "spectrum_every": 10, "spectrum_share": 0.999},
        "measured": {"spectrum_every": 10, "spectrum_share": 0.999},
    }.items():
        factor, optimizer, parameter = muon_factor(matrix, **options)
        lifted = torch.diagonal(left.mT @ factor.double() @ right.mT)
        recovered[name] = int((lifted > 0.6).sum())
        assert ("polar_smallest" in optimizer.state[parameter]) == ("spectrum_every" in options)
    carrying = measure_spectrum(matrix, share=0.999).num_carrying
    assert recovered["five steps"] < carrying
    assert recovered["fixed"] < carrying
    assert recovered["measured"] == 128  # the exact route
    # More steps lift more, but in bfloat16 the end of such a tail drowns in rounding.
    assert recovered["five steps"] < recovered["measured steps"]


def test_the_spectrum_is_measured_in_one_of_so_many_steps():
    steep, flat = matrix_of(power_law(32, 1.5), 32).float(), matrix_of(torch.ones(32), 32).float()
    parameter = torch.nn.Parameter(torch.zeros(32, 32))
    optimizer = Muon([parameter], momentum=0.0, nesterov=False, spectrum_every=3)
    seen = []
    for step in range(7):
        parameter.grad = steep if step == 0 else flat
        optimizer.step()
        seen.append(optimizer.state[parameter]["polar_smallest"])
    first, second = (measure_spectrum(each).smallest for each in (steep, flat))
    assert first < second
    assert seen == [first] * 3 + [second] * 4


def test_a_matrix_of_zeros_waits_for_its_spectrum():
    parameter = torch.nn.Parameter(torch.zeros(4, 4))
    optimizer = Muon([parameter], momentum=0.0, nesterov=False, spectrum_every=50)
    parameter.grad = torch.zeros(4, 4)
    optimizer.step()
    assert optimizer.state[parameter]["polar_smallest"] == 2e-3
    parameter.grad = torch.eye(4)
    optimizer.step()
    assert optimizer.state[parameter]["polar_smallest"] == 1.0
    assert measure_spectrum(torch.full((3, 3), math.nan)) is None
    assert measure_spectrum(torch.zeros(0, 3)) is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"spectrum_every": -1}, "spectrum_every must be an integer of at least 0"),
        ({"spectrum_every": 5, "depth": 3}, "depth must be left out with spectrum_every, got depth=3"),
        ({"spectrum_every": 5, "smoothing": 0.1}, "smoothing must be left out with spectrum_every"),
        ({"spectrum_share": 1.0}, "spectrum_share must be a finite number and above 0 and below 1"),
    ],
)
def test_what_does_not_go_together_is_refused(options, message):
    with pytest.raises(InputError, match=message):
        Muon([torch.nn.Parameter(torch.zeros(3, 3))], **options)


def test_a_matrix_must_have_two_axes():
    with pytest.raises(InputError, match="matrix must have two axes"):
        measure_spectrum(torch.zeros(2, 3, 4))
