"""Each method against a slow plain version of it, and the certificate against functions of a known norm."""

import math

import pytest
import torch
from torch.quasirandom import SobolEngine

from batchwright.bandits import (
    BPE,
    GPBUCB,
    GPUCB,
    UCBPE,
    Confidence,
    Kernel,
    Model,
    Perturbation,
    RobustBPE,
    RobustGPBUCB,
    Space,
    Thompson,
    dense_posterior,
)
from batchwright.bandits.pool import Scatter, distinct, refine
from batchwright.bandits.thompson import posterior_draws
from batchwright.core.errors import InputError

AXIS = torch.linspace(-1, 1, 9, dtype=torch.float64)
GRID = torch.cartesian_prod(AXIS, AXIS)
KERNEL = Kernel(lengthscales=(0.4,))
NOISE = 0.1
MODEL = Model(kernel=KERNEL, noise_std=NOISE)


def of_norm(norm, seed, grid=GRID):
    """A function of the kernel's space with exactly this norm, at the points of the grid."""
    generator = torch.Generator().manual_seed(seed)
    places = 2.4 * torch.rand(12, 2, generator=generator, dtype=torch.float64) - 1.2
    weights = torch.randn(12, generator=generator, dtype=torch.float64)
    scale = norm / float(weights @ KERNEL(places, places) @ weights) ** 0.5
    return scale * KERNEL(grid, places) @ weights


def place(points, grid=GRID):
    return [int((grid == point).all(1).nonzero()[0, 0]) for point in points]


def tell(bandit, function, generator, corrupt=None):
    points = bandit.ask()
    values = function[place(points)] + NOISE * torch.randn(len(points), generator=generator, dtype=torch.float64)
    if corrupt is not None:
        values = corrupt(points, values)
    bandit.tell(points, values)
    return points, values


def widest(candidates, count, allowed):
    """Maximum variance by a new dense solve for every point."""
    chosen: list[int] = []
    for _ in range(count):
        variance = torch.full((len(candidates),), KERNEL.variance, dtype=torch.float64)
        if chosen:
            points = candidates[chosen]
            variance = dense_posterior(points, torch.zeros(len(chosen)).double(), KERNEL, NOISE**2).at(candidates)[1]
        chosen.append(int(variance.masked_fill(~allowed, -1).argmax()))
    return chosen


@pytest.mark.parametrize("robust", [False, True])
def test_bpe_is_the_plain_algorithm(robust):
    function, generator = of_norm(3.0, 0), torch.Generator().manual_seed(1)
    options = {"horizon": 60, "model": MODEL, "confidence": Confidence(beta=6.0)}
    ball = (GRID[:, None] - GRID[None]).abs().amax(2) <= 0.25 + 1e-9 if robust else torch.eye(81, dtype=torch.bool)
    bandit = RobustBPE(GRID, perturbation=Perturbation(radius=0.25), **options) if robust else BPE(GRID, **options)
    alive = torch.ones(81, dtype=torch.bool)

    def worst(values):
        return torch.where(ball, values[None], math.inf).min(1).values

    assert bandit.plan == (8, 22, 30)
    for count in bandit.plan:
        expected = widest(GRID, count, ball[alive].any(0))
        points, values = tell(bandit, function, generator)
        assert place(points) == expected
        mean, variance = dense_posterior(points, values, KERNEL, NOISE**2).at(GRID)
        width = math.sqrt(6.0) * variance.sqrt()
        upper, lower = worst(mean + width), worst(mean - width)
        alive &= upper >= lower.max()
        assert torch.equal(bandit.survivors.alive, alive)
    every = dense_posterior(bandit.trials.points, bandit.trials.value, KERNEL, NOISE**2)
    best = int(worst(every.at(GRID)[0]).masked_fill(~alive, -math.inf).argmax())
    assert bandit.recommend().point == tuple(GRID[best].tolist())


@pytest.mark.parametrize("robust", [False, True])
def test_the_certificate_holds_for_functions_of_the_stated_norm(robust):
    ball = (GRID[:, None] - GRID[None]).abs().amax(2) <= 0.25 + 1e-9
    bounds = []
    for seed in range(10):
        function, generator = of_norm(2.0, seed), torch.Generator().manual_seed(seed)
        options = {"horizon": 400, "model": MODEL, "confidence": Confidence(norm_bound=2.0, delta=0.1)}
        bandit = RobustBPE(GRID, perturbation=Perturbation(radius=0.25), **options) if robust else BPE(GRID, **options)
        value = torch.where(ball, function[None], math.inf).min(1).values if robust else function
        while not bandit.done:
            tell(bandit, function, generator)
            assert bool(bandit.survivors.alive[value.argmax()])
            assert bool((bandit.survivors.upper >= function).all())
            assert bool((bandit.survivors.lower <= function).all())
        found = bandit.recommend()
        assert found.proven
        assert float(value.max() - value[place([torch.tensor(found.point)])[0]]) <= found.regret_bound
        bounds.append(found.regret_bound)
    # Not empty: the functions range over several times this.
    assert sum(bounds) / len(bounds) < 0.6


