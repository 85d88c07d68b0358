"""Memory is predicted from micro-batches of 2, 4 and 8 examples and judged by what larger steps really hold."""

import importlib

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from batchwright.core.errors import DoesNotFitError, InputError
from batchwright.measure.memory import fit_peak, memory
from batchwright.measure.memory_tracker import MemoryTracker
from batchwright.tasks.task import OptimizerSpec, Task

# The package offers the function under the module's name.
module = importlib.import_module("batchwright.measure.memory")


def cross_entropy(model: nn.Module, batch: tuple) -> torch.Tensor:
    return nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="none")


def cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(128, 10)
    )


def mlp() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10)
    )


class Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(8, 16)
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.head = nn.Linear(16, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.layer(self.embed(images.squeeze(1))).mean(1))


MODELS = {"cnn": cnn, "mlp": mlp, "transformer": Transformer}


def make_task(model=cnn, optimizer: str = "sgd", num_examples: int = 1024, loss=cross_entropy) -> Task:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(num_examples, 1, 8, 8, generator=generator)
    labels = torch.randint(0, 10, (num_examples,), generator=generator)
    return Task(
        name="digits-like",
        model=model,
        loss=loss,
        train=TensorDataset(inputs, labels),
        optimizer=OptimizerSpec(name=optimizer, lr=0.01),
        batch_size=min(32, num_examples),
    )


def step_bytes(task: Task, size: int) -> int:
    return max(module._Steps(task, 0, torch.device("cpu")).timeline(size))


def test_tracker_counts_storages_once_and_until_they_are_freed():
    alive = torch.zeros(100)
    with MemoryTracker({"alive": [alive]}) as tracker:
        kept = alive + 1  # 400 more
        kept.view(10, 10).add_(1)  # a view and a change in place: nothing more
        del kept
        alive * 2  # the first result is gone, this one comes
    assert tracker.timeline == [800, 800, 800, 800]
    assert tracker.peak_bytes == 800
    assert MemoryTracker(alive).peak_bytes == 400


def test_tracker_counts_what_autograd_saves_and_sparse_gradients():
    table = nn.Embedding(50, 4, sparse=True)
    with MemoryTracker(list(table.parameters())) as tracker:
        table(torch.tensor([1, 2])).square().sum().backward()
    assert table.weight.grad.is_sparse
    assert tracker.peak_bytes >= 800 + 2 * 16 + 2 * 8


def test_tracker_agrees_with_the_one_of_torch_distributed():
    from torch.distributed._tools.mem_tracker import MemTracker

    task = make_task()
    steps = module._Steps(task, 0, torch.device("cpu"))
    batch = steps._batch(256)
    steps.optimizer.zero_grad(set_to_none=True)
    judge = MemTracker()
    judge.track_external(steps.model, steps.optimizer, *batch)
    with judge:
        for _ in range(2):
            cross_entropy(steps.model, batch).mean().backward()
            judge.reset_mod_stats()
        steps.optimizer.step()
    expected = sum(device["Total"] for device in judge.get_tracker_snapshot("peak").values())
    assert step_bytes(task, 256) == pytest.approx(expected, rel=0.002)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_prediction_from_few_examples_meets_a_large_step(name, optimizer):
    task = make_task(MODELS[name], optimizer)
    for size in (64, 512):
        found = memory(task, max_micro_batch_size=size, confirm=False, budget_bytes=2**40)
        assert found.max_micro_batch_size == size
        assert found.predicted_peak_bytes == pytest.approx(step_bytes(task, size), rel=0.005)
        assert found.warnings == ()
        assert found.num_steps == 4
        assert found.num_examples == 2 + 2 * (2 + 4 + 8)


def test_the_largest_size_just_fits_the_budget():
    task, budget = make_task(), 3_000_000
    found = memory(task, budget_bytes=budget, confirm_plain_steps=1000.0)
    size = found.max_micro_batch_size
    assert step_bytes(task, size) <= budget < step_bytes(task, size + 1)
    assert found.confirmed
    assert found.method == "live-tensors"
    assert found.predicted_peak_bytes == pytest.approx(found.fixed_bytes + found.bytes_per_example * size, abs=1)


def test_peak_may_move_to_another_operation_at_larger_sizes():
    """The update peaks at the sizes measured, a backward pass of steeper growth beyond 100 examples."""
    timelines = {size: [500 + 10 * size, 1500, 1000 + size] for size in (2, 4, 8)}
    found = fit_peak(timelines, static_bytes=400)
    assert found.doubtful == ""
    assert found.at(50) == 1500
    assert found.at(200) == 2500
    assert found.largest_within(2500) == 200
    assert found.largest_within(1499) < 1
    assert found.parts_at(200) == (500, 10.0)


