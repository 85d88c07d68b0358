"""Step times are measured in turns, within a budget, and lead to the knee, on devices whose speed is known."""

import math
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import IterableDataset, TensorDataset

from batchwright.core.errors import InputError, TaskError
from batchwright.measure import timing_warnings
from batchwright.measure.batch_size_grid import batch_size_grid
from batchwright.measure.step_timer import StepTimer
from batchwright.measure.throughput import throughput
from batchwright.tasks.task import OptimizerSpec, Task

A, B = 1e-3, 2e-5


def squared(model: nn.Module, batch: tuple) -> torch.Tensor:
    return (model(batch[0]).squeeze(1) - batch[1]).square()


def make_task(num_examples: int = 4096, batch_size: int = 32, loss=squared, model=None) -> Task:
    generator = torch.Generator().manual_seed(0)
    return Task(
        name="regression",
        model=model or (lambda: nn.Linear(4, 1)),
        loss=loss,
        train=TensorDataset(torch.randn(num_examples, 4, generator=generator), torch.zeros(num_examples)),
        optimizer=OptimizerSpec(lr=0.1),
        batch_size=batch_size,
    )


class Device:
    """A clock that moves by a known time a step, in place of training."""

    def __init__(
        self, monkeypatch, *, overhead=A, per_example=B, noise=0.02, disturbed=0.0, loading=0.0, seed=0
    ) -> None:
        self.now, self.sizes, self.micro_batch_sizes = 0.0, [], []
        self.overhead, self.per_example, self.noise, self.disturbed = overhead, per_example, noise, disturbed
        self.loading = loading
        self.rng = np.random.default_rng(seed)
        monkeypatch.setattr(StepTimer, "load", lambda timer, size: self.load(timer, size))
        monkeypatch.setattr(StepTimer, "update", lambda timer, size: self.step(size))
        monkeypatch.setattr(timing_warnings, "malloc_keeps_memory", lambda: True)
        monkeypatch.setattr(timing_warnings, "load_average", lambda: 0.5)

    def load(self, timer: StepTimer, size: int) -> int:
        self.micro_batch_sizes.append(timer.micro_batch_size)
        self.now += self.loading * size
        return size

    def step(self, batch_size: int) -> None:
        self.sizes.append(batch_size)
        seconds = self.overhead + self.per_example * batch_size
        seconds *= math.exp(self.noise * self.rng.standard_normal())
        self.now += seconds * (self.rng.uniform(2, 4) if self.rng.random() < self.disturbed else 1)

    def timer(self) -> float:
        return self.now

    def true_throughput(self, size: int) -> float:
        return size / (self.overhead + (self.per_example + self.loading) * size)


@pytest.mark.parametrize("seed", range(5))
def test_knee_is_within_five_per_cent_of_the_best_in_sixty_plain_steps(monkeypatch, seed):
    device = Device(monkeypatch, seed=seed)
    found = throughput(make_task(), timer=device.timer, seed=seed)
    best = device.true_throughput(4096)
    assert 0.95 * best <= device.true_throughput(found.knee) <= 0.985 * best
    assert found.flat_until == pytest.approx(2 + 0.1 * (A + 2 * B) / B, abs=4)
    assert found.fit == "affine"
    assert found.overhead_s.value == pytest.approx(A, rel=0.1)
    assert found.per_example_s.value == pytest.approx(B, rel=0.1)
    # The budget is kept to within one step of the largest size.
    largest = found.points[-1]
    assert found.cost_plain_steps <= 60 + largest.step_time_s.value / found.plain_step_s
    assert found.seconds == pytest.approx(found.cost_plain_steps * found.plain_step_s)
    assert found.num_steps == len(device.sizes)
    assert found.num_examples == sum(device.sizes)


@pytest.mark.parametrize("seed", range(10))
def test_knee_on_a_loaded_machine_moves_by_at_most_one_power_of_two(monkeypatch, seed):
    device = Device(monkeypatch, disturbed=0.25, seed=seed)
    sizes = (2, 8, 32, 64, 128, 256)
    found = throughput(make_task(), batch_sizes=sizes, budget_plain_steps=120.0, timer=device.timer, seed=seed)
    best = max(device.true_throughput(point.batch_size) for point in found.points)
    true = next(size for size in range(2, 4096) if device.true_throughput(size) >= 0.98 * best)
    assert true / 2 <= found.knee <= true * 2