def test_corrupted_values_need_the_budget_and_stay_within_it():
    budget = 6.0
    lost = {0.0: 0, budget: 0}
    for seed in range(6):
        function = of_norm(2.0, seed)
        best = int(function.argmax())

        def against_the_best(points, values, best=best):
            # All of the budget against the best point and its surroundings.
            near = (points - GRID[best]).norm(dim=1) < 0.4
            return values - near * budget / max(1, int(near.sum()))

        for allowed in lost:
            generator = torch.Generator().manual_seed(seed)
            confidence = Confidence(norm_bound=2.0)
            bandit = BPE(GRID, horizon=300, model=MODEL, confidence=confidence, corruption=allowed)
            while not bandit.done:
                tell(bandit, function, generator, against_the_best)
                if allowed:
                    assert bool((bandit.survivors.upper >= function).all())
                    assert bool((bandit.survivors.lower <= function).all())
            lost[allowed] += not bool(bandit.survivors.alive[best])
            assert ("changed by 6" in bandit.guarantee) == bool(allowed)
    assert lost[budget] == 0
    assert lost[0.0] >= 3


def test_gp_bucb_hallucinates_its_own_mean():
    function, generator = of_norm(3.0, 2), torch.Generator().manual_seed(0)
    bandit = GPBUCB(GRID, horizon=24, batches=[8, 8, 8], model=MODEL, confidence=Confidence(beta=4.0))
    known, told = GRID[:0], torch.zeros(0, dtype=torch.float64)
    for _ in range(3):
        points, values = known, told
        expected = []
        for _ in range(8):
            mean, variance = torch.zeros(81).double(), torch.ones(81).double()
            if len(points):
                mean, variance = dense_posterior(points, values, KERNEL, NOISE**2).at(GRID)
            expected.append(int((mean + 2 * variance.sqrt()).argmax()))
            points = torch.cat([points, GRID[expected[-1:]]])
            values = torch.cat([values, mean[expected[-1:]]])
        points, values = tell(bandit, function, generator)
        assert place(points) == expected
        known, told = torch.cat([known, points]), torch.cat([told, values])


def test_robust_gp_bucb_is_stable_opt_with_hallucinated_values():
    function, generator = of_norm(3.0, 2), torch.Generator().manual_seed(0)
    near = (GRID[:, None] - GRID[None]).abs().amax(2) <= 0.25 + 1e-9
    bandit = RobustGPBUCB(
        GRID,
        horizon=18,
        batches=[6, 6, 6],
        model=MODEL,
        confidence=Confidence(beta=4.0),
        perturbation=Perturbation(radius=0.25),
    )
    known, told = GRID[:0], torch.zeros(0, dtype=torch.float64)
    for _ in range(3):
        points, values = known, told
        expected = []
        for _ in range(6):
            mean, variance = torch.zeros(81).double(), torch.ones(81).double()
            if len(points):
                mean, variance = dense_posterior(points, values, KERNEL, NOISE**2).at(GRID)
            upper, lower = mean + 2 * variance.sqrt(), mean - 2 * variance.sqrt()
            centre = int(torch.where(near, upper[None], math.inf).min(1).values.argmax())
            expected.append(int(lower.masked_fill(~near[centre], math.inf).argmin()))
            points = torch.cat([points, GRID[expected[-1:]]])
            values = torch.cat([values, mean[expected[-1:]]])
        points, values = tell(bandit, function, generator)
        assert place(points) == expected
        known, told = torch.cat([known, points]), torch.cat([told, values])


def test_a_scattered_opening_is_the_sobol_sequence_and_later_rounds_are_the_methods_own():
    space = Space.box([0] * 5, [1] * 5)
    opened = GPBUCB(space, horizon=16, batches=[8, 8], num_candidates=64, opening="scattered", seed=3)
    chosen = GPBUCB(space, horizon=16, batches=[8, 8], num_candidates=64, seed=3)
    points = opened.ask()
    sequence = SobolEngine(5, scramble=True, seed=3).draw(8, dtype=torch.float64)
    assert torch.equal(points, space.from_unit(sequence))
    # What is chosen without values lies farther from the middle.
    assert (chosen.ask() - 0.5).square().sum(1).mean() > 1.5 * (points - 0.5).square().sum(1).mean()
    opened.tell(points, points.sum(1))
    assert not torch.equal(opened.ask(), space.from_unit(SobolEngine(5, scramble=True, seed=3).draw(16)[8:].double()))
    with pytest.raises(InputError, match="opening must be one of chosen, scattered"):
        GPBUCB(space, horizon=4, opening="random")


