"""Trials of tasks: what a setting becomes, what a diverged trial is worth, and that a hopeless one ends early."""

import math

import pytest

from batchwright.core.errors import InputError
from batchwright.tasks.loading import load_task
from batchwright.tuning import task_objective
from batchwright.tuning.objective import setting_of
from batchwright.tuning.outcome import Incumbent


@pytest.fixture(scope="module")
def task():
    return load_task("digits-mlp")


def test_a_trial_trains_to_its_budget_and_repeats_to_the_bit(task):
    objective = task_objective(task, max_examples=1500, device="cpu")
    assert (objective.metric.name, objective.metric.scale, objective.metric.direction) == ("loss", "log", "below")
    first = objective({"lr": 0.05, "batch_size": 32}, 3, None)
    assert first.status == "done"
    assert first.num_examples == 1504
    assert len(first.curve) == 13
    assert first.value == first.curve[-1].value < 0.3 * first.curve[0].value
    again = objective({"lr": 0.05, "batch_size": 32}, 3, None)
    assert again.value == first.value
    assert objective({"lr": 0.05, "batch_size": 32}, 4, None).value != first.value


def test_a_diverged_trial_is_worth_the_untrained_model(task):
    objective = task_objective(task, max_examples=1500, device="cpu")
    found = objective({"lr": 1e4, "momentum": 0.99}, 3, None)
    assert found.status == "diverged"
    assert found.value == found.curve[0].value
    assert found.value == pytest.approx(math.log(10), abs=0.3)


def test_a_hopeless_trial_ends_early_and_tells_what_is_foreseen(task):
    objective = task_objective(task, max_examples=6000, device="cpu")
    slow = {"lr": 2e-4, "momentum": 0.5, "batch_size": 64}
    stopped = objective(slow, 3, Incumbent(value=0.1))
    assert stopped.status == "stopped"
    assert stopped.num_examples < 6000
    whole = objective(slow, 3, None)
    assert whole.status == "done"
    assert stopped.value > 0.1
    assert stopped.value == pytest.approx(whole.value, rel=0.15)
    assert (
        task_objective(task, max_examples=6000, device="cpu", early_stop=False)(slow, 3, Incumbent(value=0.1)).status
        == "done"
    )


def test_large_batches_make_one_evaluation_a_step(task):
    found = task_objective(task, max_examples=2000, device="cpu")({"batch_size": 1024}, 0, None)
    assert [point.num_examples for point in found.curve] == [0, 1024, 2048]


def test_a_metric_of_the_task_has_its_own_direction(task):
    objective = task_objective(task, metric="accuracy", max_examples=1500, device="cpu")
    assert (objective.metric.direction, objective.metric.scale) == ("above", "linear")
    assert objective({}, 0, None).value > 0.7
    with pytest.raises(InputError, match=r"--metric must be one of loss, accuracy, got 'f1'"):
        task_objective(task, metric="f1")


def test_a_setting_changes_what_it_names_alone(task):
    spec, batch_size = setting_of(task, {"lr": 0.3, "optimizer": "adamw", "beta2": 0.95, "batch_size": 16})
    assert (spec.name, spec.lr, spec.beta2, spec.momentum, batch_size) == ("adamw", 0.3, 0.95, 0.9, 16)
    assert setting_of(task, {}) == (task.optimizer, 32)
    with pytest.raises(InputError, match=r"--space of a task must name some of .*, got width"):
        setting_of(task, {"width": 3})
    with pytest.raises(
        InputError, match="batch_size must be at most the number of training examples, got 4096 for 1437"
    ):
        setting_of(task, {"batch_size": 4096})
