"""Settings at another batch size: each rule against its formula, wrong pairings refused, and optimizers edited in place."""

import math

import pytest
import torch

from batchwright.core.errors import InputError
from batchwright.optim import Muon, Scion
from batchwright.planning import RULES, ExampleClock, OptimizerSettings, apply_to, batch_change, optimizer_name
from batchwright.planning.batch_rules import OPTIMIZERS
from batchwright.training.follow import Follower

SIZES = {"base_batch_size": 64, "batch_size": 256}
FULL = OptimizerSettings(lr=0.1, momentum=0.9, beta2=0.99, weight_decay=0.05, ema_decay=0.999, warmup_steps=101)


@pytest.mark.parametrize(
    ("optimizer", "rule", "lr"),
    [
        ("sgd", None, 0.4),
        ("sgd", "linear", 0.4),
        ("sgd", "square-root", 0.2),
        ("sgd", "keep", 0.1),
        ("adam", None, 0.2),
        ("adamw", "square-root", 0.2),
        ("muon", None, 0.2),
        ("scion", None, 0.4),
    ],
)
def test_lr_follows_the_rule(optimizer, rule, lr):
    assert batch_change(optimizer, FULL, rule=rule, **SIZES).lr == pytest.approx(lr)


def test_the_gain_rule_is_what_adascale_expects_of_a_noise_scale():
    # (S/B0 + 1) / (S/B + 1), the gain at tr = S and ||G||^2 = 1
    after = batch_change("sgd", FULL, noise_scale=128.0, **SIZES)
    assert after.lr == pytest.approx(0.1 * (128 / 64 + 1) / (128 / 256 + 1))
    assert batch_change("adam", FULL, noise_scale=128.0, **SIZES).lr == pytest.approx(0.1 * 2**0.5)
    with pytest.raises(InputError, match="rule gain needs a noise scale"):
        batch_change("sgd", FULL, rule="gain", **SIZES)


def test_half_lives_in_examples_stay():
    def examples(decay, batch_size):
        return batch_size * math.log(0.5) / math.log(decay)

    after = batch_change("adamw", FULL, momentum_rule="half-life", **SIZES)
    for name in ("momentum", "beta2", "ema_decay"):
        assert examples(getattr(after, name), 256) == pytest.approx(examples(getattr(FULL, name), 64)), name


def test_the_half_life_of_sgd_momentum_keeps_the_steady_step_on_the_lr_rule():
    after = batch_change("sgd", FULL, momentum_rule="half-life", **SIZES)
    assert after.momentum == pytest.approx(0.9**4)
    assert after.lr / (1 - after.momentum) == pytest.approx(4 * 0.1 / (1 - 0.9))
    damped = batch_change("sgd", OptimizerSettings(lr=0.1, momentum=0.9, dampening=0.9), momentum_rule="keep", **SIZES)
    assert damped.lr == pytest.approx(0.4)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_decoupled_decay_keeps_its_examples(optimizer):
    after = batch_change(optimizer, FULL, **SIZES)
    assert 256 / (after.lr * after.weight_decay) == pytest.approx(64 / (FULL.lr * FULL.weight_decay))
    assert after.weight_decay == pytest.approx(0.05 * 2)


def test_decoupled_decay_shrinks_parameters_alike_over_equal_examples():
    # Without a gradient AdamW multiplies by (1 - lr * decay) a step.
    parameters = {}
    for size in (64, 256):
        settings = batch_change(
            "adamw", OptimizerSettings(lr=1e-3, weight_decay=0.1), base_batch_size=64, batch_size=size
        )
        parameter = torch.nn.Parameter(torch.ones(1, dtype=torch.float64))
        optimizer = torch.optim.AdamW([parameter], lr=settings.lr, weight_decay=settings.weight_decay)
        for _ in range(64 * 400 // size):
            parameter.grad = torch.zeros_like(parameter)
            optimizer.step()
        parameters[size] = float(parameter.detach())
    assert parameters[256] == pytest.approx(parameters[64], rel=1e-4)
    assert parameters[64] < 0.97


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "scion"])
def test_coupled_decay_stays(optimizer):
    assert batch_change(optimizer, FULL, **SIZES).weight_decay == 0.05


def test_warm_up_keeps_its_examples_rounded_up():
    assert batch_change("sgd", FULL, **SIZES).warmup_steps == 26
    assert batch_change("sgd", FULL, base_batch_size=64, batch_size=64).warmup_steps == 101
    assert batch_change("sgd", FULL, base_batch_size=64, batch_size=32).warmup_steps == 202