def test_sizes_take_turns_and_the_largest_get_fewer_repeats(monkeypatch):
    device = Device(monkeypatch, noise=0.05)
    found = throughput(make_task(), batch_sizes=(8, 32, 256), timer=device.timer)
    assert device.sizes[:7] == [32, 32, 32, 8, 8, 256, 256]  # the first step of all, then a warm-up and a step of each
    assert device.sizes[7:12] == [8, 32, 256, 256, 32]
    repeats = {point.batch_size: point.num_repeats for point in found.points}
    assert repeats[256] < repeats[8]
    assert repeats[256] >= 2


def test_a_quiet_device_is_settled_early(monkeypatch):
    device = Device(monkeypatch, noise=0.0)
    found = throughput(make_task(), timer=device.timer, budget_plain_steps=500.0)
    assert {point.num_repeats for point in found.points} == {2, 3}
    assert found.warnings == ()
    assert found.step_time_s(4096).value == pytest.approx(A + 4096 * B, rel=1e-6)


def test_sizes_over_the_budget_are_left_out_and_it_says_so(monkeypatch):
    device = Device(monkeypatch, overhead=1e-6)
    found = throughput(make_task(), timer=device.timer)
    assert found.points[-1].batch_size < 4096
    assert found.knee <= 8
    assert any("were not timed" in warning for warning in found.warnings)
    tight = throughput(make_task(), timer=device.timer, budget_plain_steps=0.1)
    assert len(tight.points) == 2


def test_micro_batch_ceiling_is_passed_on_and_larger_sizes_are_whole_micro_batches(monkeypatch):
    device = Device(monkeypatch)
    found = throughput(make_task(), micro_batch_size=50, max_batch_size=512, timer=device.timer)
    assert set(device.micro_batch_sizes) == {50}
    assert all(point.batch_size % 50 == 0 for point in found.points if point.batch_size > 50)
    assert max(device.sizes) <= 512


@pytest.mark.parametrize("batch_size", [1, 2, 3, 32, 100])
@pytest.mark.parametrize("limit", [1, 2, 64, 1000])
@pytest.mark.parametrize("micro_batch_size", [None, 1, 24, 500])
def test_grid_is_rising_and_bounded(batch_size, limit, micro_batch_size):
    sizes = batch_size_grid(batch_size, limit, 1000, micro_batch_size)
    assert sizes == sorted(set(sizes))
    assert len(sizes) >= 2
    assert batch_size in sizes
    assert all(1 <= size <= max(limit, batch_size, 2) for size in sizes)


def test_a_real_measurement_leaves_the_generators_and_counts_its_steps():
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    seen = []

    def counted(model: nn.Module, batch: tuple) -> torch.Tensor:
        seen.append(len(batch[0]))
        return squared(model, batch)

    task = make_task(loss=counted, model=lambda: nn.Sequential(nn.Linear(4, 1), nn.Dropout(0.5)))
    found = throughput(task, batch_sizes=(4, 64), micro_batch_size=16, budget_plain_steps=400.0)
    assert max(seen) == 16
    assert found.num_examples == sum(seen)
    # Steps that other work stretches can use up any budget before the largest size is reached.
    assert [point.batch_size for point in found.points] in ([4, 32, 64], [4, 32])
    assert found.plain_step_s > 0
    assert found.points[0].batch_size <= found.knee <= 64
    assert torch.equal(torch.get_rng_state(), state)
    assert (np.random.get_state()[1] == numpy_state).all()


def test_generators_come_back_after_a_failure():
    state = torch.get_rng_state()

    def failing(model: nn.Module, batch: tuple) -> torch.Tensor:
        torch.rand(3)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        throughput(make_task(loss=failing))
    assert torch.equal(torch.get_rng_state(), state)


