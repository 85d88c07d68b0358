"""Memory is predicted from micro-batches of 2, 4 and 8 examples and judged by what larger steps really hold."""

import importlib
import math
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from batchwright.core.errors import DoesNotFitError, InputError
from batchwright.measure.memory import memory
from batchwright.measure.memory_peak import fit_peak
from batchwright.measure.memory_steps import Steps, out_of_memory
from batchwright.measure.memory_tracker import MemoryTracker
from batchwright.measure.simulated_device import SimulatedDevice
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
    return max(Steps(task, 0, torch.device("cpu")).timeline(size))


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
    steps = Steps(task, 0, torch.device("cpu"))
    batch = steps._batch(256)
    judge = MemTracker()
    judge.track_external(steps.model, steps.optimizer, *batch)
    with judge:
        cross_entropy(steps.model, batch).mean().backward()
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
        assert found.num_examples == 2 + (2 + 4 + 8)


def test_the_largest_size_just_fits_the_budget():
    task, budget = make_task(), 3_000_000
    found = memory(task, budget_bytes=budget, confirm=False)
    size = found.max_micro_batch_size
    assert step_bytes(task, size) <= budget < step_bytes(task, size + 1)
    confirmed = memory(task, budget_bytes=budget, confirm_plain_steps=1000.0)
    assert confirmed.confirmed
    assert 0.97 * size <= confirmed.max_micro_batch_size <= size
    assert found.method == "live-tensors"
    assert found.predicted_peak_bytes == pytest.approx(found.fixed_bytes + found.bytes_per_example * size, abs=1)


def test_peak_may_move_to_another_operation_at_larger_sizes():
    """The update peaks at the sizes measured, a backward pass of steeper growth beyond 100 examples."""
    timelines = {size: [500 + 10 * size, 1500, 1000 + size] for size in (2, 8)}
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
    assert "faster than the batch size" in fit_peak({2: [540], 8: [1140]}, static_bytes=500).doubtful


def test_pairs_of_examples_are_found_by_a_third_size():
    timelines = {size: [500 + 10 * size, 500 + 3 * size + 4 * size**2] for size in (2, 4, 8)}
    found = fit_peak(timelines, static_bytes=500)
    assert found.doubtful == ""
    assert found.at(100) == 500 + 300 + 40_000
    assert found.largest_within(40_800) == pytest.approx(100)
    assert found.largest_within(499) < 1
    assert found.parts_at(100) == (500, 403.0)


def contrastive(model: nn.Module, batch: tuple) -> torch.Tensor:
    """Each example against all others, so that memory grows with the square of the batch."""
    embedded = model(batch[0])
    return torch.cdist(embedded, embedded).exp().mean(1)


@pytest.mark.parametrize("confirm", [False, True])
def test_memory_that_grows_with_the_square_of_the_batch_is_predicted(confirm):
    task, budget = make_task(mlp, loss=contrastive, num_examples=2048), 8_000_000
    with SimulatedDevice(budget) as device:
        found = memory(task, budget_bytes=budget, confirm=confirm, confirm_plain_steps=1000.0)
    size = found.max_micro_batch_size
    assert found.warnings == ()
    assert device.num_failed == 0
    assert step_bytes(task, size) <= budget < step_bytes(task, math.ceil(size / 0.97))


class Attention(nn.Module):
    """Attention that keeps its matrix, whose memory grows with the square of the sequence length."""

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return (tokens @ tokens.transpose(1, 2)).softmax(2) @ tokens


