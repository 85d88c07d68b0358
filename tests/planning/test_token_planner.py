"""A plan for a budget of tokens: the closed form, a search that finds what a full grid finds, and a run that follows the plan."""

import json
import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import batchwright as bw
from batchwright.core.errors import InputError, NotEnoughEvidenceError, RecordError
from batchwright.core.records import read_records
from batchwright.core.statistics import Interval
from batchwright.measure.short_run import short_run
from batchwright.planning import TokenPlan, load_plan, token_budget, token_planner
from batchwright.planning.token_base import FoundBase, find_base
from batchwright.planning.token_planner import default_budget, scion_of
from batchwright.planning.token_travel import TRAVEL, early_travel

EUCLIDEAN = {"overrides": {"*": "euclidean"}, "radii": {"default": 2.0, "vector": 2.0}, "scaled": False}


class Point(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.zeros(size))


def valley(*, noise: float, size: int = 8, num_examples: int = 20_000, sequence_length=None, **changes) -> bw.Task:
    """``sqrt(delta^2 + |p - 1/sqrt(D)|^2) - delta`` with Gaussian gradient noise: the problem of T3.3 (papers-2026, paper 3)."""
    generator = torch.Generator().manual_seed(0)
    draws = torch.randn(num_examples, size, generator=generator) * noise / math.sqrt(size)
    optimum = torch.full((size,), size**-0.5)

    def loss(model: nn.Module, batch) -> torch.Tensor:
        offset = model.p - optimum
        return (0.09 + offset.square().sum()).sqrt() - 0.3 + batch[0] @ offset

    settings = {
        "name": "valley",
        "model": lambda: Point(size),
        "loss": loss,
        "train": TensorDataset(draws),
        "evaluation": TensorDataset(torch.zeros(2, size)),
        "optimizer": bw.OptimizerSpec(name="scion", lr=0.02, momentum=0.9, options=EUCLIDEAN),
        "batch_size": 8,
        "sequence_length": sequence_length,
    }
    return bw.Task(**{**settings, **changes})


def base(**changes) -> bw.TokenBudget:
    return bw.TokenBudget(**{"batch_size": 8, "sequence_length": 1, "lr": 0.02, "tokens": 1000.0, **changes})


def plan(task=None, tokens=64_000, **changes) -> TokenPlan:
    options = {"base": base(), "budget": bw.Budget(plain_steps=100), "device": "cpu", **changes}
    return bw.plan(task or valley(noise=1.0), tokens=tokens, **options)


def test_the_transfer_is_the_closed_form():
    found = plan()
    # 64 times the tokens: the batch times 16, the step size times 16/64.
    assert found.batch_size == 128
    assert found.lr == pytest.approx(0.02 / 4)
    assert found.num_steps == 500
    assert found.max_examples == 64_000
    assert found.optimizer == bw.OptimizerSpec(name="scion", lr=found.lr, momentum=0.9, options=EUCLIDEAN)
    assert found.base_source == "given"
    # The ends are the square-root rule's: times 8, and lr times 8/64.
    assert (found.intervals["batch_size"].low, found.intervals["batch_size"].high) == pytest.approx((64.0, 128.0))
    assert (found.intervals["lr"].low, found.intervals["lr"].high) == pytest.approx((0.02 / 8, 0.02 / 4))
    assert (found.intervals["num_steps"].low, found.intervals["num_steps"].high) == pytest.approx((500.0, 1000.0))
    assert {"batch_size", "lr", "num_steps", "regime", "base_lr", "optimizer", "tokens", "mu"} <= set(found.reasons)
    assert found.cost.plain_steps == pytest.approx(sum(found.cost.parts.values()))
    assert set(found.cost.parts) == {"constants", "memory"}


def test_tokens_of_sequences_count():
    found = plan(
        valley(noise=1.0, sequence_length=10, num_examples=500),
        tokens=640_000,
        base=base(sequence_length=10, tokens=1e4),
    )
    assert (found.batch_size, found.num_steps, found.max_examples) == (128, 500, 64_000)
    assert "an example has 10 tokens" in found.reasons["tokens"]
    assert any("128 passes over the 500 training examples" in warning for warning in found.warnings)
    assert any("carried over a factor of 64" in warning for warning in found.warnings)
    assert "LIKELY TOO SMALL" in found.reasons["lr"]
    bare = plan()
    assert "an example counts as one token" in bare.reasons["tokens"]


