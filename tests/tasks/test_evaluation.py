"""An evaluation is the plain mean over the examples and leaves modes, buffers and generators alone."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import TensorDataset

from batchwright.core.errors import TaskError
from batchwright.tasks.evaluation import evaluate
from batchwright.tasks.task import Task

GENERATOR = torch.Generator().manual_seed(0)
X, Y = torch.randn(57, 4, generator=GENERATOR), torch.randint(3, (57,), generator=GENERATOR)


def make_model() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3))


def loss(model: nn.Module, batch) -> torch.Tensor:
    return functional.cross_entropy(model(batch[0]), batch[1], reduction="none")


def accuracy(model: nn.Module, batch) -> torch.Tensor:
    return (model(batch[0]).argmax(dim=1) == batch[1]).float()


def task(**changes: object) -> Task:
    fields = {"name": "toy", "model": make_model, "loss": loss, "train": TensorDataset(X[:40], Y[:40]), "batch_size": 8}
    return Task(**(fields | {"evaluation": TensorDataset(X, Y), "metrics": {"accuracy": accuracy}} | changes))


def used_model() -> nn.Module:
    """A model whose running statistics are not the initial ones."""
    with torch.random.fork_rng(devices=[]):
        model = task().make_model(1)
        model(X[:20])
    return model


@pytest.mark.parametrize("evaluation_batch_size", [1, 8, 19, 56, 57, 1000])
def test_values_are_the_plain_means_in_eval_mode(evaluation_batch_size):
    model = used_model()
    found = evaluate(task(evaluation_batch_size=evaluation_batch_size), model)
    model.eval()
    with torch.no_grad():
        losses, hits = loss(model, (X, Y)).double(), accuracy(model, (X, Y)).double()
    assert found.values == pytest.approx({"loss": float(losses.mean()), "accuracy": float(hits.mean())}, rel=1e-6)
    assert found.standard_errors == pytest.approx(
        {"loss": float(losses.std()) / math.sqrt(57), "accuracy": float(hits.std()) / math.sqrt(57)}, rel=1e-5
    )
    assert found.num_examples == 57


def test_the_training_set_is_used_where_no_evaluation_set_is_given():
    model = used_model()
    without, expected = task(evaluation=None), task(evaluation=TensorDataset(X[:40], Y[:40]))
    assert evaluate(without, model) == evaluate(expected, model)


def test_one_example_has_an_unknown_standard_error():
    found = evaluate(task(evaluation=TensorDataset(X[:1], Y[:1])), used_model())
    assert found.standard_errors == {"loss": math.inf, "accuracy": math.inf}
    assert found.num_examples == 1


def break_metric(model: nn.Module, batch) -> torch.Tensor:
    raise KeyError("from the metric")


@pytest.mark.parametrize("raises", [False, True])
def test_modes_buffers_gradients_and_generators_are_left_alone(raises):
    model = used_model()
    model[1].eval()
    model[3].train()
    model(X[:8]).sum().backward()
    grads = [parameter.grad for parameter in model.parameters()]
    values = {name: value.clone() for name, value in model.state_dict().items()}
    random_state = torch.get_rng_state()

    if raises:
        with pytest.raises(KeyError, match="from the metric"):
            evaluate(task(metrics={"broken": break_metric}), model)
    else:
        evaluate(task(evaluation_batch_size=10), model)

    assert [module.training for module in model.modules()] == [True, True, False, True, True, True]
    assert all(torch.equal(value, values[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is grad for parameter, grad in zip(model.parameters(), grads, strict=True))
    assert torch.equal(torch.get_rng_state(), random_state)


def test_dropout_is_off_so_that_two_evaluations_agree():
    model = used_model()
    assert evaluate(task(), model) == evaluate(task(), model)


def test_no_graph_is_built():
    def checked(model: nn.Module, batch) -> torch.Tensor:
        losses = loss(model, batch)
        assert not losses.requires_grad
        assert not model.training
        return losses

    evaluate(task(loss=checked, metrics={"again": checked}), used_model())


@pytest.mark.parametrize(
    ("bad", "shape"),
    [
        (lambda model, batch: accuracy(model, batch).mean(), r"\(\)"),
        (lambda model, batch: accuracy(model, batch)[:, None], r"\(57, 1\)"),
        (lambda model, batch: accuracy(model, batch)[1:], r"\(56,\)"),
    ],
)
def test_a_metric_that_is_not_one_value_an_example_raises(bad, shape):
    rule = rf"metric 'top' must return one value an example, shape \(57,\), got {shape}"
    with pytest.raises(TaskError, match=rule):
        evaluate(task(metrics={"top": bad}), used_model())


def test_a_loss_that_is_a_mean_raises():
    with pytest.raises(TaskError, match="loss must return one floating-point loss an example"):
        evaluate(task(loss=lambda model, batch: loss(model, batch).mean()), used_model())


@pytest.mark.parametrize("mean", [1e8, 1.0])
def test_means_are_taken_in_double_precision(mean):
    offsets = torch.arange(1000.0)
    found = evaluate(
        task(
            evaluation=TensorDataset(offsets),
            loss=lambda model, batch: batch[0] + mean,
            metrics={},
            evaluation_batch_size=7,
        ),
        used_model(),
    )
    expected = (offsets + mean).double().mean()
    assert found.values["loss"] == pytest.approx(float(expected), rel=1e-12)