@pytest.mark.parametrize("length", [4, 64])
def test_attention_is_predicted_at_every_sequence_length(length):
    task = replace(
        sentence_task([length] * 20_000), model=lambda: nn.Sequential(nn.Linear(8, 8), Attention(), nn.Linear(8, 1))
    )
    found = memory(task, budget_bytes=4_000_000, confirm=False)
    size = found.max_micro_batch_size
    assert found.warnings == ()
    assert step_bytes(task, size) <= 4_000_000 < step_bytes(task, size + 1)


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
    assert done.num_steps == 4
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

    monkeypatch.setattr(Steps, "measured_peak", measured_peak)
    found = memory(make_task(), budget_bytes=budget, confirm_plain_steps=1000.0)
    assert found.confirmed
    assert 0.94 * ceiling <= found.max_micro_batch_size <= ceiling
    assert len(failures) <= 3


def test_running_out_of_memory_is_told_from_other_errors(monkeypatch):
    assert out_of_memory(MemoryError())
    assert out_of_memory(torch.OutOfMemoryError())
    assert out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"))
    assert not out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    monkeypatch.setattr(Steps, "measured_peak", lambda self, size: None)
    found = memory(make_task(), budget_bytes=3_000_000, confirm_plain_steps=1000.0)
    assert not found.confirmed
    assert "no step stayed inside the budget" in found.confirmation


def test_a_simulated_device_is_filled_with_at_most_one_failed_allocation():
    device, task = SimulatedDevice(3_000_000), make_task()
    with device:
        found = memory(task, budget_bytes=3_000_000, confirm_plain_steps=1000.0)
    # What the step itself needs: beside it the sampler's order and indices are on this device.
    true = memory(task, budget_bytes=3_000_000, confirm=False).max_micro_batch_size
    assert found.confirmed
    assert 0.97 * true <= found.max_micro_batch_size <= true
    assert device.num_failed == found.num_failed <= 1


def test_a_device_without_room_for_a_step_says_so():
    task = make_task()
    with SimulatedDevice(20_000), pytest.raises(DoesNotFitError, match="a step on 2 examples, got out of memory"):
        memory(task, budget_bytes=3_000_000)


def test_trial_finds_the_ceiling_of_a_device():
    task = make_task()
    predicted = memory(task, budget_bytes=3_000_000, confirm=False).max_micro_batch_size
    with SimulatedDevice(3_000_000):
        found = memory(task, budget_bytes=3_000_000, method="trial")
    assert found.method == "trial"
    assert 0.95 * predicted <= found.max_micro_batch_size <= predicted
    assert found.num_failed >= 1
    assert found.predicted_peak_bytes <= 3_000_000


def test_a_step_that_cannot_be_counted_is_not_tried_on_a_cpu():
    def untraceable(model: nn.Module, batch: tuple) -> torch.Tensor:
        if torch._C._len_torch_dispatch_stack():
            raise NotImplementedError("no dispatch modes")
        return cross_entropy(model, batch)

    with pytest.raises(NotImplementedError, match="no dispatch modes"):
        memory(make_task(loss=untraceable))


@pytest.mark.parametrize("name", MODELS)
def test_evaluation_has_a_ceiling_of_its_own(name):
    task = replace(
        make_task(MODELS[name], "adamw"), evaluation=TensorDataset(*make_task(num_examples=700).train.tensors)
    )
    budget = 2_500_000
    train, evaluation = (memory(task, mode=mode, budget_bytes=budget, confirm=False) for mode in ("train", "eval"))
    assert evaluation.mode == "eval"
    assert train.max_micro_batch_size < evaluation.max_micro_batch_size <= 700
    for size in (64, 300):
        found = memory(task, mode="eval", max_micro_batch_size=size, budget_bytes=2**40)
        steps = Steps(task, 0, torch.device("cpu"), "eval")
        assert not steps.model.training
        assert found.predicted_peak_bytes == pytest.approx(max(steps.timeline(size)), rel=0.005)


def test_metrics_count_in_an_evaluation():
    def dear(model: nn.Module, batch: tuple) -> torch.Tensor:
        return batch[0].flatten(1).repeat(1, 100).mean(1)

    task = make_task()
    plain = memory(task, mode="eval", budget_bytes=2**40, confirm=False)
    assert memory(
        replace(task, metrics={"dear": dear}), mode="eval", budget_bytes=2**40, confirm=False
    ).bytes_per_example > (plain.bytes_per_example)


