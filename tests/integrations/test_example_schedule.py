"""A framework's lr schedule at the pace of the examples: at k times the batch size it moves k steps, and ends where it would have."""

import math

import pytest
import torch
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    ExponentialLR,
    LambdaLR,
    LinearLR,
    MultiStepLR,
    OneCycleLR,
    SequentialLR,
    StepLR,
)

from batchwright.integrations.example_schedule import ExampleSchedule


def sgd() -> torch.optim.SGD:
    return torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=0.5, momentum=0.9)


SCHEDULERS = {
    "cosine": lambda optimizer: CosineAnnealingLR(optimizer, 24, eta_min=0.01),
    "exponential": lambda optimizer: ExponentialLR(optimizer, 0.9),
    "lambda": lambda optimizer: LambdaLR(optimizer, lambda step: 1 / (1 + step)),
    "multi-step": lambda optimizer: MultiStepLR(optimizer, [5, 11], 0.1),
    "one-cycle": lambda optimizer: OneCycleLR(optimizer, 0.5, total_steps=25),
    "step": lambda optimizer: StepLR(optimizer, 7, 0.5),
    "warm-up": lambda optimizer: SequentialLR(
        optimizer, [LinearLR(optimizer, 0.1, total_iters=4), CosineAnnealingLR(optimizer, 20)], [4]
    ),
}


def framework_step(optimizer, scheduler, schedule, base_steps, *, end_of_epoch=False):
    optimizer.step()
    schedule.before()
    scheduler.step()
    schedule.after(base_steps, end_of_epoch=end_of_epoch)


def plain(name: str, num_steps: int) -> list[tuple[float, float]]:
    """lr and momentum before each plain step."""
    optimizer = sgd()
    scheduler = SCHEDULERS[name](optimizer)
    found = []
    for _ in range(num_steps):
        found.append((optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["momentum"]))
        optimizer.step()
        scheduler.step()
    return found


@pytest.mark.parametrize("name", SCHEDULERS)
def test_it_stands_where_the_plain_schedule_stands_after_as_many_examples(name):
    expected = plain(name, 24)
    optimizer = sgd()
    scheduler = SCHEDULERS[name](optimizer)
    schedule = ExampleSchedule([scheduler])
    progress = 0.0
    for base_steps in (1, 1, 2, 4, 0.5, 0.5, 0.25, 0.25, 0.5, 3, 1.5, 1.5, 4, 1):
        now = optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["momentum"]
        assert now == pytest.approx(expected[math.floor(progress)], rel=1e-12)
        framework_step(optimizer, scheduler, schedule, base_steps)
        progress += base_steps
    assert progress == 21


@pytest.mark.parametrize("name", SCHEDULERS)
def test_at_the_base_batch_size_it_is_the_framework_s_own_to_the_last_bit(name):
    optimizer = sgd()
    scheduler = SCHEDULERS[name](optimizer)
    schedule = ExampleSchedule([scheduler])
    found = []
    for _ in range(20):
        found.append((optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["momentum"]))
        framework_step(optimizer, scheduler, schedule, 1.0)
    assert found == plain(name, 20)


def test_thirds_of_a_step_add_up_to_whole_ones():
    optimizer = sgd()
    scheduler = LambdaLR(optimizer, lambda step: 1.0 + step)
    schedule = ExampleSchedule([scheduler])
    for _ in range(300):
        framework_step(optimizer, scheduler, schedule, 1 / 3)
    assert scheduler.last_epoch == 100


def test_an_epoch_counts_the_steps_that_the_framework_planned_for_it():
    # 10 micro-batches an epoch, 4 to a step: the framework plans 3 steps; steps of 8 micro-batches make 8 and 2.
    optimizer = sgd()
    scheduler = LambdaLR(optimizer, lambda step: 1.0 + step)
    schedule = ExampleSchedule([scheduler])
    for _ in range(5):
        framework_step(optimizer, scheduler, schedule, 2.0)
        framework_step(optimizer, scheduler, schedule, 0.5, end_of_epoch=True)
    assert scheduler.last_epoch == 5 * math.ceil(10 / 4)


def test_several_scheduler_steps_an_optimizer_step_stay_in_proportion():
    optimizer = sgd()
    scheduler = LambdaLR(optimizer, lambda step: 1.0 + step)
    schedule = ExampleSchedule([scheduler], steps_each=2)
    for base_steps, expected in ((1.0, 2), (2.0, 6), (0.5, 6), (0.5, 8)):
        optimizer.step()
        schedule.before()
        scheduler.step()
        scheduler.step()
        schedule.after(base_steps, end_of_epoch=False)
        assert scheduler.last_epoch == expected


@pytest.mark.parametrize("stray", [0, 1])
def test_a_step_that_the_optimizer_left_out_is_made_up_for_by_the_next(stray):
    optimizer = sgd()
    scheduler = LambdaLR(optimizer, lambda step: 1.0 + step)
    schedule = ExampleSchedule([scheduler])
    framework_step(optimizer, scheduler, schedule, 1.0)
    for _ in range(stray):  # Lightning steps it nevertheless
        scheduler.step()
    schedule.after(2.0, end_of_epoch=False)
    assert (scheduler.last_epoch, schedule.num_steps) == (1 + stray, 3)
    framework_step(optimizer, scheduler, schedule, 1.0)
    assert (scheduler.last_epoch, schedule.num_steps) == (4, 4)


def test_a_resumed_schedule_goes_on_alike():
    runs = []
    for stop in (None, 3):
        optimizer = sgd()
        scheduler = CosineAnnealingLR(optimizer, 24)
        schedule = ExampleSchedule([scheduler])
        for number, base_steps in enumerate((0.5, 2.0, 0.75, 1.25, 0.5, 4.0)):
            if number == stop:
                kept = schedule.state_dict(), scheduler.state_dict(), optimizer.state_dict()
                optimizer = sgd()
                scheduler = CosineAnnealingLR(optimizer, 24)
                schedule = ExampleSchedule([scheduler])
                scheduler.load_state_dict(kept[1])
                optimizer.load_state_dict(kept[2])
                schedule.load_state_dict(kept[0])
            framework_step(optimizer, scheduler, schedule, base_steps)
        runs.append((optimizer.param_groups[0]["lr"], scheduler.last_epoch, schedule.state_dict()))
    assert runs[0] == runs[1]