def test_a_bound_on_the_batch_moves_the_step_size_with_it():
    found = plan(max_batch_size=40)
    assert found.batch_size == 40
    assert found.lr == pytest.approx(0.02 * 5 / 64)
    assert any("held at 40" in warning for warning in found.warnings)


def test_the_constants_are_those_of_the_ball_and_the_regime_follows():
    """Radius 2: rho is 2 exactly, L at most 4/delta; the noise of a token is known, and so are regimes far from the thresholds."""
    noisy = plan(valley(noise=100.0), budget=bw.Budget(plain_steps=300))
    k = noisy.constants
    assert k.rho.value == pytest.approx(2.0, rel=1e-4)
    # 40 differences in 8 dimensions: the root of their mean square is good to 1/sqrt(2 * 40 * 8) of itself; four of these.
    assert k.sigma.value == pytest.approx(100.0, rel=4 / (2 * 40 * 8) ** 0.5)
    assert 0 < k.smoothness.value <= 4 / 0.3 * 1.001
    quiet = plan(valley(noise=0.02), max_batch_size=20_000, tokens=2_000_000, base=base(batch_size=1000))
    assert quiet.constants.sigma.value == pytest.approx(0.02, rel=4 / (2 * 40 * 8) ** 0.5)
    assert quiet.constants.mu.value > 0
    # (mu rho sigma / L)^2 is far below a batch of thousands, and so is (T mu rho sigma / L)^(2/3).
    assert quiet.batch_size > quiet.token_regime.steps_threshold.high
    assert quiet.token_regime.name == "steps"


def test_a_base_that_ends_too_early_leaves_the_step_size_to_the_prior(monkeypatch):
    """8,000 tokens at batch 32 are 250 steps; a base of 125 steps at 1e-4 crosses 0.0125 of the radius, and tuned runs 0.1 at least."""
    found = FoundBase(
        batch_size=8,
        lr=1e-4,
        batch_sizes=Interval(value=8.0, low=4.0, high=16.0),
        lrs=Interval(value=1e-4, low=5e-5, high=2e-4),
        num_examples=1000,
        lr_exponent=-1.0,
        pilot_batch_size=8,
        pilot_lr=1e-4,
        tried=(),
        seconds=1.0,
        total_examples=5000,
    )
    monkeypatch.setattr(token_planner, "find_base", lambda *_, **__: found)
    published = valley(noise=1.0, optimizer=bw.OptimizerSpec(name="sgd", lr=0.1), sequence_length=1)
    early = plan(published, base=None, tokens=8000)
    assert (early.batch_size, early.num_steps, early.lr_source) == (32, 250, "prior")
    assert early.lr == early.optimizer.lr == early.stages[0].lr == pytest.approx(TRAVEL.value / 250)
    assert (early.intervals["lr"].low, early.intervals["lr"].high) == pytest.approx(
        (TRAVEL.low / 250, TRAVEL.high / 250)
    )
    assert early.reasons["lr"].startswith("A PRIOR, not measured")
    assert any("the step size is no measurement" in warning for warning in early.warnings)
    assert not any("too small" in warning for warning in early.warnings)
    # Later stages follow the rule from there: twice the tokens, the step size over 2^(1/3).
    staged = plan(published, base=None, tokens=16_000, restart_at=[8000])
    assert staged.stages[0].lr == pytest.approx(TRAVEL.value / 250)
    assert staged.stages[1].lr == pytest.approx(TRAVEL.value / 250 * (50 / 32) / 2)  # 32 * 2^(2/3) = 50.8
    # Not where the prior does not hold: radii of the task's own, a run that is no longer, a base that its user gave.
    assert plan(base=None, tokens=8000).lr_source == "base"
    assert plan(published, base=None, tokens=1000).lr_source == "base"
    assert plan(published, base=base(lr=1e-4), tokens=8000).lr == pytest.approx(1e-4 / 2)