def test_scion_follows_the_token_budget():
    # r = 8, so the batch grows by 8^(2/3) = 4
    after = batch_change("scion", FULL, tokens_ratio=8.0, **SIZES)
    assert after.lr == pytest.approx(0.1 * 8 ** (-1 / 3))
    assert after.momentum == pytest.approx(0.9)  # unchanged where the batch follows the budget
    more = batch_change("scion", FULL, base_batch_size=64, batch_size=128)
    assert more.lr == pytest.approx(0.2)
    assert 1 - more.momentum == pytest.approx(0.2)
    assert batch_change("scion", FULL, base_batch_size=1, batch_size=1000).momentum == 0.0


def test_what_is_none_stays_none():
    after = batch_change("adam", OptimizerSettings(lr=1e-3), **SIZES)
    assert after == OptimizerSettings(lr=2e-3)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_no_change_of_size_changes_nothing_and_the_way_back_leads_back(optimizer):
    same = batch_change(optimizer, FULL, base_batch_size=48, batch_size=48, noise_scale=100.0)
    there = batch_change(optimizer, FULL, base_batch_size=48, batch_size=80, noise_scale=1e9)
    back = batch_change(optimizer, there, base_batch_size=80, batch_size=48, noise_scale=1e9)
    for name in ("lr", "momentum", "beta2", "weight_decay", "ema_decay"):
        assert getattr(same, name) == pytest.approx(getattr(FULL, name)), name
        assert getattr(back, name) == pytest.approx(getattr(FULL, name)), name


@pytest.mark.parametrize(
    ("optimizer", "options", "message"),
    [
        ("adam", {"rule": "linear"}, "rule linear of lr must go with sgd, got adam; an update that is normalised"),
        ("muon", {"rule": "linear"}, "take square-root"),
        (
            "adamw",
            {"rule": "gain", "noise_scale": 9.0},
            "rule gain of lr must go with sgd, got adamw; the gain is derived",
        ),
        ("sgd", {"rule": "token-budget"}, "must go with scion, got sgd; its bound is for the constrained step"),
        ("scion", {"rule": "square-root"}, "got scion; the paper's step size follows the number of steps"),
        ("sgd", {"weight_decay_rule": "time-scale"}, "got sgd; its weight decay is a part of the gradient"),
        ("sgd", {"beta2_rule": "half-life"}, "got sgd; sgd has no beta2"),
        ("adam", {"rule": "cubic"}, "rule of lr must be one of gain, linear, square-root"),
        ("lion", {}, "optimizer must be one of sgd, adam"),
        ("sgd", {"noise_scale": -1.0}, "noise_scale must be"),
    ],
)
def test_a_wrong_pairing_is_refused_with_the_reason(optimizer, options, message):
    with pytest.raises(InputError, match=message):
        batch_change(optimizer, FULL, **SIZES, **options)


def test_each_rule_says_for_each_optimizer_whether_it_holds_or_why_not():
    for rule in RULES:
        assert set(rule.default_for) <= set(rule.optimizers)
        assert not set(rule.refusals) & set(rule.optimizers)
        left = set(OPTIMIZERS) - set(rule.optimizers) - set(rule.refusals)
        assert not left or rule.setting == "beta2", (rule.setting, rule.name, left)
    for setting in {rule.setting for rule in RULES}:
        for optimizer in OPTIMIZERS:
            count = sum(optimizer in rule.default_for for rule in RULES if rule.setting == setting)
            assert count == (0 if setting == "beta2" and optimizer not in ("adam", "adamw") else 1)


def parameters() -> list[dict]:
    return [
        {"params": [torch.nn.Parameter(torch.ones(4, 4))], "lr": 0.1},
        {"params": [torch.nn.Parameter(torch.ones(4, 4))], "lr": 0.01, "weight_decay": 0.0},
    ]


MAKERS = {
    "sgd": lambda: torch.optim.SGD(parameters(), momentum=0.9, weight_decay=1e-4),
    "adam": lambda: torch.optim.Adam(parameters(), weight_decay=1e-4),
    "adamw": lambda: torch.optim.AdamW(parameters(), weight_decay=0.1),
}
if hasattr(torch.optim, "Muon"):
    MAKERS["muon"] = lambda: torch.optim.Muon(parameters(), weight_decay=0.1)
else:
    MAKERS["muon"] = lambda: Muon(parameters(), weight_decay=0.1)


