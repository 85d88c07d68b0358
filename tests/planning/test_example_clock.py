"""A schedule over examples: the same at any batch sizes, torch's own at a constant one, exact through a checkpoint."""

import copy
import json

import numpy as np
import pytest
import torch
from torch.optim import lr_scheduler as schedulers

from batchwright.core.errors import InputError
from batchwright.planning import ExampleClock

STEP = 16
MAKERS = {
    "lambda": lambda o: schedulers.LambdaLR(o, lambda step: 0.95**step),
    "multiplicative": lambda o: schedulers.MultiplicativeLR(o, lambda step: 0.97),
    "step": lambda o: schedulers.StepLR(o, 7, 0.5),
    "multi-step": lambda o: schedulers.MultiStepLR(o, [5, 30, 31], 0.3),
    "constant": lambda o: schedulers.ConstantLR(o, 0.25, 9),
    "linear": lambda o: schedulers.LinearLR(o, 0.1, 1.0, 20),
    "exponential": lambda o: schedulers.ExponentialLR(o, 0.98),
    "polynomial": lambda o: schedulers.PolynomialLR(o, 50, 2.0),
    "cosine": lambda o: schedulers.CosineAnnealingLR(o, 40),
    "warm-restarts": lambda o: schedulers.CosineAnnealingWarmRestarts(o, 11, 2),
    "cyclic": lambda o: schedulers.CyclicLR(o, 0.01, 0.2, 8, cycle_momentum=False),
    "one-cycle": lambda o: schedulers.OneCycleLR(o, 0.5, total_steps=90, cycle_momentum=False),
    "sequential": lambda o: schedulers.SequentialLR(
        o, [schedulers.LinearLR(o, 0.1, 1.0, 10), schedulers.CosineAnnealingLR(o, 60)], [10]
    ),
    "chained": lambda o: schedulers.ChainedScheduler(
        [schedulers.ConstantLR(o, 0.5, 6), schedulers.ExponentialLR(o, 0.99)]
    ),
}


def make(name: str, examples_per_step: int = STEP) -> tuple[torch.optim.Optimizer, ExampleClock]:
    groups = [{"params": [torch.nn.Parameter(torch.ones(1))], "lr": lr} for lr in (0.1, 0.03)]
    optimizer = torch.optim.SGD(groups, momentum=0.9)
    return optimizer, ExampleClock(MAKERS[name](optimizer), examples_per_step=examples_per_step)


def lrs(optimizer: torch.optim.Optimizer) -> list[float]:
    return [group["lr"] for group in optimizer.param_groups]


@pytest.mark.parametrize("name", MAKERS)
def test_at_a_constant_batch_size_it_is_torchs_own(name):
    optimizer, clock = make(name)
    plain = torch.optim.SGD(
        [{"params": [torch.nn.Parameter(torch.ones(1))], "lr": lr} for lr in (0.1, 0.03)], momentum=0.9
    )
    scheduler = MAKERS[name](plain)
    for _ in range(80):
        assert lrs(optimizer) == lrs(plain)
        optimizer.step(), plain.step()
        clock.advance(STEP), scheduler.step()


@pytest.mark.parametrize("name", MAKERS)
def test_the_lr_at_a_number_of_examples_does_not_depend_on_the_batch_sizes_or_on_changes_of_the_factor(name):
    rng, total = np.random.default_rng(0), STEP * 75 + 5
    reference: dict[int, list[float]] = {}
    optimizer, clock = make(name)
    optimizer.step()
    for count in range(1, total + 1):
        clock.advance(1)
        reference[count] = lrs(optimizer)
    for trial in range(6):
        optimizer, clock = make(name)
        optimizer.step()
        while clock.num_examples < total:
            clock.advance(min(int(rng.integers(1, 9 * STEP)), total - clock.num_examples))
            if trial % 2:
                clock.set_lr_factors(float(rng.uniform(0.1, 10)))
            expected = [lr * f for lr, f in zip(reference[clock.num_examples], clock.lr_factors, strict=True)]
            assert lrs(optimizer) == expected


@pytest.mark.parametrize("name", MAKERS)
def test_a_checkpoint_goes_on_exactly(name):
    optimizer, clock = make(name)
    optimizer.step()
    clock.advance(STEP * 12 + 3)
    clock.scale_lr([2.0, 3.0])
    state = copy.deepcopy(clock.state_dict())
    other, again = make(name)
    other.step()
    again.load_state_dict(state)
    assert lrs(other) == lrs(optimizer)
    for size in (1, 12, 100, 31, 16, 400):
        clock.advance(size)
        again.advance(size)
        assert lrs(other) == lrs(optimizer)
    assert again.num_examples == clock.num_examples


def test_the_state_of_a_plain_schedule_goes_through_json():
    optimizer, clock = make("cosine")
    optimizer.step()
    clock.advance(200)
    other, again = make("cosine")
    other.step()
    again.load_state_dict(json.loads(json.dumps(clock.state_dict())))
    clock.advance(77)
    again.advance(77)
    assert lrs(other) == lrs(optimizer)


def test_a_factor_comes_on_top_and_does_not_pile_up():
    optimizer, clock = make("exponential")
    optimizer.step()
    clock.scale_lr(2.0)
    clock.scale_lr(2.0)
    clock.advance(STEP * 10)
    assert lrs(optimizer) == pytest.approx([4 * 0.1 * 0.98**10, 4 * 0.03 * 0.98**10])
    clock.set_lr_factors(1.0)
    assert lrs(optimizer) == pytest.approx([0.1 * 0.98**10, 0.03 * 0.98**10])


def test_a_tensor_lr_stays_the_same_tensor():
    lr = torch.tensor(0.5, dtype=torch.float64)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=lr)
    clock = ExampleClock(schedulers.StepLR(optimizer, 1, 0.5), examples_per_step=8)
    optimizer.step()
    clock.advance(16)
    clock.scale_lr(4.0)
    assert optimizer.param_groups[0]["lr"] is lr
    assert float(lr) == pytest.approx(0.5)


def test_what_is_no_clock_is_refused():
    optimizer, clock = make("step")
    with pytest.raises(InputError, match="ReduceLROnPlateau, which follows a metric"):
        ExampleClock(schedulers.ReduceLROnPlateau(optimizer), examples_per_step=8)
    with pytest.raises(InputError, match="examples_per_step must be"):
        make("step", 0)
    with pytest.raises(InputError, match="num_examples must be"):
        clock.advance(-1)
    with pytest.raises(InputError, match="one number for each of 2 parameter groups, got 3"):
        clock.scale_lr([1.0, 2.0, 3.0])
    with pytest.raises(InputError, match="a clock of 16 examples a step with 2 parameter groups, got 8 and 2"):
        clock.load_state_dict(make("step", 8)[1].state_dict())