@pytest.mark.parametrize(("lr", "way"), [(0.0007, TRAVEL), (0.0009, None)])
def test_a_base_that_crosses_as_much_as_tuned_runs_is_carried(lr, way):
    """125 steps: 0.0875 and 0.1125 of the radius."""
    spec = scion_of(valley(noise=1.0, optimizer=bw.OptimizerSpec(name="sgd", lr=0.1)))
    assert early_travel(base(lr=lr), spec, 8000) == way
    assert early_travel(base(lr=lr), replace(spec, options={"radii": {"default": 10.0}}), 8000) is None


def test_the_search_finds_the_best_of_a_full_grid():
    """Every setting of the grid on which it walks, tried one by one: none ends surely below what was taken, but for the tolerance."""
    task = valley(noise=1.0)
    spec = scion_of(task)
    found = find_base(task, spec, num_examples=400, max_batch_size=400)
    runs = {}
    for size in (2, 8, 32):
        for power in range(-4, 6):
            lr = 0.02 * 2.0**power
            if lr <= 1:
                each = bw.OptimizerSpec(name="scion", lr=lr, momentum=0.9, options=EUCLIDEAN)
                runs[size, lr] = short_run(task, each, batch_size=size, num_examples=400)
    best = min(run.end_loss for run in runs.values())
    taken = runs[found.batch_size, found.lr]
    gain = taken.losses[0] - best
    assert taken.end_loss - best <= 0.03 * gain
    assert found.lrs.low < found.lr < found.lrs.high
    assert found.batch_sizes.low < found.batch_size < found.batch_sizes.high
    assert found.total_examples == sum(
        short_run(
            task,
            bw.OptimizerSpec(name="scion", lr=each.lr, momentum=0.9, options=EUCLIDEAN),
            batch_size=each.batch_size,
            num_examples=400,
        ).num_examples
        for each in found.tried
    )


def test_how_the_step_size_moves_is_read_off_runs_of_a_quarter():
    """A run at a constant step size holds the shorter ones: fresh runs of a quarter of the examples give the same best."""
    task = valley(noise=1.0)
    found = find_base(task, scion_of(task), num_examples=800, max_batch_size=800)
    ladder = [each.lr for each in found.tried if each.batch_size == found.batch_size]
    early = {}
    for lr in ladder:
        each = bw.OptimizerSpec(name="scion", lr=lr, momentum=0.9, options=EUCLIDEAN)
        early[lr] = short_run(task, each, batch_size=found.batch_size, num_examples=200).end_loss
    best = min(early, key=lambda lr: early[lr])
    assert found.lr_exponent == pytest.approx(math.log(found.lr / best) / math.log(4))
    assert found.follows_rule == (found.lr_exponent <= -0.5)


def test_a_base_that_does_not_follow_the_rule_yet_is_said_and_widens_the_step_size(monkeypatch):
    def found_base(lr_exponent: float) -> FoundBase:
        return FoundBase(
            batch_size=8,
            lr=1e-4,
            batch_sizes=Interval(value=8.0, low=4.0, high=16.0),
            lrs=Interval(value=1e-4, low=5e-5, high=2e-4),
            num_examples=1000,
            lr_exponent=lr_exponent,
            pilot_batch_size=8,
            pilot_lr=1e-4,
            tried=(),
            seconds=1.0,
            total_examples=5000,
        )

    monkeypatch.setattr(token_planner, "find_base", lambda *_, **__: found_base(-1.0))
    sound = plan(base=None, tokens=8000)
    assert not any("too small" in warning for warning in sound.warnings)
    assert "TOO SMALL" not in sound.reasons["lr"]
    # 8 times the tokens: times 1/2 by the BST rule, 8^-1/2 by the square-root rule.
    assert (sound.lr, sound.intervals["lr"].low) == pytest.approx((1e-4 / 2, 5e-5 / 8**0.5))
    assert sound.intervals["lr"].high == pytest.approx(2e-4 / 2)
    assert (sound.intervals["batch_size"].low, sound.intervals["batch_size"].high) == pytest.approx((4 * 8**0.5, 64.0))
    monkeypatch.setattr(token_planner, "find_base", lambda *_, **__: found_base(-0.25))
    early = plan(base=None, tokens=8000)
    assert any("the step size is likely too small" in warning and "power -0.2" in warning for warning in early.warnings)
    # The upper end goes on as along the short runs: times 4 for the batch, times 8^-0.25; 1 over 250 steps is no bound here.
    assert early.lr == sound.lr
    assert early.intervals["lr"].high == pytest.approx(2e-4 * 4 * 8**-0.25)
    monkeypatch.setattr(token_planner, "find_base", lambda *_, **__: found_base(1.0))
    assert plan(base=None, tokens=8000).intervals["lr"].high == pytest.approx(1 / 250)
    # Far from the base the end alone is known.
    monkeypatch.setattr(token_planner, "find_base", lambda *_, **__: found_base(-1.0))
    far = plan(base=None, tokens=64_000)
    assert far.intervals["lr"].high == pytest.approx(1 / 500)
    assert any("from runs that short the step size comes out too small" in warning for warning in far.warnings)


