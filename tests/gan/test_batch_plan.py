"""Noise of a real trainer's steps against plain gradients, and plans of batch sizes that follow from it."""

import dataclasses
import itertools
import math

import pytest
import torch

import batchwright as bw
from batchwright.core.errors import InputError
from batchwright.core.statistics import Interval
from batchwright.gan.batch_plan import _plan, apply_plan, plan_batches, trainer_noise
from batchwright.gan.objective import generator_objective
from batchwright.gan.step_noise import EqualSize, StepNoise

pytestmark = pytest.mark.filterwarnings("ignore::batchwright.gan.FeatureScaleWarning")


def digits():
    from sklearn.datasets import load_digits

    return torch.tensor(load_digits().data, dtype=torch.float32) / 8 - 1


def make(networks=None, **options):
    torch.manual_seed(0)
    chosen = {"batch_size": 32, "clip": 0.1, "lr": 1e-3, "critic_steps": 2, "warmup_critic_steps": 2, **options}
    trainer = bw.gan.MMDGAN(digits(), networks or bw.gan.mlp_networks(), bw.gan.GanOptions(**chosen))
    trainer.train(5)
    return trainer


def values(trainer):
    return torch.cat([value.flatten().double() for value in trainer._modules().state_dict().values()])


def ticking():
    count = itertools.count()
    return lambda: float(next(count))


def test_the_noise_of_a_generator_step_is_that_of_plain_gradients():
    trainer = make(loss="mmd-squared")
    optimizer, parameters = trainer.optimizer_of("generator"), list(trainer.networks.generator.parameters())
    divisors = torch.cat([(optimizer.state[p]["square_avg"].sqrt() + 1e-8).flatten() for p in parameters]).double()
    random = torch.Generator().manual_seed(5)
    grads = []
    for _ in range(300):
        real = trainer.data[torch.randperm(1797, generator=random)[:32]]
        loss = generator_objective(trainer.options, trainer.networks, real, trainer.noise(32, random)).loss
        grads.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)]).double())
    plain = torch.stack(grads)
    for behind, stacked in ((False, plain), (True, plain / divisors)):
        found = trainer_noise(trainer, "generator", [32], num_batches=100, behind_optimizer=behind).points[0]
        variance = float(stacked.var(dim=0).sum())
        signal = float(stacked.mean(dim=0).square().sum()) - variance / len(stacked)
        assert found.ratio.low < variance / signal < found.ratio.high
        if (
            not behind
        ):  # behind the optimizer few parameters of tiny second moments rule the variance: its tail is heavy
            assert found.variance == pytest.approx(variance, rel=0.15)


@pytest.mark.parametrize("network", ["critic", "generator"])
def test_a_measurement_leaves_the_trainer_as_it_was(network):
    trainer = make()
    before, random = values(trainer), trainer._random.get_state()
    state = torch.get_rng_state()
    trainer_noise(trainer, network, [8, 16], num_batches=8)
    assert torch.equal(values(trainer), before)
    assert torch.equal(trainer._random.get_state(), random)
    assert torch.equal(torch.get_rng_state(), state)
    assert trainer.networks.critic.training
    twin = make()
    assert trainer.train(2) == twin.train(2)


def test_the_plan_measures_both_networks_apart_and_is_applied_with_the_learning_rates(tmp_path):
    trainer = make()
    plan = plan_batches(trainer, clock=ticking(), num_batches=8)
    assert [point.batch_size for point in plan.critic.points] == [8, 32, 128]
    assert plan.critic.points != plan.generator.points
    assert plan.cost_steps == pytest.approx(2 * 8 * (8 + 32 + 128) / (32 + 2 * 32))
    plan = dataclasses.replace(
        plan,
        critic=dataclasses.replace(plan.critic, batch_size=128, lr_factor=2.0),
        generator=dataclasses.replace(plan.generator, batch_size=16, lr_factor=0.5),
    )
    apply_plan(trainer, plan)
    assert trainer.batch_sizes == (16, 128)
    assert trainer.lrs == pytest.approx((5e-4, 2e-3))
    trainer.train(1)
    trainer.save(tmp_path)
    torch.manual_seed(1)
    options = bw.gan.GanOptions(batch_size=32, clip=0.1, lr=1e-3, critic_steps=2, warmup_critic_steps=2)
    other = bw.gan.MMDGAN(digits(), bw.gan.mlp_networks(), options)
    other.resume(tmp_path)
    assert other.batch_sizes == (16, 128)
    assert other.lrs == pytest.approx((5e-4, 2e-3))
    assert trainer.train(2) == other.train(2)


def point(batch_size, ratio, high=None, seconds=1.0):
    wide = Interval(value=ratio, low=0.8 * ratio, high=1.25 * ratio if high is None else high)
    return StepNoise(batch_size=batch_size, ratio=wide, variance=1.0, grad_sq_norm=1.0, num_batches=40, seconds=seconds)


def test_a_resolved_size_goes_through_the_rule_of_the_library():
    # Noise equals signal at 320 and a step takes 64 s + 1 s a point: the fastest is sqrt(320 * 64) = 143, a fifth of 320 is 64.
    points = tuple(point(size, 320 / size, seconds=64 + size) for size in (16, 64, 256))
    found = EqualSize(size=Interval(value=320.0, low=280.0, high=360.0), points=points, first_order=1.0)
    balanced = _plan("critic", 64, found, "balanced", 1000, 0)
    assert balanced.batch_size == 64
    assert balanced.lr_factor == 1.0
    assert "at most 20% more examples" in balanced.reason
    fastest = _plan("critic", 64, found, "time", 1000, 0)
    assert fastest.batch_size == 128
    assert fastest.lr_factor == pytest.approx(math.sqrt(2))
    assert _plan("critic", 64, found, "time", 100, 0).batch_size <= 100


def test_without_evidence_the_size_stays_or_goes_up_to_what_is_known():
    unknown = Interval(value=math.inf, low=50.0, high=math.inf)
    points = (point(64, math.inf, math.inf),)
    kept = _plan("generator", 64, EqualSize(size=unknown, points=points, first_order=math.nan), "balanced", 500, 0)
    assert (kept.batch_size, kept.lr_factor, kept.resolved) == (64, 1.0, False)
    assert "not enough evidence" in kept.reason
    assert "50 points or more; the size stays" in kept.reason
    more = Interval(value=math.inf, low=300.0, high=math.inf)
    up = _plan("generator", 64, EqualSize(size=more, points=points, first_order=math.nan), "balanced", 500, 0)
    assert up.batch_size == 256
    assert up.lr_factor == pytest.approx(2.0)


def test_gmmn_has_a_plan_for_its_generator_alone():
    kernel = bw.gan.GaussianMixture.of_variances((8.0, 20.0, 40.0, 80.0, 160.0, 320.0))
    trainer = make(networks=bw.gan.mlp_networks(critic=False), kernel=kernel)
    plan = plan_batches(trainer, clock=ticking(), num_batches=8, max_batch_size=64)
    assert plan.critic is None
    assert max(found.batch_size for found in plan.generator.points) == 64
    assert plan.generator.batch_size <= 64
    with pytest.raises(InputError, match="got 'critic' for GMMN"):
        trainer_noise(trainer, "critic", [8])
    with pytest.raises(InputError, match="at most the 1797 points of the data, got 2000"):
        trainer_noise(trainer, "generator", [2000])