def test_a_size_that_the_model_refuses_is_left_out_of_the_own_grid_alone():
    def picky(model: nn.Module, batch: tuple) -> torch.Tensor:
        if len(batch[0]) < 4:
            raise ValueError("expected at least 4 examples")
        return squared(model, batch)

    found = throughput(make_task(loss=picky), max_batch_size=64, budget_plain_steps=30.0)
    assert min(point.batch_size for point in found.points) == 32
    assert any("batch size 2 was left out: ValueError: expected" in warning for warning in found.warnings)
    with pytest.raises(ValueError, match="expected at least 4"):
        throughput(make_task(loss=picky), batch_sizes=(2, 64))


def test_distortions_are_named(monkeypatch):
    device = Device(monkeypatch, noise=0.5)
    monkeypatch.setattr(timing_warnings, "malloc_keeps_memory", lambda: False)
    monkeypatch.setattr(timing_warnings, "load_average", lambda: 1000.0)
    text = " ".join(throughput(make_task(), timer=device.timer).warnings)
    assert "MALLOC_MMAP_MAX_=0 and MALLOC_TRIM_THRESHOLD_=100000000000" in text
    assert "load average is 1000.0" in text
    assert "scatter by" in text
    standing = throughput(make_task(), batch_sizes=(8, 64), timer=lambda: 0.0)
    assert any("timer is too coarse" in warning for warning in standing.warnings)


def test_a_bent_device_is_interpolated_and_named(monkeypatch):
    device = Device(monkeypatch, noise=0.005)
    monkeypatch.setattr(StepTimer, "update", lambda timer, size: bent(device, size))
    found = throughput(make_task(), batch_sizes=(2, 8, 32, 64, 128, 256), timer=device.timer, budget_plain_steps=300.0)
    assert found.fit == "piecewise"
    assert any("interpolated between the measured sizes" in warning for warning in found.warnings)


def bent(device: Device, batch_size: int) -> None:
    device.now += A + B * batch_size + max(0.0, 4 * B * (batch_size - 64))


def test_loading_is_told_from_launching_and_computing(monkeypatch):
    sizes = (2, 32, 64, 1024, 4096)
    options = {"batch_sizes": sizes, "budget_plain_steps": 2000.0}
    computing = throughput(make_task(), timer=Device(monkeypatch, noise=0.0).timer, **options)
    assert [point.region for point in computing.points] == ["launch", "launch", "compute", "compute", "compute"]
    assert computing.loading_s == 0.0
    device = Device(monkeypatch, noise=0.0, loading=2 * B)
    loading = throughput(make_task(), timer=device.timer, **options)
    assert [point.region for point in loading.points] == ["launch", "compute", "loading", "loading", "loading"]
    assert loading.loading_s == pytest.approx(2 * B)
    assert all(point.loading_s == pytest.approx(2 * B) for point in loading.points)
    assert loading.per_example_s.value == pytest.approx(3 * B, rel=1e-3)


class Waiting:
    """Examples that come from somewhere slow, one by one: each waits, or keeps the processor busy, for a while."""

    def __init__(self, busy: bool, seconds: float = 1e-3) -> None:
        self.busy, self.seconds = busy, seconds

    def __len__(self) -> int:
        return 512

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        end = time.thread_time() + self.seconds
        while self.busy and time.thread_time() < end:
            pass
        if not self.busy:
            time.sleep(self.seconds)
        return torch.ones(4), torch.zeros(())


