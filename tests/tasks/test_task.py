"""A task checks itself, and makes the same model every time without a trace in the random generators."""

import importlib.util
import math
import random
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import TensorDataset

from batchwright.core.errors import InputError, TaskError
from batchwright.tasks import task as task_module
from batchwright.tasks.optimizers import KINDS
from batchwright.tasks.task import OPTIMIZERS, OptimizerSpec, Target, Task


def make_model() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 2))


def loss(model: nn.Module, batch) -> torch.Tensor:
    return functional.cross_entropy(model(batch[0]), batch[1], reduction="none")


def data(size: int = 40) -> TensorDataset:
    generator = torch.Generator().manual_seed(0)
    return TensorDataset(torch.randn(size, 3, generator=generator), torch.randint(2, (size,), generator=generator))


def task(**changes: Any) -> Task:
    return Task(**({"name": "toy", "model": make_model, "loss": loss, "train": data()} | changes))


@pytest.fixture(scope="module")
def plain() -> ModuleType:
    """The module as a user has it: the type checks of the test run would refuse a wrong type before the task can."""
    spec = importlib.util.spec_from_file_location("plain_task", task_module.__file__)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# Task


def test_a_task_of_four_fields_has_the_documented_defaults():
    found = task()
    assert (found.batch_size, found.num_train, found.example_limit) == (32, 40, 2000)
    assert found.optimizer == OptimizerSpec()
    assert found.evaluation is None
    assert found.target is None


def test_the_limit_of_examples_is_what_was_asked_for():
    assert task(max_examples=7).example_limit == 7


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        (
            {"model": make_model()},
            "model must be a function without arguments that makes a fresh model, got Sequential; ",
        ),
        ({"model": "resnet"}, "model must be a function without arguments .*, got str; write model=make_model"),
        ({"loss": 0.5}, r"loss must be a function loss\(model, batch\) -> \(B,\), got float"),
        ({"optimizer": "sgd"}, "optimizer must be a batchwright.OptimizerSpec, got str"),
        ({"optimizer": torch.optim.SGD}, "optimizer must be a batchwright.OptimizerSpec, got type"),
        ({"target": 0.1}, "target must be a batchwright.Target, got float"),
        ({"train": None}, "train must be a map-style data set with __len__ and __getitem__, got NoneType"),
        ({"train": iter([])}, "train must be a map-style data set"),
        ({"train": data(0)}, "train must hold at least one example, got an empty data set"),
        ({"evaluation": 5}, "evaluation must be a map-style data set with __len__ and __getitem__, got int"),
        ({"evaluation": []}, "evaluation must hold at least one example"),
        ({"batch_size": 41}, "batch_size must be at most the number of training examples, got 41 for 40"),
        ({"target": Target(value=0.9, metric="f1")}, "target metric must be one of loss, got 'f1'; add it to metrics"),
        (
            {"target": Target(value=0.9, metric="f1"), "metrics": {"accuracy": loss}},
            "target metric must be one of loss, accuracy, got 'f1'",
        ),
    ],
)
def test_a_bad_field_raises(plain, changes, rule):
    fields = {"name": "toy", "model": make_model, "loss": loss, "train": data()} | changes
    if isinstance(target := fields.get("target"), Target):
        fields["target"] = plain.Target(value=target.value, metric=target.metric)
    with pytest.raises(TaskError, match=rule):
        plain.Task(**fields)


@pytest.mark.parametrize("name", ["batch_size", "evaluation_batch_size", "max_examples"])
@pytest.mark.parametrize("value", [0, -3, 2.5, "8", True])
def test_a_size_that_is_no_integer_of_at_least_one_raises(plain, name, value):
    with pytest.raises(InputError, match=f"{name} must be an integer of at least 1, got {value!r}"):
        plain.Task(name="toy", model=make_model, loss=loss, train=data(), **{name: value})


def test_a_target_may_name_a_metric_of_the_task():
    target = Target(value=0.9, metric="accuracy", direction="above")
    assert task(target=target, metrics={"accuracy": loss}).target == target


# The model


