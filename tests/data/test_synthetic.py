"""The closed forms of the noisy quadratic against autograd and against plain simulation."""

import pytest
import torch

from batchwright.core.errors import InputError
from batchwright.data.synthetic import NoisyQuadratic, noisy_quadratic_data


@pytest.fixture
def problem() -> NoisyQuadratic:
    return noisy_quadratic_data(
        num_examples=200,
        curvature=torch.tensor([0.1, 0.5, 2.0]),
        variance=torch.tensor([4.0, 1.0, 0.25]),
        optimum=torch.tensor([1.0, -2.0, 3.0]),
        generator=torch.Generator().manual_seed(0),
    )


def example_losses(problem: NoisyQuadratic, parameters: torch.Tensor) -> torch.Tensor:
    offset = parameters - problem.optimum
    return 0.5 * offset @ torch.diag(problem.curvature) @ offset + problem.noise @ offset


def test_noise_has_exactly_the_wanted_mean_and_covariance(problem):
    assert problem.noise.mean(dim=0).abs().max() < 1e-14
    covariance = problem.noise.T @ problem.noise / len(problem.noise)
    torch.testing.assert_close(covariance, torch.diag(problem.variance), rtol=0, atol=1e-13)


def test_gradient_noise_scale_and_sharpness_agree_with_autograd(problem):
    parameters = torch.tensor([0.3, 0.7, -1.0], dtype=torch.float64)
    grads = torch.autograd.functional.jacobian(lambda p: example_losses(problem, p), parameters)
    torch.testing.assert_close(problem.gradient(parameters), grads.mean(dim=0))
    trace = grads.var(dim=0, correction=0).sum()
    assert problem.trace == pytest.approx(float(trace))
    assert problem.noise_scale(parameters) == pytest.approx(float(trace / grads.mean(dim=0).square().sum()))
    hessian = torch.autograd.functional.hessian(lambda p: example_losses(problem, p).mean(), parameters)
    assert problem.sharpness == pytest.approx(float(torch.linalg.eigvalsh(hessian)[-1]))
    assert problem.excess_loss(parameters) == pytest.approx(float(example_losses(problem, parameters).mean()))


def test_noise_scale_at_the_optimum_is_infinite_and_the_loss_zero(problem):
    assert problem.noise_scale(problem.optimum) == float("inf")
    assert problem.excess_loss(problem.optimum) == 0.0


@pytest.mark.parametrize("lr", [0.2, 0.5])
def test_expected_excess_loss_agrees_with_simulated_sgd(problem, lr):
    generator = torch.Generator().manual_seed(1)
    num_runs, batch_size, num_steps = 4000, 4, 25
    runs = torch.zeros(num_runs, 3, dtype=torch.float64)
    for _ in range(num_steps):
        chosen = torch.randint(len(problem.noise), (num_runs, batch_size), generator=generator)
        runs = runs - lr * (problem.curvature * (runs - problem.optimum) + problem.noise[chosen].mean(dim=1))
    losses = 0.5 * (problem.curvature * (runs - problem.optimum).square()).sum(dim=1)
    expected = problem.expected_excess_loss(torch.zeros(3), lr=lr, batch_size=batch_size, num_steps=num_steps)
    assert abs(float(losses.mean()) - expected) < 4 * float(losses.std()) / num_runs**0.5


def test_expected_excess_loss_is_exact_where_the_step_neither_shrinks_nor_grows(problem):
    # lr = 2 / sharpness: the steepest coordinate's offset is kept in size, and its noise adds up step by step.
    lr, num_steps = 1.0, 10
    offset = (torch.zeros(3) - problem.optimum).square()
    moments = offset.clone()
    for _ in range(num_steps):
        moments = (1 - lr * problem.curvature) ** 2 * moments + lr**2 * problem.variance / 2
    found = problem.expected_excess_loss(torch.zeros(3), lr=lr, batch_size=2, num_steps=num_steps)
    assert found == pytest.approx(float(0.5 * (problem.curvature * moments).sum()))


def test_expected_excess_loss_after_no_step_is_the_loss(problem):
    start = torch.zeros(3)
    assert problem.expected_excess_loss(start, lr=0.1, batch_size=1, num_steps=0) == pytest.approx(
        problem.excess_loss(start)
    )


def test_the_same_generator_gives_the_same_problem():
    def make():
        ones = torch.ones(2)
        generator = torch.Generator().manual_seed(5)
        return noisy_quadratic_data(num_examples=9, curvature=ones, variance=ones, optimum=ones, generator=generator)

    assert torch.equal(make().noise, make().noise)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_examples": 2}, "num_examples must be an integer of at least 3, got 2; the covariance needs more than D"),
        ({"curvature": torch.tensor([1.0, 0.0])}, "curvature must be finite and above 0, got a smallest value of 0"),
        ({"variance": torch.tensor([1.0, -1.0])}, "variance must be finite and at least 0, got a smallest value of -1"),
    ],
)
def test_wrong_arguments_are_refused(changes, message):
    ones = torch.ones(2)
    settings = {"num_examples": 9, "curvature": ones, "variance": ones, "optimum": ones, "generator": torch.Generator()}
    with pytest.raises(InputError, match=message):
        noisy_quadratic_data(**{**settings, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lr": 0.0}, "lr must be a finite number and above 0, got 0.0"),
        ({"batch_size": 0}, "batch_size must be an integer of at least 1, got 0"),
        ({"num_steps": -1}, "num_steps must be an integer of at least 0, got -1"),
    ],
)
def test_a_wrong_run_of_sgd_is_refused(problem, changes, message):
    with pytest.raises(InputError, match=message):
        problem.expected_excess_loss(torch.zeros(3), **{"lr": 0.1, "batch_size": 1, "num_steps": 1, **changes})
