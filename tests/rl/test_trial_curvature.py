"""Curvature by trial on returns whose curvature is known."""

import itertools
import math

import pytest
import torch

from batchwright.rl.step_choice import optimal_step
from batchwright.rl.trial_curvature import Trial, judge


def trial(**values):
    usual = {
        "curvature": 1.0,
        "theta": torch.zeros(1),
        "mean_return": 0.0,
        "square_error": 0.0,
        "promise": 1.0,
        "size": 1.0,
    }
    return Trial(**{**usual, "guaranteed": 0.5, "batch_size": 100, **values})


def climb(returns, slope, start, curvature, *, noise=0.0, updates=60, generator=None):
    """The whole scheme on a return of one parameter; every policy that was kept, and the curvatures."""
    theta, kept, curvatures, taken_back = start, [start], [], 0

    def draw(at):
        return returns(at) + (noise * float(torch.randn((), generator=generator)) if noise else 0.0)

    before = draw(theta)
    for _ in range(updates):
        grad = slope(theta)
        choice = optimal_step(torch.tensor([grad]), d=0.0, smoothness=curvature, batch_size=100)
        step = choice.step_size * grad
        after = draw(theta + step)
        verdict = judge(
            trial(
                curvature=curvature, mean_return=before, square_error=noise**2, promise=grad * step, size=abs(step),
                guaranteed=choice.guaranteed_improvement,
            ),
            after,
            noise**2,
        )  # fmt: skip
        curvature = verdict.curvature
        taken_back += verdict.taken_back
        if not verdict.taken_back:
            theta, before = theta + step, after
            kept.append(theta)
        curvatures.append(curvature)
    return kept, curvatures, taken_back


def test_on_a_parabola_the_curvature_is_found_exactly_and_no_step_is_taken_back():
    # From a constant a million times too large, as on the cart-pole.
    kept, curvatures, taken_back = climb(lambda at: -3 * at**2, lambda at: -6 * at, 5.0, 3e6, updates=25)
    assert taken_back == 0
    assert curvatures[-1] == pytest.approx(3.0, rel=1e-6)
    assert all(abs(after) <= abs(before) for before, after in itertools.pairwise(kept))
    assert abs(kept[-1]) < 1e-3 * 5


def test_where_the_return_breaks_off_the_step_is_taken_back():
    # Up to a cliff at 1: the slope tells nothing of it.
    def returns(at):
        return at if at < 1 else at - 100

    kept, _, taken_back = climb(returns, lambda at: 1.0, 0.0, 100.0)
    assert taken_back > 0
    assert max(kept) < 1
    assert kept[-1] > 0.8


def test_among_noise_what_is_kept_loses_no_more_than_noise():
    generator = torch.Generator().manual_seed(0)
    noise = 0.05

    def returns(at):
        return 10 / (1 + at**2) + math.cos(5 * at) * 0.5

    def slope(at):
        return -20 * at / (1 + at**2) ** 2 - 2.5 * math.sin(5 * at)

    for start in (-3.0, -1.5, 2.0):
        kept, _, _ = climb(returns, slope, start, 1e5, noise=noise, generator=generator)
        losses = [returns(before) - returns(after) for before, after in itertools.pairwise(kept)]
        # A kept step showed no loss beyond 1.96 deviations of a difference; the truth lies within four more.
        assert max(losses) < 6 * noise * 2**0.5
        assert returns(kept[-1]) > returns(start) + 20 * noise


@pytest.mark.parametrize(
    ("found", "taken_back", "curvature"),
    [
        (0.9, False, 0.5),  # brought more than a parabola of half the curvature would: halved, no more
        (0.2, False, 0.8),  # showed 1.0 - 0.2
        (-0.1, True, 4.0),  # a loss: four times at least
        (-30.0, True, 31.0),  # showed 31
        (-1000.0, True, 64.0),
    ],
)
def test_verdicts_on_a_step_that_can_be_seen(found, taken_back, curvature):
    verdict = judge(trial(), found, 0.0)
    assert verdict.taken_back == taken_back
    assert verdict.curvature == pytest.approx(curvature)


def test_a_step_too_small_to_be_seen_is_let_pass_unless_the_loss_is_beyond_noise():
    small = trial(guaranteed=1e-6, square_error=0.5)
    assert judge(small, -1.9, 0.5).curvature == 0.25
    assert not judge(small, -1.9, 0.5).taken_back
    assert judge(small, -2.0, 0.5).taken_back


def test_without_a_step_nothing_changes():
    verdict = judge(trial(size=0.0), -100.0, 0.0)
    assert (verdict.taken_back, verdict.curvature) == (False, 1.0)
