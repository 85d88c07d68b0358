"""The joint choice of step and batch: closed forms by computer algebra and by search, and the guarantee against the worst case."""

import math

import pytest
import torch

from batchwright.core.errors import InputError, NotEnoughEvidenceError
from batchwright.rl import optimal_step
from batchwright.rl.step_choice import RULES, VARIANTS

GRAD = torch.tensor([0.3, -1.7, 0.9, 0.0], dtype=torch.float64)


def test_the_four_constants_of_the_published_rule_are_those_of_computer_algebra():
    sympy = pytest.importorskip("sympy")
    x = sympy.Symbol("x", positive=True)
    # Improvement a trajectory with e = x G, d = G = c = 1: N = 1/x².
    gain = (1 - x) ** 4 / (4 * (1 + x) ** 2) * x**2
    best = next(root for root in sympy.solve(2 * x**2 + 3 * x - 1, x) if 0 < root < 1)
    assert sympy.simplify(sympy.diff(gain, x).subs(x, best)) == 0
    step = sympy.simplify((1 - best) ** 2 / (2 * (1 + best) ** 2))
    whole = sympy.simplify((1 - best) ** 4 / (4 * (1 + best) ** 2))
    # An even d makes N large, so that rounding N up does not count.
    d, c, gradient = 1e6, 3.0, 2.0
    choice = optimal_step(torch.tensor([gradient], dtype=torch.float64), d=d, smoothness=c, rule="published")
    assert choice.batch_size == math.ceil(float(1 / best**2) * d**2 / gradient**2)
    assert float(1 / best**2) == pytest.approx((13 + 3 * math.sqrt(17)) / 2, rel=1e-15)
    assert choice.error == pytest.approx(float(best) * gradient, rel=1e-9)
    assert choice.step_size * c == pytest.approx(float(step), rel=1e-9)
    assert float(step) == pytest.approx((13 - 3 * math.sqrt(17)) / 4, rel=1e-13)
    assert choice.guaranteed_improvement == pytest.approx(float(whole) * gradient**2 / c, rel=1e-9)
    assert float(whole) == pytest.approx((393 - 95 * math.sqrt(17)) / 32, rel=1e-12)


def test_the_constants_of_the_tight_rule():
    d, c, gradient = 1e6, 3.0, 2.0
    choice = optimal_step(torch.tensor([gradient], dtype=torch.float64), d=d, smoothness=c)
    assert choice.batch_size == 4 * d**2 / gradient**2
    assert choice.error == gradient / 2
    assert choice.step_size == pytest.approx(1 / (4 * c), rel=1e-15)
    assert choice.guaranteed_improvement == pytest.approx(gradient**2 / (16 * c), rel=1e-15)


def test_the_tight_rule_needs_3_2_times_fewer_trajectories_for_a_larger_step():
    tight, published = (optimal_step(GRAD, d=1e5, smoothness=1.0, rule=rule) for rule in RULES)
    assert published.batch_size / tight.batch_size == pytest.approx(3.171, abs=1e-3)
    assert tight.step_size / published.step_size == pytest.approx(1.586, abs=1e-3)
    rate = [each.guaranteed_improvement / each.batch_size for each in (tight, published)]
    assert rate[0] / rate[1] == pytest.approx(4.86, abs=5e-3)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("d", "f"), [(5.0, 0.0), (5.0, 30.0), (0.0, 30.0), (0.1, 300.0)])