def test_the_same_seed_makes_the_same_model_and_another_seed_another():
    one, again, other = (task().make_model(seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not torch.equal(one["0.weight"], other["0.weight"])


def test_a_model_is_what_torch_makes_after_the_seed():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        expected = make_model().state_dict()
    found = task().make_model(11).state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_making_a_model_leaves_the_generators_as_they_were():
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    task().make_model(5)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()
    assert random.getstate() == before[2]


def test_the_generator_comes_back_also_when_making_the_model_fails():
    def fail() -> nn.Module:
        torch.rand(3)
        raise KeyError("from the model")

    before = torch.get_rng_state()
    with pytest.raises(KeyError, match="from the model"):
        task(model=fail).make_model(0)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_fresh_model_is_in_training_mode_throughout():
    model = task(model=lambda: make_model().eval()).make_model(0)
    assert all(module.training for module in model.modules())


# The optimizer


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_optimizer_is_the_named_one_with_its_settings(name):
    spec = OptimizerSpec(name=name, lr=0.3, momentum=0.8, beta2=0.95, weight_decay=0.1)
    found = spec.build(make_model().parameters())
    assert type(found) is getattr(torch.optim, KINDS[name].class_name)
    group = found.param_groups[0]
    assert (group["lr"], group["weight_decay"]) == (0.3, 0.1)
    if name == "sgd":
        assert (group["momentum"], group["nesterov"]) == (0.8, False)
    else:
        assert group["betas"] == (0.8, 0.95)


def test_nesterov_reaches_the_optimizer():
    found = OptimizerSpec(nesterov=True).build(make_model().parameters())
    assert found.param_groups[0]["nesterov"] is True


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"name": "lion"}, "optimizer name must be one of adam, adamw, muon, scion, sgd, got 'lion'"),
        ({"lr": 0.0}, "lr must be a finite number and above 0, got 0.0"),
        ({"lr": -0.1}, "lr must be a finite number and above 0, got -0.1"),
        ({"lr": math.inf}, "lr must be a finite number and above 0, got inf"),
        ({"lr": math.nan}, "lr must be a finite number and above 0, got nan"),
        ({"momentum": 1.0}, "momentum must be a finite number and at least 0 and below 1, got 1.0"),
        ({"momentum": -0.1}, "momentum must be a finite number and at least 0 and below 1, got -0.1"),
        ({"beta2": 1.0}, "beta2 must be a finite number and at least 0 and below 1, got 1.0"),
        ({"weight_decay": -1.0}, "weight_decay must be a finite number and at least 0, got -1.0"),
        ({"nesterov": True, "momentum": 0.0}, "nesterov needs SGD with momentum above 0, got sgd with momentum 0"),
        ({"options": {"polar_every": 2}}, "options are for muon and scion, got polar_every with sgd; leave them out"),
        ({"nesterov": True, "name": "adam"}, "nesterov needs SGD with momentum above 0, got adam with momentum 0.9"),
    ],
)
def test_a_bad_optimizer_raises(changes, rule):
    with pytest.raises(InputError, match=rule):
        OptimizerSpec(**changes)


@pytest.mark.parametrize("name", ["muon", "scion"])
def test_those_that_step_by_layers_are_not_made_from_parameters_alone(name):
    with pytest.raises(TaskError, match=r"must be made from the model.*build_optimizer\(spec, model\)"):
        OptimizerSpec(name=name).build(make_model().parameters())


# The target


@pytest.mark.parametrize(("direction", "reached"), [("below", (True, True, False)), ("above", (False, True, True))])
def test_a_target_is_reached_at_its_value_and_past_it(direction, reached):
    target = Target(value=0.5, direction=direction)
    assert tuple(target.reached(value) for value in (0.4, 0.5, 0.6)) == reached
    assert not target.reached(math.nan)


def test_a_bad_target_raises():
    with pytest.raises(InputError, match="target value must be a finite number, got nan"):
        Target(value=math.nan)
    with pytest.raises(InputError, match="target direction must be one of above, below, got 'down'"):
        Target(value=0.5, direction="down")
