"""Branches on a noisy quadratic, where the mean loss of SGD with momentum obeys an exact recursion: what they find is known."""

import math

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

from batchwright.data.synthetic import NoisyQuadratic, noisy_quadratic_data
from batchwright.measure.branch import (
    HARM,
    JUDGE_SEED,
    MAX_JUDGES,
    NUM_CHECKS,
    SMOOTHED,
    Branch,
    _critical_batch_size,
    _smoothing_weights,
    branch,
)
from batchwright.measure.harmless import largest_harmless
from batchwright.measure.snapshot import Snapshot
from batchwright.tasks.noisy_quadratic import QuadraticModel
from batchwright.tasks.task import OptimizerSpec, Task

SIZES = (8, 16, 32, 64, 128, 256)
BUDGET, BASE_LR, NOISE_SCALE = 2048, 0.02, 64.0


def make_problem(num_examples: int = 65_536) -> NoisyQuadratic:
    curvature = torch.logspace(-1.5, 0, 8, dtype=torch.float64)
    return noisy_quadratic_data(
        num_examples=num_examples,
        curvature=curvature,
        variance=NOISE_SCALE * curvature,
        optimum=curvature.rsqrt(),
        generator=torch.Generator().manual_seed(3),
    )


def make_task(problem: NoisyQuadratic, momentum: float) -> Task:
    return Task(
        name="oracle",
        model=lambda: QuadraticModel(problem.curvature.float(), problem.optimum.float()),
        loss=lambda model, batch: model(batch[0]),
        train=TensorDataset(problem.noise.float()),
        optimizer=OptimizerSpec(name="sgd", lr=lr_of(SIZES[0], momentum), momentum=momentum),
        batch_size=SIZES[0],
    )


def lr_of(size: int, momentum: float) -> float:
    """The gain rule; with momentum a step goes ``1 / (1 - momentum)`` times as far in the end."""
    return (1 - momentum) * BASE_LR * (1 + NOISE_SCALE / SIZES[0]) / (1 + NOISE_SCALE / size)


def start_of(
    task: Task, problem: NoisyQuadratic, momentum: float
) -> tuple[Snapshot, torch.Tensor, torch.Tensor | None]:
    """A checkpoint on the way, with a velocity of its own where there is momentum."""
    parameters = 0.3 * problem.optimum
    velocity = -0.1 * problem.curvature.sqrt() if momentum else None
    model = task.make_model(0)
    with torch.no_grad():
        model.parameters_vector.copy_(parameters)
    optimizer = task.optimizer.build(model.parameters())
    if velocity is not None:
        optimizer.state[model.parameters_vector]["momentum_buffer"] = velocity.float()
    return Snapshot.take(model, optimizer), parameters, velocity


