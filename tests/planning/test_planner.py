"""A plan is complete, repeatable, honest about its cost, and survives the disk."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import batchwright as bw
from batchwright.core.errors import InputError, NotEnoughEvidenceError, RecordError
from batchwright.core.statistics import Interval
from batchwright.measure.lr_trial import lr_trial
from batchwright.planning.choose import choose
from batchwright.planning.laws import lr_turning_point
from batchwright.planning.lr_choice import LrChoice


def make_task(**changes) -> bw.Task:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(600, 6, generator=generator)
    labels = (inputs[:, 0] + 0.5 * torch.randn(600, generator=generator) > 0).long()
    settings = {
        "name": "toy",
        "model": lambda: nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 2)),
        "loss": lambda model, batch: nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="none"),
        "train": TensorDataset(inputs[:500], labels[:500]),
        "evaluation": TensorDataset(inputs[500:], labels[500:]),
        "optimizer": bw.OptimizerSpec(lr=0.02),
        "batch_size": 16,
    }
    return bw.Task(**{**settings, **changes})


@pytest.mark.parametrize("objective", ["time", "examples", "balanced"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_plan_names_everything_with_intervals_and_reasons(objective, optimizer):
    plan = bw.plan(make_task(optimizer=bw.OptimizerSpec(name=optimizer, lr=0.01)), objective, device="cpu")
    assert 1 <= plan.micro_batch_size <= plan.batch_size <= 500
    assert plan.lr > 0
    assert {"batch_size", "lr", "noise_scale", "critical_batch_size", "excess_time"} <= set(plan.intervals)
    assert {"batch_size", "micro_batch_size", "lr", "momentum", "noise_scale", "critical_batch_size"} <= set(
        plan.reasons
    )
    assert ("beta2" in plan.reasons) == (optimizer == "adamw")
    assert set(plan.cost.parts) == {"memory", "pilot", "noise", "throughput", "stability", "lr trial"}
    assert plan.cost.plain_steps == pytest.approx(sum(plan.cost.parts.values()))
    critical = plan.intervals["critical_batch_size"]
    assert critical.value == pytest.approx(plan.intervals["noise_scale"].value * plan.evidence.kappa.value)
    assert [point.batch_size for point in plan.evidence.curve] == sorted(
        point.batch_size for point in plan.evidence.curve
    )


def test_calibration_is_in_the_plan_with_its_own_cost():
    plan = bw.plan(make_task(), calibrate=True, device="cpu")
    assert plan.cost.parts["calibration"] > 0
    assert plan.evidence.calibration.num_seeds >= 2
    assert plan.evidence.calibration.largest_harmless.value >= plan.evidence.calibration.batch_sizes[0]
    assert "branches" in plan.evidence.kappa_source


def test_plan_json_round_trips(tmp_path):
    plan = bw.plan(make_task(), device="cpu", kappa=Interval(value=1.0, low=0.5, high=math.inf))
    assert plan.intervals["critical_batch_size"].high == math.inf
    path = plan.save(tmp_path)
    again = bw.Plan.load(path)
    assert again.evidence == plan.evidence
    assert again.intervals == plan.intervals
    assert (again.lr, again.cost, again.reasons) == (plan.lr, plan.cost, plan.reasons)
    path.write_text(path.read_text().replace('"schema": 2', '"schema": 99'))
    with pytest.raises(RecordError, match="schema 2 or older"):
        bw.Plan.load(tmp_path)


def test_the_pilot_repeats_with_the_seed():
    first, second = (bw.plan(make_task(), device="cpu", seed=3) for _ in range(2))
    assert first.evidence.pilot_losses == second.evidence.pilot_losses


def test_planning_leaves_the_random_generators_alone():
    state = torch.get_rng_state()
    bw.plan(make_task(), device="cpu")
    assert torch.equal(torch.get_rng_state(), state)


def test_an_lr_that_flies_away_bounds_the_batch():
    """A quadratic with curvature 1 at lr 1.9: any larger lr diverges, whatever the noise allows."""
    generator = torch.Generator().manual_seed(0)

    class Vector(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.theta = nn.Parameter(torch.full((4,), 10.0))

    task = bw.Task(
        name="edge",
        model=Vector,
        loss=lambda model, batch: 0.5 * (model.theta - batch[0]).square().sum(1),
        train=TensorDataset(torch.randn(4096, 4, generator=generator)),
        optimizer=bw.OptimizerSpec(lr=1.9, momentum=0.0),
        batch_size=4,
    )
    plan = bw.plan(task, "time", device="cpu", kappa=Interval(value=500.0, low=400.0, high=600.0))
    # The Hessian is the identity, so the bound is 2 exactly: at the default lr of 1.9 that leaves next to no room.
    assert plan.lr <= 2.0 + 1e-3
    assert "beyond what the curvature allows" in plan.reasons["batch_size"]
    assert plan.evidence.curvature is None or plan.evidence.curvature.sharpness == pytest.approx(1.0, rel=1e-4)


def test_an_lr_well_below_its_bound_needs_no_trial():
    plan = bw.plan(make_task(optimizer=bw.OptimizerSpec(lr=0.002)), "time", device="cpu")
    assert plan.lr > 0.002
    top = plan.intervals["max_lr"]
    assert plan.lr <= 0.5 * top.value
    assert f"allows {top.value:.3g}" in plan.reasons["lr"]
    assert "steps from the start" not in plan.reasons["lr"]
    assert plan.cost.parts["lr trial"] == 0
    assert plan.cost.parts["stability"] > 0


def test_a_gradient_lost_in_noise_is_not_given_a_number():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(500, 6, generator=generator)
    task = make_task(
        model=lambda: nn.Linear(6, 1, bias=False),
        loss=lambda model, batch: model(batch[0]).squeeze(1),
        train=TensorDataset(inputs - inputs.mean(0)),
        evaluation=None,
        optimizer=bw.OptimizerSpec(lr=1e-9),
    )
    with pytest.raises(
        NotEnoughEvidenceError, match=r"measure about \d+ more batches of \d+: raise --budget-steps to \d+"
    ):
        bw.plan(task, device="cpu")


def test_bounds_are_kept_and_bad_arguments_named():
    assert bw.plan(make_task(), "time", device="cpu", max_batch_size=24).batch_size <= 24
    assert bw.plan(make_task(), "time", bw.Budget(seconds=0.2), device="cpu").batch_size >= 1
    with pytest.raises(InputError, match="objective must be one of balanced, examples, time"):
        bw.plan(make_task(), "speed")
    with pytest.raises(InputError, match="plain_steps must be"):
        bw.Budget(plain_steps=5.0)


def test_the_learning_rate_turns_at_the_larger_of_noise_scale_and_critical_size():
    small, large = Interval(value=10.0, low=5.0, high=20.0), Interval(value=100.0, low=50.0, high=200.0)
    assert lr_turning_point(small, large) == large
    assert lr_turning_point(large, small) == large


def test_a_plan_carries_its_regime_to_the_disk_and_back(tmp_path):
    plan = bw.plan(
        make_task(), device="cpu", regime="keep-updates", lr_rule="square-root", max_grad_norm=5.0, max_batch_size=64
    )
    regime = plan.regime
    assert regime.name == "keep-updates"
    assert regime.num_updates == -(-50 * 500 // 16)
    assert regime.max_examples == regime.num_updates * plan.batch_size
    assert plan.reasons["regime"] == regime.told
    assert "clipped to the norm 5" in plan.reasons["max_grad_norm"]
    assert plan.reasons["lr"].startswith("square-root rule, asked for")
    turn = max(plan.intervals["critical_batch_size"].value, plan.intervals["noise_scale"].value, 16.0)
    assert plan.lr == pytest.approx(0.02 * math.sqrt(min(plan.batch_size, turn) / 16))
    assert bw.Plan.load(plan.save(tmp_path)).regime == regime


def test_a_plan_of_schema_1_has_no_regime(tmp_path):
    path = bw.plan(make_task(), device="cpu").save(tmp_path)
    old = {name: value for name, value in json.loads(path.read_text()).items() if name != "regime"} | {"schema": 1}
    path.write_text(json.dumps(old))
    assert bw.Plan.load(path).regime is None


def test_noise_takes_the_place_of_a_scaled_lr():
    plan = bw.plan(make_task(), "time", device="cpu", gradient_noise=True)
    assert plan.lr == 0.02
    assert plan.reasons["lr"].startswith("keep rule")
    assert plan.batch_size > 16
    assert plan.regime.noise_batch_size == 16
    assert "covariance of batch size 16" in plan.reasons["gradient_noise"]
    small = bw.plan(make_task(), device="cpu", gradient_noise=True, max_batch_size=16)
    assert small.regime.noise_batch_size is None
    assert "none: batch size" in small.reasons["gradient_noise"]
    with pytest.raises(InputError, match="gradient_noise must go with the learning rate kept"):
        bw.plan(make_task(), device="cpu", gradient_noise=True, lr_rule="linear")
    with pytest.raises(InputError, match="rule gain of lr must go with sgd"):
        bw.plan(make_task(optimizer=bw.OptimizerSpec(name="adamw")), device="cpu", lr_rule="gain")
    with pytest.raises(InputError, match="regime must be one of"):
        bw.plan(make_task(), device="cpu", regime="keep-time")


class _Point(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.ones(1))


def _bowl(lr: float) -> bw.Task:
    """Loss theta^2 / 2 of every example: heavy ball is ``theta_t+1 = (1 + b - lr) theta_t - b theta_t-1``."""
    return bw.Task(
        name="bowl",
        model=_Point,
        loss=lambda model, batch: 0.5 * (model.theta - batch[0]).square().sum(1),
        train=TensorDataset(torch.zeros(64, 1)),
        optimizer=bw.OptimizerSpec(lr=lr, momentum=0.9),
        batch_size=4,
    )


@pytest.mark.parametrize(("lr", "came_back"), [(2.2, True), (0.5, False)])
def test_a_trial_says_how_far_the_loss_rose_before_it_came_back(lr, came_back):
    trial = lr_trial(_bowl(lr), 8, lr, num_steps=24)
    theta = [1.0, 1.0 - lr]
    while len(theta) < 24:
        theta.append((1.9 - lr) * theta[-1] - 0.9 * theta[-2])
    assert trial.losses == pytest.approx([0.5 * each**2 for each in theta], rel=1e-3, abs=1e-6)
    assert trial.rise == pytest.approx(max(each**2 for each in theta), rel=1e-3)
    assert (trial.stable, trial.came_back) == (True, came_back)


def test_a_trial_that_is_lost_did_not_come_back():
    trial = lr_trial(_bowl(5.0), 8, 5.0)  # beyond 2 (1 + b) = 3.8
    assert (trial.stable, trial.came_back) == (False, False)
    assert trial.rise > 100


def test_a_plan_warns_of_a_learning_rate_whose_trial_rose_and_came_back():
    choice = choose(
        "time",
        critical_batch_size=Interval(value=400.0, low=200.0, high=800.0),
        step_time_s=lambda sizes: 0.003 + 0.00002 * sizes,
        step_time_error=0.1,
        flat_until=16,
        max_batch_size=4096,
        rng=np.random.default_rng(0),
    )
    chosen = LrChoice(
        choice=choice,
        lr=2.2,
        bound=None,
        max_lr=None,
        num_bounded=0,
        num_flown=0,
        trial=lr_trial(_bowl(2.2), 8, 2.2, num_steps=24),
        bound_s=0.0,
        trial_s=0.0,
        num_examples=0,
    )
    (warning,) = chosen.warnings
    assert "rose to 1.5 times its first value" in warning
    assert "--lr 1.1" in warning
    assert replace(chosen, trial=lr_trial(_bowl(0.5), 8, 0.5)).warnings == ()
    assert replace(chosen, trial=None).warnings == ()