def test_the_groups_of_adamw_inside_muon_follow_the_rules_of_adamw():
    matrix, vector = torch.nn.Parameter(torch.ones(4, 4)), torch.nn.Parameter(torch.ones(4))
    optimizer = Muon([{"params": [matrix]}, {"params": [vector], "optimizer": "adamw", "lr": 0.01}], lr=0.1)
    assert optimizer_name(optimizer) == "muon"
    apply_to(optimizer, **SIZES)
    muon, adamw = optimizer.param_groups
    assert (muon["lr"], muon["momentum"], muon["weight_decay"]) == (pytest.approx(0.2), 0.95, pytest.approx(0.2))
    assert (adamw["lr"], adamw["betas"]) == (pytest.approx(0.02), (0.9, pytest.approx(0.999**4)))
    follower = Follower(optimizer, base_batch_size=SIZES["batch_size"])
    follower.change_batch_size(SIZES["base_batch_size"])
    assert adamw["betas"] == (0.9, pytest.approx(0.999))
    assert muon["lr"] == pytest.approx(0.1)


def test_scion_is_edited_by_its_budget():
    optimizer = Scion([torch.nn.Parameter(torch.ones(4, 4))], lr=0.01, momentum=0.9)
    assert optimizer_name(optimizer) == "scion"
    apply_to(optimizer, base_batch_size=64, batch_size=128, tokens_ratio=2**1.5)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.01 * 2**-0.5)
    assert optimizer.param_groups[0]["momentum"] == pytest.approx(0.9)


@pytest.mark.parametrize("name", MAKERS)
def test_an_optimizer_is_edited_group_by_group_and_still_steps(name):
    optimizer = MAKERS[name]()
    assert optimizer_name(optimizer) == name
    found = apply_to(optimizer, **SIZES)
    factor = 4 if name == "sgd" else 2
    for group, settings, lr in zip(optimizer.param_groups, found, (0.1, 0.01), strict=True):
        assert group["lr"] == settings.lr == pytest.approx(factor * lr)
        assert group["weight_decay"] == settings.weight_decay
        if "betas" in group:
            assert group["betas"] == (0.9, pytest.approx(0.999**4))
        group["params"][0].grad = torch.ones(4, 4)
    assert found[0].weight_decay == pytest.approx({"sgd": 1e-4, "adam": 1e-4}.get(name, 0.2))
    assert found[1].weight_decay == 0.0
    optimizer.step()


def test_adam_with_decoupled_decay_is_adamw():
    group = MAKERS["adam"]().param_groups[0]
    if "decoupled_weight_decay" not in group:
        pytest.skip("this version of torch keeps Adam and AdamW apart")
    optimizer = torch.optim.Adam(parameters(), decoupled_weight_decay=True)
    assert optimizer_name(optimizer) == "adamw"


def test_a_subclass_follows_the_class_it_is_made_from_and_a_stranger_is_refused():
    class Mine(torch.optim.SGD):
        pass

    assert optimizer_name(Mine(parameters())) == "sgd"
    with pytest.raises(InputError, match="got Adagrad; name the one whose rules it follows"):
        optimizer_name(torch.optim.Adagrad(parameters()))
    stranger = torch.optim.Adagrad(parameters())
    apply_to(stranger, name="adam", **SIZES)
    assert stranger.param_groups[0]["lr"] == pytest.approx(0.2)


def test_a_refused_change_edits_nothing():
    optimizer = MAKERS["adam"]()
    with pytest.raises(InputError, match="rule linear"):
        apply_to(optimizer, rule="linear", **SIZES)
    assert optimizer.param_groups[0]["lr"] == 0.1
    assert optimizer.param_groups[0]["betas"] == (0.9, 0.999)


def test_an_lr_in_a_tensor_is_edited_in_place():
    lr = torch.tensor(0.1)
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.ones(2))], lr=lr)
    apply_to(optimizer, **SIZES)
    assert optimizer.param_groups[0]["lr"] is lr
    assert float(lr) == pytest.approx(0.2)


def test_with_a_clock_the_change_and_the_schedule_both_hold():
    optimizer = MAKERS["adamw"]()
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
    clock = ExampleClock(scheduler, examples_per_step=64)
    optimizer.step()
    clock.advance(64)
    apply_to(optimizer, clock=clock, **SIZES)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.1, 0.01])  # halved, and doubled
    optimizer.step()
    clock.advance(256)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.2 / 6, 0.02 / 6])
