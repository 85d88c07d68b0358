"""The battery over every built-in task: it checks, its examples are independent, it is the same each time."""

from functools import cache
from pathlib import Path

import pytest
import torch

from batchwright.core.objectives import example_losses
from batchwright.core.vectors import num_parameters
from batchwright.data.access import fetch
from batchwright.data.samplers import EpochSampler
from batchwright.tasks import REGISTRY, Task, check_task, evaluate, load_task
from batchwright.tasks.uci import TABLES

OFFLINE = [name for name, entry in REGISTRY.items() if not entry.needs_data]
# cifar-resnet takes 8 s to read; `test_images` checks it on a small file. Its examples are independent with group norm.
TOLD = {
    "char-gpt": ["char-gpt"],  # it has real data too
    "cifar-resnet": [pytest.param("cifar-resnet:8-group", marks=pytest.mark.slow)],
    "uci-mlp": [f"uci-mlp:{table}" for table in TABLES],
}
WITH_DATA = [
    each for name, entry in REGISTRY.items() if entry.needs_data or name in TOLD for each in TOLD.get(name, [name])
]


@cache
def offline(name: str) -> Task:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("BATCHWRIGHT_DATA", raising=False)
        return load_task(name)


@cache
def with_data(name: str, data_root: Path) -> Task:
    return load_task(name, data_root=data_root)


def steps_to_target(task: Task, max_steps: int, every: int = 20) -> int | None:
    """Steps after which an evaluation first meets the target; at a constant lr the loss goes up and down about it later."""
    assert task.target is not None
    model = task.make_model(0)
    optimizer = task.optimizer.build(model.parameters())
    sampler = EpochSampler(task.num_train, 0)
    for step in range(1, max_steps + 1):
        optimizer.zero_grad()
        example_losses(model, task.loss, fetch(task.train, sampler.take(task.batch_size))).mean().backward()
        optimizer.step()
        if step % every == 0 and task.target.reached(evaluate(task, model).values[task.target.metric]):
            return step
    return None


def losses(task: Task) -> tuple[torch.Tensor, torch.Tensor]:
    """Losses of three examples of a fresh model, as one batch and one by one."""
    model = task.make_model(0).eval()
    with torch.no_grad():
        together = example_losses(model, task.loss, fetch(task.train, torch.arange(3)))
        alone = [example_losses(model, task.loss, fetch(task.train, torch.tensor([i]))) for i in range(3)]
    return together, torch.cat(alone)


def is_complete(task: Task) -> bool:
    """Whether a task says all that a plan and a run want to know, and passes the check of a user's task."""
    check_task(task)
    given = task.target, task.max_examples, task.evaluation
    return all(each is not None for each in given) and task.batch_size == 32 and bool(task.description)


def test_what_is_told_of_tasks_is_of_tasks_that_there_are():
    assert TOLD.keys() <= REGISTRY.keys()
    assert {"char-gpt", "digits-cnn", "digits-mlp", "noisy-quadratic"} <= set(OFFLINE)


def test_entries_are_sorted_and_named_as_their_keys():
    assert list(REGISTRY) == sorted(REGISTRY)
    assert all(name == entry.name and entry.description for name, entry in REGISTRY.items())


@pytest.mark.parametrize("name", OFFLINE)
def test_an_offline_task_holds_its_promises(name):
    task = offline(name)
    assert is_complete(task)
    together, alone = losses(task)
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.shared_data
@pytest.mark.parametrize("name", WITH_DATA)
def test_a_task_on_real_data_holds_its_promises(name, data_root):
    task = with_data(name, data_root)
    assert is_complete(task)
    together, alone = losses(task)
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", OFFLINE)
def test_a_task_is_the_same_each_time_it_is_made(name):
    torch.manual_seed(123)
    first, second = REGISTRY[name].make(None, None), offline(name)
    for part in ("train", "evaluation"):
        one, other = (getattr(task, part) for task in (first, second))
        assert len(one) == len(other)
        one, other = (fetch(each, torch.arange(min(len(each), 500))) for each in (one, other))
        torch.testing.assert_close(one, other, rtol=0, atol=0)


@pytest.mark.parametrize(("name", "max_steps"), [("digits-mlp", 300), ("digits-cnn", 300), ("noisy-quadratic", 1000)])
def test_the_default_settings_reach_the_target(name, max_steps):
    task = offline(name)
    found = steps_to_target(task, max_steps)
    assert found is not None
    assert found >= 40  # fewer would leave no room for a larger batch
    assert max_steps * task.batch_size <= task.example_limit / 3


@pytest.mark.shared_data
@pytest.mark.parametrize(
    ("table", "max_steps"),
    [("power-plant", 700), ("concrete", 900), ("energy", 1000), ("wine-quality", 900), ("yacht", 400)],
)
def test_the_default_settings_reach_the_target_of_a_table(table, max_steps, data_root):
    assert steps_to_target(with_data(f"uci-mlp:{table}", data_root), max_steps) is not None


@pytest.mark.parametrize(("name", "size"), [("digits-mlp", 9610), ("digits-cnn", 9930), ("noisy-quadratic", 32)])
def test_a_model_has_its_stated_number_of_parameters(name, size):
    assert num_parameters(offline(name).make_model(0)) == size