class Sentences:
    """Rows of different lengths, padded to the longest of a batch."""

    def __init__(self, lengths: list[int]) -> None:
        self.lengths = lengths

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[torch.Tensor]:
        longest = max(self.lengths[index] for index in indices)
        return [torch.ones(longest, 8) for _ in indices]


def sentence_task(lengths: list[int]) -> Task:
    return Task(
        name="sentences",
        model=lambda: nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 1)),
        loss=lambda model, batch: model(batch).square().mean((1, 2)),
        train=Sentences(lengths),
    )


def test_the_longest_example_bounds_the_micro_batch():
    task = sentence_task([5] * 199 + [50])
    longest = memory(sentence_task([50] * 200), budget_bytes=2_000_000, confirm=False)
    found = memory(task, largest=True, budget_bytes=2_000_000, confirm=False)
    assert found.max_micro_batch_size == longest.max_micro_batch_size
    assert found.max_micro_batch_size < memory(task, budget_bytes=2_000_000, confirm=False).max_micro_batch_size
    given = memory(task, largest=lambda size: torch.ones(size, 50, 8), budget_bytes=2_000_000, confirm=False)
    assert given.max_micro_batch_size == longest.max_micro_batch_size
    with pytest.raises(InputError, match=r"largest\(2\) must give a batch of 2 examples, got 1"):
        memory(task, largest=lambda size: torch.ones(1, 50, 8))


RANK = """
import os, pathlib, sys, time, torch
from torch import distributed, nn
from torch.utils.data import TensorDataset
from batchwright import OptimizerSpec, Task
from batchwright.measure import memory
rank, store, budgets = int(sys.argv[1]), sys.argv[2], [int(value) for value in sys.argv[3:]]
torch.set_num_threads(1)
distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
task = Task(
    name="two-ranks",
    model=lambda: nn.Linear(64, 1),
    loss=lambda model, batch: model(batch[0]).square().mean(1),
    train=TensorDataset(torch.ones(4096, 64)),
    optimizer=OptimizerSpec(lr=0.1),
)
try:
    found = memory(task, budget_bytes=budgets[rank], confirm=False)
    print(found.max_micro_batch_size, found.predicted_peak_bytes <= budgets[rank], *found.warnings)
except RuntimeError as error:
    print(type(error).__name__, error)
sys.stdout.flush()
# Gloo's threads may abort the process when the interpreter takes them down while a peer is leaving, so neither leaves before
# both are done, and then without a teardown.
pathlib.Path(f"{store}.{rank}").touch()
for _ in range(1200):
    if all(pathlib.Path(f"{store}.{other}").exists() for other in range(2)):
        break
    time.sleep(0.05)
os._exit(0)
"""


def run_two_ranks(tmp_path, *budgets: int) -> list[str]:
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, str(rank), str(tmp_path / "store"), *map(str, budgets)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    outcomes = [rank.communicate(timeout=120) for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], outcomes
    return [out.strip() for out, _ in outcomes]


def test_two_ranks_agree_on_the_smaller_answer(tmp_path):
    first, second = run_two_ranks(tmp_path, 100_000, 300_000)
    size = first.split()[0]
    assert first == f"{size} True"
    assert second.startswith(
        f"{size} True another rank has room for {size} examples alone; this one would have had for "
    )


def test_a_rank_that_fits_nothing_stops_the_others_too(tmp_path):
    first, second = run_two_ranks(tmp_path, 100, 300_000)
    assert first.startswith("DoesNotFitError budget_bytes must hold a step")
    assert second.startswith("DoesNotFitError a step must fit on every rank, got another rank that failed")


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
        ({"mode": "test"}, "mode must be one of eval, train, got 'test'"),
        ({"method": "guess"}, "method must be one of predict, trial, got 'guess'"),
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