def test_step_sizes_that_are_not_told_apart_are_not_enough_evidence():
    flat = valley(noise=1.0, loss=lambda model, batch: 1.0 + 0 * model.p.sum() + 0 * batch[0].sum(1))
    with pytest.raises(NotEnoughEvidenceError, match="are not told apart after 800 examples; raise --budget-steps"):
        find_base(flat, scion_of(flat), num_examples=800, max_batch_size=800)


def test_a_measured_base_says_so_and_holds_its_runs():
    found = plan(valley(noise=1.0), base=None, budget=bw.Budget(plain_steps=400), tokens=20_000)
    assert found.base_source == "measured"
    assert set(found.cost.parts) == {"short runs", "constants", "memory"}
    assert len(found.tried) >= 4
    taken = [each for each in found.tried if (each.batch_size, each.lr) == (found.base.batch_size, found.base.lr)]
    assert [each.excess.value for each in taken] == [0.0]
    carried = token_budget(base=found.base, tokens=20_000.0)
    assert found.batch_size in (carried.batch_size, carried.batch_size // 8 * 8)
    assert found.lr * found.num_steps == pytest.approx(
        found.base.lr * found.base.num_steps, rel=0.05
    )  # the same multiple of one over the steps


def test_another_optimizer_gives_way_to_scion_with_the_stated_radii():
    task = valley(noise=1.0, optimizer=bw.OptimizerSpec(name="adamw", lr=1e-3))
    spec = scion_of(task)
    assert (spec.name, spec.momentum, spec.options["radii"]["default"]) == ("scion", 0.9, 50.0)
    found = plan(task)
    assert "in place of the task's adamw" in found.reasons["optimizer"]
    assert "embedding 3000, head 3000, vector 5, others 50" in found.reasons["optimizer"]


def test_the_budget_grows_with_the_run():
    task = valley(noise=1.0)
    assert default_budget(task, 1000).plain_steps == 300
    assert default_budget(task, 8 * 5000).plain_steps == 500
    assert default_budget(task, 10**9).plain_steps == 1000


def test_the_plan_round_trips_and_is_known_from_the_other_kind(tmp_path):
    found = plan(restart_at=(16_000,), task=valley(noise=1.0, sequence_length=1))
    path = found.save(tmp_path)
    json.loads(path.read_text(), parse_constant=pytest.fail)
    assert TokenPlan.load(tmp_path) == load_plan(path) == found
    other = tmp_path / "other"
    other.mkdir()
    (other / "plan.json").write_text('{"schema": 2, "task": "toy"}')
    with pytest.raises(RecordError, match="must be a plan for a budget of tokens"):
        TokenPlan.load(other)
    with pytest.raises(RecordError):
        load_plan(other)
    path.write_text(path.read_text().replace('"schema": 1', '"schema": 99'))
    with pytest.raises(RecordError, match="of schema 1 or older"):
        load_plan(path)


def test_a_run_follows_the_plan_to_the_end_of_its_budget(tmp_path):
    task = valley(noise=1.0, num_examples=4000, target=bw.Target(value=1e9))
    found = plan(task, tokens=8000)
    run = bw.train(task, found, out=tmp_path / "run", device="cpu")
    # It does not end at the target, which is met at once.
    assert (run.reason, run.num_steps, run.batch_size) == ("limit", found.num_steps, found.batch_size)
    steps = read_records(tmp_path / "run").of_kind("step")
    assert {step["lr"] for step in steps} == {found.lr}
    start = read_records(tmp_path / "run").of_kind("start")[0]["settings"]
    assert start["optimizer"]["name"] == "scion"
    assert start["optimizer"]["options"] == json.loads(json.dumps(EUCLIDEAN))
    stopped = bw.train(task, found, out=tmp_path / "stopped", device="cpu", stop_at_target=True)
    assert stopped.reason == "target"


def test_a_restarted_run_takes_the_settings_of_each_stage(tmp_path):
    task = valley(noise=1.0, num_examples=4000, sequence_length=1)
    found = plan(task, tokens=32_000, restart_at=(4000,))
    first, second = found.stages
    # 4 times the base's tokens, then 32 times.
    assert (first.batch_size, second.batch_size) == (20, 80)
    assert first.lr == pytest.approx(0.02 * (20 / 8) / 4)
    assert second.lr == pytest.approx(first.lr * (80 / 20) / 8)
    run = bw.train(task, found, out=tmp_path / "run", device="cpu")
    steps = read_records(tmp_path / "run").of_kind("step")
    assert [(size, lr) for size, lr in dict.fromkeys((step["batch_size"], step["lr"]) for step in steps)] == [
        (first.batch_size, pytest.approx(first.lr)),
        (second.batch_size, pytest.approx(second.lr)),
    ]
    decisions = read_records(tmp_path / "run").of_kind("decision")
    assert [(each["step"], each["num_examples"], each["batch_size"]) for each in decisions] == [(200, 4000, 80)]
    assert (first.num_steps, second.num_steps) == (200, 350)
    assert run.num_steps == found.num_steps


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokens": 10}, "tokens must be an integer of at least 20, got 10; an example of valley has 1 of them"),
        ({"tokens": 1000.5}, "tokens must be a whole number, got 1000.5"),
        ({"tokens": -1}, "tokens must be a finite number and at least 1"),
        ({"restart_at": (2000, 1000)}, "restart_at must rise and stay below tokens, got 2000 before 1000"),
        ({"restart_at": (1000,)}, "restart_at must have a task that says how many tokens an example has"),
        ({"base": base(sequence_length=2)}, "base must have the sequence length of the task, got 2 for 1"),
        ({"base": base(lr=2.0)}, "base lr must be a finite number and above 0 and at most 1"),
        ({"objective": "time"}, "objective must be left out with tokens"),
        ({"calibrate": True}, "calibrate must be left out with tokens"),
        ({"tokens": 20, "base": base(lr=0.9)}, "tokens must leave room for the rule, got 20 against 1,000"),
        ({"tokens": None}, "base must go with tokens, got it alone"),
    ],
)
def test_what_is_wrong_is_refused(changes, message):
    with pytest.raises(InputError, match=message):
        plan(**changes)


