"""Settings that follow the batch size are in force during the step alone, so every schedule stays what it was."""

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, OneCycleLR, ReduceLROnPlateau

from batchwright.adapt import Fixed
from batchwright.core.errors import InputError
from batchwright.integrations import Options
from batchwright.integrations.in_force import SettingsInForce
from batchwright.planning import OptimizerSettings, batch_change


def parameter() -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.ones(1))


def step_with_unit_gradient(optimizer, weight) -> float:
    """How far plain SGD goes along a gradient of one: its lr."""
    before = weight.item()
    weight.grad = torch.ones(1)
    optimizer.step()
    return before - weight.item()


MAKERS = {
    "lambda": lambda optimizer: LambdaLR(optimizer, lambda step: 1 / (1 + step)),
    "cosine": lambda optimizer: CosineAnnealingLR(optimizer, 10, eta_min=0.05),
    "one-cycle": lambda optimizer: OneCycleLR(optimizer, 0.5, total_steps=12, cycle_momentum=False),
}


@pytest.mark.parametrize("name", MAKERS)
def test_the_lr_in_force_is_the_schedule_times_the_rule_whatever_the_scheduler(name):
    weight = parameter()
    optimizer = torch.optim.SGD([weight], lr=0.5)
    scheduler = MAKERS[name](optimizer)
    plain = torch.optim.SGD([parameter()], lr=0.5)
    plain_scheduler = MAKERS[name](plain)
    in_force = SettingsInForce(optimizer, Options(policy=Fixed()), base_batch_size=32)
    for step in range(10):
        if step == 3:
            in_force.set(batch_size=128, lr_factor=None, noise_scale=float("inf"))
        if step == 7:
            in_force.set(batch_size=128, lr_factor=0.25, noise_scale=float("inf"))
        factor = 1 if step < 3 else 4 if step < 7 else 0.25
        scheduled = plain.param_groups[0]["lr"]
        assert in_force.settings()[0].lr == pytest.approx(scheduled * factor)
        assert step_with_unit_gradient(optimizer, weight) == pytest.approx(scheduled * factor, rel=1e-5)
        assert in_force.lr == pytest.approx(scheduled * factor)
        assert optimizer.param_groups[0]["lr"] == scheduled  # what the scheduler reckons from, bit by bit
        plain.step()
        scheduler.step()
        plain_scheduler.step()


def test_a_scheduler_that_follows_a_metric_keeps_its_cuts():
    weight = parameter()
    optimizer = torch.optim.SGD([weight], lr=1.0)
    scheduler = ReduceLROnPlateau(optimizer, factor=0.1, patience=0)
    in_force = SettingsInForce(optimizer, Options(policy=Fixed()), base_batch_size=8)
    in_force.set(batch_size=16, lr_factor=None, noise_scale=float("inf"))
    assert step_with_unit_gradient(optimizer, weight) == pytest.approx(2.0)
    scheduler.step(1.0)
    scheduler.step(1.0)
    assert step_with_unit_gradient(optimizer, weight) == pytest.approx(0.2)


def test_betas_and_weight_decay_follow_too_and_are_put_back():
    seen = {}

    class Spy(torch.optim.AdamW):
        def step(self, closure=None):
            seen.update(self.param_groups[0])
            return super().step(closure)

    weight = parameter()
    weight.grad = torch.ones(1)
    optimizer = Spy([weight], lr=1e-3, betas=(0.9, 0.99), weight_decay=0.1)
    in_force = SettingsInForce(optimizer, Options(policy=Fixed()), base_batch_size=32)
    in_force.set(batch_size=128, lr_factor=None, noise_scale=float("inf"))
    optimizer.step()
    wanted = batch_change(
        "adamw",
        OptimizerSettings(lr=1e-3, momentum=0.9, beta2=0.99, weight_decay=0.1),
        base_batch_size=32,
        batch_size=128,
    )
    assert seen["lr"] == wanted.lr == 2e-3
    assert seen["betas"] == (wanted.momentum, wanted.beta2)
    assert seen["betas"][1] < 0.99
    assert seen["weight_decay"] == wanted.weight_decay
    group = optimizer.param_groups[0]
    assert (group["lr"], group["betas"], group["weight_decay"]) == (1e-3, (0.9, 0.99), 0.1)


def test_a_tensor_lr_stays_the_same_tensor():
    lr = torch.tensor(0.5)
    weight = parameter()
    optimizer = torch.optim.SGD([weight], lr=lr)
    in_force = SettingsInForce(optimizer, Options(policy=Fixed()), base_batch_size=8)
    in_force.set(batch_size=16, lr_factor=None, noise_scale=float("inf"))
    assert step_with_unit_gradient(optimizer, weight) == pytest.approx(1.0)
    assert optimizer.param_groups[0]["lr"] is lr
    assert lr.item() == 0.5


def test_at_the_base_batch_size_nothing_is_touched():
    weight = parameter()
    optimizer = torch.optim.SGD([weight], lr=1)  # an int stays an int
    SettingsInForce(optimizer, Options(policy=Fixed()), base_batch_size=8)
    weight.grad = torch.ones(1)
    optimizer.step()
    assert type(optimizer.param_groups[0]["lr"]) is int


def test_an_exception_inside_a_step_leaves_nothing_behind():
    weight = parameter()
    optimizer = torch.optim.SGD([weight], lr=0.5)
    in_force = SettingsInForce(optimizer, Options(policy=Fixed()), base_batch_size=8)
    in_force.set(batch_size=16, lr_factor=None, noise_scale=float("inf"))

    def fails():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        optimizer.step(fails)
    assert step_with_unit_gradient(optimizer, weight) == pytest.approx(1.0)
    in_force.remove()
    assert optimizer.param_groups[0]["lr"] == 0.5
    assert step_with_unit_gradient(optimizer, weight) == pytest.approx(0.5)


def test_settings_can_be_shown_to_a_reader():
    optimizer = torch.optim.SGD([parameter()], lr=0.5)
    in_force = SettingsInForce(optimizer, Options(policy=Fixed()), base_batch_size=8)
    in_force.set(batch_size=16, lr_factor=None, noise_scale=8.0)
    with in_force.applied():
        assert optimizer.param_groups[0]["lr"] == pytest.approx(0.5 * 2 / 1.5)  # (1 + 8/8) / (1 + 8/16)
    assert optimizer.param_groups[0]["lr"] == 0.5


def test_an_unknown_optimizer_and_a_wrong_rule_are_refused_at_the_start():
    with pytest.raises(InputError, match="name the one whose rules it follows"):
        SettingsInForce(torch.optim.Adagrad([parameter()]), Options(policy=Fixed()), base_batch_size=8)
    SettingsInForce(
        torch.optim.Adagrad([parameter()]), Options(policy=Fixed(), optimizer="adam"), base_batch_size=8
    ).remove()
    with pytest.raises(InputError, match="linear"):
        SettingsInForce(torch.optim.Adam([parameter()]), Options(policy=Fixed(), lr_rule="linear"), base_batch_size=8)