def test_replacing_a_pending_point_makes_its_value_that_of_the_new_one():
    space = Space.box([0] * 2, [1] * 2)
    bandit = GPBUCB(space, horizon=8, batches=[4, 4], num_candidates=64, seed=3)
    points = bandit.ask()
    bandit.replace_point(2, torch.tensor([0.25, 0.75], dtype=torch.float64))
    bandit.tell(None, points[:, 0], ids=[0, 1, 2, 3])
    known, values, _ = bandit.evidence.data()
    row = (known == torch.tensor([0.25, 0.75], dtype=torch.float64)).all(1)
    assert values[row].tolist() == [float(points[2, 0])]
    with pytest.raises(InputError, match="id must be of a pending trial"):
        bandit.replace_point(2, points[0])


def test_ucb_pe_takes_one_bound_and_then_variance_in_its_region():
    function, generator = of_norm(3.0, 3), torch.Generator().manual_seed(0)
    bandit = UCBPE(GRID, horizon=20, batches=[10, 10], model=MODEL, confidence=Confidence(beta=4.0))
    points, values = tell(bandit, function, generator)
    posterior = dense_posterior(points, values, KERNEL, NOISE**2)
    mean, variance = posterior.at(GRID)
    deviation = variance.sqrt()
    region = mean + 4 * deviation >= (mean - 2 * deviation).max()
    chosen = place(bandit.ask())
    assert chosen[0] == int((mean + 2 * deviation).argmax())
    assert bool(region[chosen[1:]].all())
    both = dense_posterior(torch.cat([points, GRID[chosen[:1]]]), torch.cat([values, values[:1]]), KERNEL, NOISE**2)
    assert chosen[1] == int(both.at(GRID)[1].masked_fill(~region, -1).argmax())


def test_gp_ucb_has_rounds_of_one():
    assert GPUCB(GRID, horizon=5, model=MODEL).plan == (1, 1, 1, 1, 1)
    assert "5 trials in 5 rounds of one" in repr(GPUCB(GRID, horizon=5, model=MODEL))


def test_draws_have_the_mean_and_covariance_of_the_posterior():
    generator = torch.Generator().manual_seed(0)
    points, values = GRID[::7], of_norm(2.0, 5)[::7]
    counts = 1 + torch.arange(len(points)).double() % 3
    draws = posterior_draws(GRID, points, values, counts, KERNEL, NOISE**2, 0.5, 20000, generator)
    posterior = dense_posterior(points, values, KERNEL, NOISE**2, prior_mean=0.5, counts=counts)
    mean, variance = posterior.at(GRID)
    error = (draws.mean(0) - mean).abs() / (variance / 20000).sqrt()
    # 81 points, and the partial factor may leave out 1e-8 of the variance: 4.5 standard errors.
    assert float(error.max()) < 4.5
    covariance = posterior.covariance(GRID)
    spread = (variance[:, None] * variance[None] + covariance.square()).sqrt() / 20000**0.5
    assert float(((draws.T.cov() - covariance).abs() / spread).max()) < 5.5
    free = posterior_draws(GRID, GRID[:0], values[:0], counts[:0], KERNEL, 0.01, 0.5, 20000, generator)
    assert float((free.mean(0) - 0.5).abs().max()) < 4.5 / 20000**0.5


def test_thompson_spreads_over_what_it_does_not_know():
    bandit = Thompson(GRID, horizon=60, batches=[60], model=MODEL)
    assert len(torch.unique(bandit.ask(), dim=0)) > 10


def test_refining_finds_a_region_that_no_candidate_stood_for():
    space = Space.box([0, 0], [1, 1])
    kept = torch.full((5, 2), 0.1, dtype=torch.float64) + 0.01 * torch.arange(5).double()[:, None]

    def alive(points):
        small = ((points - 0.1).abs() < 0.1).all(1)
        return small | ((points - 0.8).abs() < 0.1).all(1)

    scatter = Scatter(space, 0, torch.device("cpu"))
    found, share, tested = refine(scatter, kept, alive, 200, torch.Generator().manual_seed(0))
    assert tested == 400
    assert share == pytest.approx(0.08, abs=0.03)
    assert len(found) == 200
    assert bool(alive(found).all())
    assert int((found > 0.6).all(1).sum()) > 10
    # The sequence goes on where it was, also after a state.
    other = Scatter(space, 0, torch.device("cpu"))
    other.go_to(400)
    assert torch.equal(other.draw(10), scatter.draw(10))


def test_distinct_keeps_the_first_of_each():
    points = torch.tensor([[2.0, 1], [1, 1], [2, 1], [0, 0], [1, 1]], dtype=torch.float64)
    assert distinct(points).tolist() == [[2, 1], [1, 1], [0, 0]]