def expected_curves(problem: NoisyQuadratic, momentum: float) -> np.ndarray:
    """Mean loss on the judging sample at each check, shape ``(sizes, checks + 1)``, from the recursion."""
    task = make_task(problem, momentum)
    _, parameters, velocity = start_of(task, problem, momentum)
    order = torch.randperm(len(problem.noise), generator=torch.Generator().manual_seed(JUDGE_SEED))
    # The judge is a sample: its own mean noise tilts its loss.
    tilt = problem.noise[order[:MAX_JUDGES]].mean(dim=0)
    rows = []
    for size in SIZES:
        steps = BUDGET // size
        moments = problem.sgd_moments(
            parameters, lr=lr_of(size, momentum), momentum=momentum, batch_size=size, num_steps=steps, velocity=velocity
        )
        losses = moments.excess_loss + moments.mean_offset @ tilt
        rows.append([float(losses[part * steps // NUM_CHECKS]) for part in range(NUM_CHECKS + 1)])
    return np.array(rows)


def true_largest_harmless(curves: np.ndarray, tolerance: float | None) -> float:
    smoothed = curves[:, -SMOOTHED:] @ _smoothing_weights()
    allowed = tolerance if tolerance is not None else HARM * (curves[0, 0] - smoothed[0])
    margins = np.tile(smoothed - smoothed[0] - allowed, (2, 1))
    return largest_harmless(SIZES, margins).value


def true_critical(curves: np.ndarray) -> float:
    return _critical_batch_size(SIZES, np.stack([curves, curves]), 0.95).value


def run(problem: NoisyQuadratic, momentum: float, seed: int, tolerance: float | None, num_seeds: int = 3) -> Branch:
    task = make_task(problem, momentum)
    snapshot, _, _ = start_of(task, problem, momentum)
    return branch(
        task,
        snapshot,
        SIZES,
        lr_rule=lambda size: lr_of(size, momentum),
        tolerance=tolerance,
        num_examples=BUDGET,
        num_seeds=num_seeds,
        seed=1000 * seed,
    )


def test_recursion_is_the_closed_form_without_momentum():
    problem = make_problem(num_examples=100)
    start = torch.zeros(8)
    moments = problem.sgd_moments(start, lr=0.3, momentum=0.0, batch_size=4, num_steps=50)
    for steps in (0, 1, 7, 50):
        expected = problem.expected_excess_loss(start, lr=0.3, batch_size=4, num_steps=steps)
        assert float(moments.excess_loss[steps]) == pytest.approx(expected, rel=1e-12)


def test_recursion_is_the_mean_of_many_runs_of_torch_sgd_with_momentum():
    problem = make_problem(num_examples=1000)
    noise, generator, repeats = problem.noise, torch.Generator().manual_seed(0), 3000
    # All runs at once: each row of the parameters is a run of its own, since the loss is a sum over rows.
    parameters = torch.nn.Parameter(torch.zeros(repeats, 8, dtype=torch.float64))
    optimizer = torch.optim.SGD([parameters], lr=0.1, momentum=0.8)
    velocity = torch.full((8,), 0.5, dtype=torch.float64)
    optimizer.state[parameters]["momentum_buffer"] = velocity.expand(repeats, 8).clone()
    for _ in range(20):
        draws = noise[torch.randint(len(noise), (repeats, 4), generator=generator)].mean(dim=1)
        offset = parameters - problem.optimum
        optimizer.zero_grad()
        (0.5 * (problem.curvature * offset.square()).sum() + (draws * offset).sum()).backward()
        optimizer.step()
    moments = problem.sgd_moments(torch.zeros(8), lr=0.1, momentum=0.8, batch_size=4, num_steps=20, velocity=velocity)
    offset = (parameters - problem.optimum).detach()
    losses = 0.5 * (problem.curvature * offset.square()).sum(dim=1)
    assert abs(float(losses.mean() - moments.excess_loss[-1])) < 4 * float(losses.std()) / repeats**0.5
    assert torch.allclose(
        offset.mean(dim=0), moments.mean_offset[-1], atol=5 * float(offset.std(dim=0).max()) / repeats**0.5
    )


@pytest.mark.parametrize("momentum", [0.0, 0.8])
def test_truth_lies_between_the_sizes_tried(momentum):
    curves = expected_curves(make_problem(), momentum)
    assert SIZES[0] < true_largest_harmless(curves, None) < SIZES[-1]


def test_one_branch_covers_its_truth_and_says_what_it_allowed():
    problem = make_problem()
    curves = expected_curves(problem, 0.8)
    found = run(problem, 0.8, seed=1, tolerance=None)
    truth = true_largest_harmless(curves, None)
    assert found.largest_harmless.low <= truth <= found.largest_harmless.high
    smoothed = curves[:, -SMOOTHED:] @ _smoothing_weights()
    assert found.tolerance == pytest.approx(HARM * (curves[0, 0] - smoothed[0]), rel=0.2)
    tight = run(problem, 0.8, seed=1, tolerance=found.tolerance / 100)
    assert tight.largest_harmless.value < found.largest_harmless.value
    loose = run(problem, 0.8, seed=1, tolerance=100 * found.tolerance)
    assert (loose.largest_harmless.low, loose.largest_harmless.value) == (256.0, math.inf)


@pytest.mark.slow
@pytest.mark.parametrize(("momentum", "relative"), [(0.0, True), (0.8, True), (0.8, False)])
def test_interval_of_the_largest_harmless_size_covers_the_recursion(momentum, relative):
    problem, repeats = make_problem(), 60
    curves = expected_curves(problem, momentum)
    smoothed = curves[:, -SMOOTHED:] @ _smoothing_weights()
    tolerance = None if relative else HARM * float(curves[0, 0] - smoothed[0])
    truth = true_largest_harmless(curves, tolerance)
    covered = 0
    for seed in range(repeats):
        found = run(problem, momentum, seed, tolerance).largest_harmless
        covered += found.low <= truth <= found.high
    # Of 60 at the nominal 95 %, fewer than 51 have a chance of 0.2 %.
    assert covered >= 51
