"""The facts of the noisy-quadratic task against autograd over its whole data set."""

import pytest
import torch

from batchwright.core.objectives import example_losses
from batchwright.tasks import evaluate
from batchwright.tasks.noisy_quadratic import noisy_quadratic, noisy_quadratic_problem


@pytest.fixture(scope="module")
def task():
    return noisy_quadratic()


def test_the_facts_are_those_of_the_whole_data_set(task):
    model = task.make_model(0)
    noise = task.train.tensors[0]
    losses = example_losses(model, task.loss, task.train.tensors)
    (grad,) = torch.autograd.grad(losses.mean(), list(model.parameters()))
    assert float(grad.square().sum()) == pytest.approx(task.facts["grad_sq_norm"], rel=1e-4)
    assert float(noise.double().var(dim=0, correction=0).sum()) == pytest.approx(task.facts["trace"], rel=1e-5)
    assert task.facts["noise_scale"] == pytest.approx(8.0)
    assert task.facts["loss"] == pytest.approx(16.0)
    assert task.facts["sharpness"] == pytest.approx(1.0)


def test_the_evaluation_loss_is_the_excess_loss_without_scatter(task):
    model = task.make_model(0)
    with torch.no_grad():
        next(model.parameters()).copy_(torch.linspace(-1, 1, 32))
    found = evaluate(task, model)
    assert found.values["loss"] == pytest.approx(
        noisy_quadratic_problem().excess_loss(torch.linspace(-1, 1, 32)), rel=1e-5
    )
    assert found.standard_errors["loss"] == 0.0


@pytest.mark.parametrize(
    ("batch_size", "lr", "num_steps"), [(8, 0.07, 2500), (32, 0.25, 670), (128, 0.8, 210), (1024, 1.7, 80)]
)
def test_the_target_is_within_reach_of_constant_lr_at_every_batch_size(task, batch_size, lr, num_steps):
    problem = noisy_quadratic_problem()
    expected = problem.expected_excess_loss(torch.zeros(32), lr=lr, batch_size=batch_size, num_steps=num_steps)
    assert expected <= task.target.value
    assert num_steps * batch_size < task.example_limit