class WaitingTogether(Waiting):
    """The same, asked for a batch at once, as by workers that fetch side by side: it waits once."""

    def __getitems__(self, indices: list[int]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        time.sleep(0.03)
        return [(torch.ones(4), torch.zeros(())) for _ in indices]


@pytest.mark.parametrize("busy", [False, True])
def test_a_slow_data_set_is_loading_whether_it_waits_or_works(busy):
    task = replace(make_task(batch_size=16), train=Waiting(busy))
    found = throughput(task, batch_sizes=(4, 64), budget_plain_steps=30.0)
    assert {point.region for point in found.points} == {"loading"}
    # A busy machine may stretch both, and the step with them.
    assert found.loading_s >= 0.95e-3
    assert found.per_example_s.value >= 0.9e-3


def test_a_wait_that_a_batch_has_in_common_is_loading_and_a_reason_for_larger_batches():
    task = replace(make_task(batch_size=16), train=WaitingTogether(busy=False))
    found = throughput(task, batch_sizes=(4, 64), budget_plain_steps=12.0)
    assert {point.region for point in found.points} == {"loading"}
    assert found.overhead_s.value >= 0.02
    assert found.knee >= 56


def test_many_small_layers_are_launching_and_a_few_large_ones_computing():
    def small() -> nn.Module:
        return nn.Sequential(*(nn.Linear(4, 4) for _ in range(40)), nn.Linear(4, 1))

    def large() -> nn.Module:
        return nn.Sequential(nn.Linear(4, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 1))

    computing = throughput(make_task(batch_size=256, model=large), batch_sizes=(512, 1024), budget_plain_steps=30.0)
    assert computing.points[-1].region == "compute"
    launching = throughput(make_task(batch_size=8, model=small), batch_sizes=(2, 16), budget_plain_steps=100.0)
    assert launching.points[0].region == "launch"


def test_a_stream_of_examples_is_refused_with_the_way_out():
    class Stream(IterableDataset):
        def __iter__(self):
            yield torch.ones(4), torch.zeros(())

    with pytest.raises(TaskError, match="train must be a map-style data set with __len__ and __getitem__, got Stream"):
        replace(make_task(), train=Stream())


def test_raising_the_size_ends_where_it_gains_nothing(monkeypatch):
    device = Device(monkeypatch, overhead=1e-6, noise=0.002)
    found = throughput(make_task(), timer=device.timer)
    assert [point.batch_size for point in found.points] == [2, 32, 128]
    assert found.cost_plain_steps < 60
    assert not any("were not timed" in warning for warning in found.warnings)


def test_the_knee_may_lie_beyond_the_sizes_that_the_budget_allows(monkeypatch):
    device = Device(monkeypatch, overhead=1.0, per_example=1e-5, noise=0.0)
    task = make_task(num_examples=2**22)
    found = throughput(task, timer=device.timer)
    assert found.points[-1].batch_size < found.knee
    assert device.true_throughput(found.knee) == pytest.approx(0.98 * device.true_throughput(2**22), rel=1e-3)
    assert any("their step time is extrapolated" in warning for warning in found.warnings)


def test_time_that_other_work_takes_stretches_all_steps_alike(monkeypatch):
    """Steps longer than a time slice of 5 ms lose half of the processor, shorter ones nothing."""
    device = Device(monkeypatch, noise=0.0)
    device.busy = 0.0

    def shared(size: int) -> None:
        seconds = A + B * size
        device.busy += seconds
        device.now += seconds + max(0.0, seconds - 0.005)

    device.step, timer = shared, device.timer
    options = {"batch_sizes": (2, 32, 512, 1024), "budget_plain_steps": 500.0}
    monkeypatch.setattr(time, "perf_counter", timer)
    monkeypatch.setattr(time, "thread_time", lambda: device.busy)
    found = throughput(make_task(), timer=timer, **options)
    expected = throughput(make_task(), timer=Device(monkeypatch, noise=0.0).timer, **options)
    assert found.knee == pytest.approx(expected.knee, rel=0.01)
    assert found.fit == expected.fit == "affine"
    stretch = found.overhead_s.value / expected.overhead_s.value
    assert 1.0 < stretch < 2.0
    assert found.per_example_s.value / expected.per_example_s.value == pytest.approx(stretch, rel=1e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_sizes": (8, 5000)}, "at most the number of training examples, got 5000 for 4096"),
        ({"batch_sizes": (32,)}, "a size beside the task's own"),
        ({"batch_sizes": (0,)}, "batch size must be an integer of at least 1"),
        ({"max_batch_size": 0}, "max_batch_size must be an integer of at least 1"),
        ({"micro_batch_size": 0}, "micro_batch_size must be an integer of at least 1"),
        ({"budget_plain_steps": 0.0}, "budget_plain_steps must be a finite number and above 0"),
        ({"level": 1.0}, "level must be a finite number and above 0 and below 1"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        throughput(make_task(), **arguments)


def test_one_example_is_too_few():
    with pytest.raises(InputError, match="at least 2 examples"):
        throughput(make_task(num_examples=1, batch_size=1))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_cuda_steps_are_waited_for():
    found = throughput(make_task(), device="cuda", batch_sizes=(8, 1024))
    assert found.points[-1].step_time_s.value > 0