def test_an_unconstrained_scion_is_refused():
    spec = bw.OptimizerSpec(name="scion", lr=0.02, options={**EUCLIDEAN, "constrained": False})
    with pytest.raises(InputError, match="must have the constrained Scion"):
        plan(valley(noise=1.0, optimizer=spec))


def test_the_old_refusal_of_scion_names_the_way_out():
    with pytest.raises(InputError, match=r"whose batch size and learning rate follow it: give tokens \(--tokens\)"):
        bw.plan(valley(noise=1.0), device="cpu")


def test_a_reader_is_told_what_a_batch_size_was_rounded_to_and_that_a_given_step_size_is_taken_for_scions():
    found = plan(tokens=60_000)
    assert found.batch_size % 8 == 0
    assert found.reasons["batch_size"].endswith("rounded down to a multiple of 8")
    assert not any("is taken for one of Scion" in each for each in found.warnings)
    small = plan(tokens=2_000)
    assert small.reasons["batch_size"].endswith("rounded down")
    assert small.num_steps <= small.intervals["num_steps"].high
    other = plan(valley(noise=1.0, optimizer=bw.OptimizerSpec(name="adamw", lr=1e-3)))
    assert any("step size of 0.02 is taken for one of Scion; an lr of adamw is no" in each for each in other.warnings)