def test_a_single_size_is_joined_to_the_static_bytes():
    assert fit_peak({1: [500, 700]}, static_bytes=400).at(10) == 400 + 10 * 300


def test_uneven_growth_is_called_doubtful():
    assert "does not grow evenly" in fit_peak({2: [100], 4: [300], 8: [400]}, static_bytes=0).doubtful
    assert "operations of a step differ" in fit_peak({2: [100, 90], 4: [120], 8: [160]}, static_bytes=0).doubtful


def test_operations_that_depend_on_the_size_are_named():
    def by_parts(model: nn.Module, batch: tuple) -> torch.Tensor:
        return torch.cat(
            [cross_entropy(model, (image[None], label[None])) for image, label in zip(*batch, strict=True)]
        )

    found = memory(make_task(mlp, loss=by_parts), confirm=False)
    assert any("operations of a step differ" in warning for warning in found.warnings)


def test_nothing_fits():
    with pytest.raises(DoesNotFitError, match=r"at least one example, got 10,000 bytes and one takes \d"):
        memory(make_task(), budget_bytes=10_000)


def test_defaults_are_a_share_of_what_is_available(monkeypatch):
    monkeypatch.setattr(module, "available_memory_bytes", lambda _: 5_000_000)
    assert memory(make_task(), confirm=False).budget_bytes == 3_000_000
    monkeypatch.setattr(module, "available_memory_bytes", lambda _: None)
    found = memory(make_task(), confirm=False)
    assert found.budget_bytes is None
    assert found.max_micro_batch_size == 1024
    assert any("not known here" in warning for warning in found.warnings)


def test_the_ceiling_is_capped():
    assert memory(make_task(num_examples=40), confirm=False).max_micro_batch_size == 40
    assert memory(make_task(), max_micro_batch_size=7, confirm=False).max_micro_batch_size == 7
    single = memory(make_task(mlp, num_examples=1), confirm=False)
    assert single.max_micro_batch_size == 1
    assert single.predicted_peak_bytes > single.fixed_bytes


def test_confirming_says_what_came_of_it():
    assert memory(make_task(), confirm=False).confirmation == "not asked for"
    dear = memory(make_task(), confirm_plain_steps=4.0)
    assert not dear.confirmed
    assert "would cost about 32 plain steps, more than 4" in dear.confirmation
    done = memory(make_task(), max_micro_batch_size=64)
    assert done.confirmed
    assert done.num_steps == 5
    assert "a step on 64 examples peaked at" in done.confirmation


@pytest.mark.parametrize("ceiling", [300, 777, 800])
@pytest.mark.parametrize("budget", [3_000_000, 4_500_000])
def test_a_device_that_runs_out_elsewhere_than_predicted_is_found_in_four_tries(monkeypatch, ceiling, budget):
    failures = []

    def measured_peak(self, size: int) -> int | None:
        if size > ceiling:
            failures.append(size)
            return None
        fixed = self.static_bytes()
        return int(fixed + (budget - fixed) * size / ceiling)

    monkeypatch.setattr(module._Steps, "measured_peak", measured_peak)
    found = memory(make_task(), budget_bytes=budget, confirm_plain_steps=1000.0)
    assert found.confirmed
    assert 0.94 * ceiling <= found.max_micro_batch_size <= ceiling
    assert len(failures) <= 3


def test_running_out_of_memory_is_told_from_other_errors(monkeypatch):
    assert module._out_of_memory(MemoryError())
    assert module._out_of_memory(torch.OutOfMemoryError())
    assert module._out_of_memory(
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes")
    )
    assert not module._out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    monkeypatch.setattr(module._Steps, "measured_peak", lambda self, size: None)
    found = memory(make_task(), budget_bytes=3_000_000, confirm_plain_steps=1000.0)
    assert not found.confirmed
    assert "no step stayed inside the budget" in found.confirmation


def test_generators_are_left_alone_also_after_a_failure():
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    memory(make_task(Transformer), confirm=False)

    def failing(model: nn.Module, batch: tuple) -> torch.Tensor:
        torch.rand(3)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        memory(make_task(loss=failing))
    assert torch.equal(torch.get_rng_state(), state)
    assert (np.random.get_state()[1] == numpy_state).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"budget_bytes": 0}, "budget_bytes must be an integer of at least 1"),
        ({"max_micro_batch_size": 0}, "max_micro_batch_size must be an integer of at least 1"),
        ({"confirm_plain_steps": -1.0}, "confirm_plain_steps must be a finite number and at least 0"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        memory(make_task(), **arguments)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_cuda_ceiling_is_settled_by_the_allocator():
    found = memory(make_task(), device="cuda", budget_bytes=8_000_000)
    assert found.method == "cuda"
    assert found.confirmed