def test_the_batch_is_the_best_of_all(rule, variant, d, f):
    found = optimal_step(GRAD, d=d, f=f, smoothness=2.0, rule=rule, variant=variant)

    def rate(number: int) -> float:
        at = optimal_step(GRAD, d=d, f=f, smoothness=2.0, rule=rule, variant=variant, batch_size=number)
        return at.guaranteed_improvement / number

    rates = [rate(number) for number in range(1, 3000)]
    best = max(range(len(rates)), key=rates.__getitem__) + 1
    # The closed forms round the real optimum up, so they may be one trajectory past the best integer.
    assert best <= found.batch_size <= best + 1
    assert rate(found.batch_size) > 0


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_improvement_is_that_of_the_worst_return_in_the_bounds(rule, variant):
    """The worst ``J`` has the gradient at the near corner of the error's set and the full curvature along the step."""
    c, generator = 2.0, torch.Generator().manual_seed(0)
    for _ in range(200):
        grad = torch.randn(4, generator=generator, dtype=torch.float64)
        number = int(torch.randint(1, 2000, (1,), generator=generator))
        choice = optimal_step(grad, d=5.0, f=3.0, smoothness=c, rule=rule, variant=variant, batch_size=number)
        move = torch.zeros(4, dtype=torch.float64)
        if choice.coordinate is None:
            move = choice.step_size * grad
        else:
            move[choice.coordinate] = choice.step_size * grad[choice.coordinate]
        error = choice.error
        if variant == "norm":
            worst = float(move @ grad - error * move.norm() - c * move.square().sum())
        else:
            worst = float(move @ grad - error * move.abs().sum() - c * move.abs().sum() ** 2)
        assert choice.guaranteed_improvement == pytest.approx(
            choice.first_order - choice.error_cost - choice.curvature_cost, rel=1e-12, abs=1e-15
        )
        if rule == "tight":
            assert choice.guaranteed_improvement == pytest.approx(worst, rel=1e-10, abs=1e-13)
        else:
            assert choice.guaranteed_improvement <= worst + 1e-12
        # Any other step guarantees less under the tight rule, which optimises the true worst case.
        assert choice.guaranteed_improvement >= 0


def test_a_step_for_a_batch_that_does_not_resolve_the_gradient_is_none():
    choice = optimal_step(GRAD, d=100.0, smoothness=1.0, batch_size=10)
    assert (choice.step_size, choice.guaranteed_improvement) == (0.0, 0.0)
    assert choice.error == pytest.approx(100 / math.sqrt(10))


def test_the_coordinate_step_is_never_worse_than_the_scalar_one():
    generator = torch.Generator().manual_seed(1)
    for _ in range(100):
        grad = torch.randn(5, generator=generator, dtype=torch.float64)
        one, all_ = (
            optimal_step(grad, d=0.0, smoothness=1.0, variant=variant, batch_size=1).guaranteed_improvement
            for variant in ("coordinate", "scalar")
        )
        assert one >= all_ * (1 - 1e-12)
        assert all_ == pytest.approx(float(grad.square().sum() ** 2 / (4 * grad.abs().sum() ** 2)), rel=1e-12)
        assert one == pytest.approx(float(grad.abs().max() ** 2 / 4), rel=1e-12)


def test_the_scalar_published_rule_is_that_of_the_public_code():
    low = torch.clamp(GRAD.abs() - 0.5, min=0).square().sum()
    high = (GRAD.abs() + 0.5).sum()
    choice = optimal_step(GRAD, d=5.0, smoothness=2.0, rule="published", variant="scalar", batch_size=100)
    assert choice.step_size == pytest.approx(float(low / (2 * 2.0 * high**2)), rel=1e-12)


def test_the_batch_stays_inside_its_limits():
    assert optimal_step(GRAD, d=1e4, smoothness=1.0, max_batch_size=1000).batch_size == 1000
    assert optimal_step(GRAD, d=1e-3, smoothness=1.0, min_batch_size=50).batch_size == 50


def test_a_zero_gradient_asks_for_the_largest_batch_or_says_that_there_is_none():
    zero = torch.zeros(2)
    assert optimal_step(zero, d=1.0, smoothness=1.0, max_batch_size=77).batch_size == 77
    with pytest.raises(NotEnoughEvidenceError, match="grad is zero"):
        optimal_step(zero, d=1.0, smoothness=1.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rule": "best"}, "rule must be one of published, tight, got 'best'"),
        ({"variant": "all"}, "variant must be one of"),
        ({"d": -1.0}, "d must be a finite number and at least 0"),
        ({"smoothness": 0.0}, "smoothness must be a finite number and above 0"),
        ({"min_batch_size": 9, "max_batch_size": 3}, "max_batch_size must be an integer of at least 9"),
    ],
)
def test_bad_input_is_named(options, message):
    with pytest.raises(InputError, match=message):
        optimal_step(GRAD, **{"d": 1.0, "smoothness": 1.0, **options})
    with pytest.raises(InputError, match="grad must hold finite numbers"):
        optimal_step(torch.tensor([math.nan]), d=1.0, smoothness=1.0)
