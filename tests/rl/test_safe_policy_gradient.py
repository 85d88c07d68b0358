"""The trainer: it improves, keeps its budget and its promise, and goes on bit by bit after a kill."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from batchwright.core.errors import CheckpointError, InputError
from batchwright.core.records import read_records
from batchwright.rl import GaussianPolicy, SafePolicyGradient, Smoothing, SoftmaxPolicy
from batchwright.rl.episodes import EnvironmentSpec, Episodes
from batchwright.rl.lqg import LQG
from batchwright.rl.lqg_exact import clipped_return
from batchwright.rl.options import SafeOptions
from batchwright.rl.safe_policy_gradient import decreases
from batchwright.rl.update import one_update, update_seed
from batchwright.rl.update_record import RunState

KINDS = {
    "chebyshev": {"delta": 0.2},
    "bernstein": {"bound": "bernstein", "value_range": "empirical", "delta": 0.2},
    "observed": {"bound": "bernstein", "value_range": "empirical", "constants": "observed"},
    "tried": {"bound": "bernstein", "value_range": "empirical", "constants": "observed", "curvature": "tried"},
    "spg": {"method": "spg", "delta": 0.5, "bound": "bernstein", "value_range": "empirical"},
    "relaxed": {
        "method": "relaxed-spg",
        "tolerance": 0.3,
        "delta": 0.5,
        "bound": "bernstein",
        "value_range": "empirical",
    },
}


def trainer(kind: str, **options) -> SafePolicyGradient:
    return SafePolicyGradient(LQG(), GaussianPolicy(1, 1), **{"budget": 20_000, **KINDS[kind], **options})


class Walk:
    """A walk on five places with two actions; the only reward is 1 at the right end, where it terminates."""

    spec = EnvironmentSpec(
        name="walk",
        observation_dim=2,
        num_actions=2,
        horizon=8,
        discount=0.9,
        reward_bound=1.0,
        observation_bound=1.0,
    )

    def collect(self, policy, num_episodes, seed):
        generator = torch.Generator().manual_seed(seed)
        place = torch.full((num_episodes,), 2)
        rows = []
        alive = torch.ones(num_episodes, dtype=torch.bool)
        for _ in range(8):
            seen = torch.stack([torch.ones(num_episodes), place / 4 - 0.5], -1)
            action = policy.sample(seen, generator)
            after = (place + 2 * action - 1).clamp(0, 4)
            rows.append((seen, action, (alive & (after == 4)).float(), alive.clone()))
            alive = alive & (after != 4)
            place = after
        seen, action, reward, mask = (torch.stack(each, 1) for each in zip(*rows, strict=True))
        yield Episodes(observations=seen, actions=action, rewards=reward, mask=mask, terminated=~alive, truncated=alive)

    def close(self):
        pass


@pytest.mark.parametrize("kind", ["chebyshev", "bernstein", "observed", "spg"])
def test_the_return_improves_and_the_budget_is_kept(kind):
    run = trainer(kind, budget=60_000, growth=4.0).train()
    assert run.reason == "budget"
    assert 60_000 - run.updates[-1].batch_size < run.num_trajectories <= 60_000
    assert sum(update.batch_size for update in run.updates) == run.num_trajectories
    assert run.num_moves > 0
    before, after = (float(clipped_return(LQG(), theta)) for theta in (torch.zeros(1), run.policy.theta))
    assert after > before
    # What was promised and what came: the exact return rose by more than the sum of the promises.
    assert after - before >= sum(update.guaranteed_improvement for update in run.updates)
    assert decreases(run.updates) <= len(run.updates) * 0.2


def test_a_softmax_policy_on_an_environment_with_ends():
    run = SafePolicyGradient(
        Walk(), SoftmaxPolicy(2, 2), delta=0.2, budget=200_000, bound="bernstein", min_batch_size=500
    ).train()
    assert run.guarantee.holds
    assert run.num_moves > 3
    assert run.updates[-1].mean_return > run.updates[0].mean_return + 5 * run.updates[0].return_error
    assert run.updates[-1].num_steps < 8 * run.num_trajectories


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_was_killed_goes_on_bit_by_bit(kind, tmp_path: Path):
    options = {"budget": 30_000 if kind == "chebyshev" else 8000, "delta": 0.9}
    whole = trainer(kind, **options).train(tmp_path / "whole")

    class KilledError(Exception):
        pass

    def kill(update):
        if update.step == 5:
            raise KilledError

    with pytest.raises(KilledError):
        trainer(kind, **options, checkpoint_every=3).train(tmp_path / "cut", on_update=kill)
    with (tmp_path / "cut" / "records.jsonl").open("a") as file:
        file.write('{"kind": "upd')  # torn by the kill
    again = trainer(kind, **options).train(tmp_path / "cut", resume=True)
    assert len(whole.updates) > 6
    assert again.updates == whole.updates
    assert torch.equal(again.policy.theta, whole.policy.theta)
    first, second = (read_records(tmp_path / name) for name in ("whole", "cut"))
    assert first.of_kind("update") == second.of_kind("update")
    assert second.num_torn == 1
    assert second.of_kind("end")[-1]["reason"] == "budget"


def test_a_finished_run_goes_on_with_a_larger_budget(tmp_path: Path):
    whole = trainer("bernstein", budget=30_000).train()
    part = trainer("bernstein", budget=30_000).train(tmp_path, max_updates=4)
    assert part.reason == "updates"
    again = trainer("bernstein", budget=30_000).train(tmp_path, resume=True)
    assert again.updates == whole.updates


def test_records_tell_the_run(tmp_path: Path):
    evaluate = lambda policy: float(clipped_return(LQG(), policy.theta))  # noqa: E731
    run = SafePolicyGradient(LQG(), GaussianPolicy(1, 1), budget=20_000, delta=0.5, evaluate=evaluate).train(tmp_path)
    records = read_records(tmp_path)
    (start,) = records.of_kind("start")
    assert (start["system"], start["task"]) == ("safe-policy-gradient", "lqg")
    assert start["guarantee"]["holds"] is True
    updates = records.of_kind("update")
    assert len(updates) == len(run.updates)
    assert updates[-1]["true_return"] == pytest.approx(evaluate(run.policy), rel=1e-12)
    for line in updates:
        parts = line["first_order"] - line["error_cost"] - line["curvature_cost"]
        assert line["guaranteed_improvement"] == pytest.approx(parts, abs=1e-12)
    json.dumps(updates, allow_nan=False)


def test_a_batch_that_does_not_resolve_its_gradient_moves_nothing_and_asks_for_more():
    options = SafeOptions(delta=0.05, budget=10**6)
    env, policy = LQG(), GaussianPolicy(1, 1)
    state, record = one_update(env, policy, options, RunState(theta=policy.theta, batch_size=100))
    assert record.error_sqrt > record.gradient_size
    assert record.step_size == 0
    assert torch.equal(state.theta, policy.theta)
    assert state.batch_size > 1000
    _, second = one_update(env, policy, options, state)
    assert second.batch_size == state.batch_size


def test_spg_looks_at_sizes_that_were_fixed_before_and_stops_when_the_gradient_is_resolved():
    options = SafeOptions(method="spg", delta=0.5, budget=10**6, bound="bernstein", value_range="empirical", growth=3.0)
    env, policy = LQG(), GaussianPolicy(1, 1)
    _, record = one_update(env, policy, options, RunState(theta=policy.theta, batch_size=100))
    looks = record.num_looks
    assert looks > 1
    assert record.batch_size == 100 * 3 ** (looks - 1)
    assert record.delta == pytest.approx(0.25 / (looks * (looks + 1)))
    assert record.error_sqrt + record.error_linear <= record.gradient_size / 2
    # One size less would not have been enough, at its own share of delta.
    smaller = replace(options, max_batch_size=100 * 3 ** (looks - 2))
    _, before = one_update(env, policy, smaller, RunState(theta=policy.theta, batch_size=100))
    assert before.error_sqrt + before.error_linear > before.gradient_size / 2


def test_relaxed_spg_takes_the_full_step_while_its_slack_covers_the_loss():
    run = trainer("relaxed", budget=40_000, growth=4.0).train()
    moved = [update for update in run.updates if update.step_size > 0]
    assert moved
    for update in moved:
        error = update.error_sqrt + update.error_linear
        assert update.step_size == pytest.approx(1 / (2 * update.curvature))
        limit = update.gradient_size / 2 + 2 * update.curvature * update.slack / update.gradient_size
        assert error <= limit * (1 + 1e-12)
        # What it may lose is no more than the slack.
        assert update.guaranteed_improvement >= -update.slack * (1 + 1e-9)


def test_probabilities_of_a_lifetime_sum_to_delta():
    options = SafeOptions(delta=0.3, lifetime=True)
    assert math.fsum(options.delta_of(t) for t in range(1, 10_001)) == pytest.approx(0.3 * (1 - 1 / 10_001))
    assert SafeOptions(delta=0.3).delta_of(7) == 0.3
    run = trainer("chebyshev", lifetime=True, delta=0.9, budget=300_000).train()
    assert math.fsum(update.delta for update in run.updates if update.step_size > 0) <= 0.9


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"constants": "observed"}, "the largest that were seen"),
        ({"bound": "bernstein", "value_range": "empirical"}, "the range of the gradient is that of the sample"),
        ({"bound": "hoeffding"}, "those of a Gaussian policy are not"),
        ({"variance_form": "published"}, "is not a bound"),
        ({"variance_form": "minkowski"}, ""),
        ({"estimator": "reinforce"}, ""),
        ({"bound": "sub-gaussian"}, ""),
        ({"smoothness_form": "published"}, ""),
        ({"variant": "norm"}, ""),
        ({"variant": "scalar"}, ""),
    ],
)
def test_the_guarantee_says_what_voids_it(options, word):
    found = SafePolicyGradient(LQG(), GaussianPolicy(1, 1), **options).guarantee
    assert found.holds is (word == "")
    assert any(word in line for line in found.lines)
    assert found.statement.startswith("No guarantee") is not found.holds


def test_the_guarantee_covers_the_union_and_the_clipped_score():
    two = SafePolicyGradient(LQG(2), GaussianPolicy(2, 2), union=False).guarantee
    assert any("set union=True" in line for line in two.void)
    assert SafePolicyGradient(LQG(), GaussianPolicy(1, 1), union=False).guarantee.holds
    assert not SafePolicyGradient(LQG(clip_recorded=True), GaussianPolicy(1, 1)).guarantee.holds
    whole = SafePolicyGradient(LQG(), GaussianPolicy(1, 1), method="spg").guarantee
    assert (whole.over, "no update of the whole run" in whole.statement) == ("run", True)


@pytest.mark.parametrize("variant", ["coordinate", "scalar", "norm"])
@pytest.mark.parametrize("bound", ["chebyshev", "sub-gaussian"])
def test_every_variant_with_a_guarantee_improves_in_two_dimensions(variant, bound):
    env = LQG(2, horizon=4, state_cost=0.25, action_cost=0.25)
    # The tail bound of the follow-up paper has large constants, most of all for the norm.
    size = 200_000 if bound == "chebyshev" else 2_400_000 if variant == "norm" else 1_200_000
    run = SafePolicyGradient(
        env,
        GaussianPolicy(2, 2).at(torch.tensor([0.5, 0.0, 0.0, 0.5])),
        delta=0.5,
        bound=bound,
        variant=variant,
        budget=10 * size,
        min_batch_size=size,
        max_batch_size=size,
        variance_form="minkowski",
    ).train(max_updates=2)
    assert run.guarantee.holds
    assert run.num_moves > 0
    # The gain of the exact return of the diagonal part alone is not the whole; the sampled one tells.
    assert run.updates[-1].mean_return > run.updates[0].mean_return - 4 * run.updates[0].return_error


def test_what_is_missing_is_said_before_anything_runs():
    class Unknown(Walk):
        spec = replace(Walk.spec, reward_bound=None)

    with pytest.raises(InputError, match=r"reward_bound must be known for a guarantee on walk.*constants='observed'"):
        SafePolicyGradient(Unknown(), SoftmaxPolicy(2, 2))
    assert SafePolicyGradient(Unknown(), SoftmaxPolicy(2, 2), reward_bound=1.0).guarantee.holds
    assert not SafePolicyGradient(Unknown(), SoftmaxPolicy(2, 2), constants="observed").guarantee.holds
    with pytest.raises(InputError, match="policy must have smoothing constants"):
        SafePolicyGradient(LQG(), GaussianPolicy(1, 1, hidden=(4,)))
    with pytest.raises(InputError, match="curvature=tried and value_range=empirical"):
        SafePolicyGradient(Walk(), SoftmaxPolicy(2, 2, hidden=(4,)), constants="observed", bound="bernstein")
    with pytest.raises(InputError, match="policy must give continuous actions for lqg"):
        SafePolicyGradient(LQG(), SoftmaxPolicy(1, 2))


PRACTICE = {"constants": "observed", "bound": "bernstein", "value_range": "empirical", "curvature": "tried"}


def test_a_network_without_constants_is_trained_in_practice_and_climbs():
    trainer = SafePolicyGradient(Walk(), SoftmaxPolicy(2, 2, hidden=(4,)), **PRACTICE, delta=0.2, budget=20_000)
    assert not trainer.guarantee.holds
    run = trainer.train()
    first, last = run.updates[0], run.updates[-1]
    assert run.num_moves >= 3
    # By more than four standard errors of the difference: the returns are of different trajectories.
    assert last.mean_return - first.mean_return > 4 * math.hypot(first.return_error, last.return_error)


def test_a_guarantee_says_when_it_stands_on_constants_that_its_user_gave():
    given = Smoothing(psi=1.0, kappa=1.0, xi=1.0)

    def says(policy: Any, **options: Any) -> bool:
        lines = SafePolicyGradient(Walk(), policy, delta=0.2, **options).guarantee.lines
        return any("smoothing constants are as its maker gave them" in line for line in lines)

    assert not says(SoftmaxPolicy(2, 2))
    assert says(SoftmaxPolicy(2, 2, hidden=(4,), smoothing=given))
    assert not says(SoftmaxPolicy(2, 2, hidden=(4,), smoothing=given), **PRACTICE)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"delta": 1.0}, "delta must be"),
        ({"bound": "markov"}, "bound must be one of"),
        ({"budget": 10}, "budget must be an integer of at least 100"),
        ({"speed": 3}, "options must be of .*got speed"),
        ({"method": "relaxed-spg"}, "tolerance must be above 0"),
        ({"variant": "norm", "smoothness_form": "published"}, "must not be published for the variant norm"),
        ({"variant": "norm", "bound": "hoeffding", "value_range": "empirical"}, "value_range must be theoretical"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(InputError, match=message):
        SafePolicyGradient(LQG(), GaussianPolicy(1, 1), **options)


def test_a_folder_with_a_run_is_not_overwritten_and_its_options_stand(tmp_path: Path):
    trainer("bernstein").train(tmp_path, max_updates=2)
    with pytest.raises(InputError, match="out must be a folder without a run"):
        trainer("bernstein").train(tmp_path)
    with pytest.raises(CheckpointError, match=r"delta=0.2 where it is 0.3 now"):
        trainer("bernstein", delta=0.3).train(tmp_path, resume=True)
    with pytest.raises(InputError, match="out must hold a run to resume"):
        trainer("bernstein").train(tmp_path / "other", resume=True)
    with pytest.raises(InputError, match="out must name the folder"):
        trainer("bernstein").train(resume=True)


def test_seeds_of_updates_differ_and_are_fixed():
    seeds = {update_seed(seed, step, block) for seed in range(3) for step in range(1, 30) for block in range(1, 4)}
    assert len(seeds) == 3 * 29 * 3
    assert update_seed(0, 1, 1) == update_seed(0, 1, 1)
