"""Environments by name."""

import pytest

from batchwright.core.errors import InputError
from batchwright.rl import CartPoleSampler, GymSampler, Sampler, make_sampler
from batchwright.rl.lqg import LQG

pytest.importorskip("gymnasium")


@pytest.mark.parametrize(
    ("name", "kind", "horizon", "discount"),
    [
        ("lqg", LQG, 20, 0.9),
        ("lqg-5", LQG, 20, 0.9),
        ("cart-pole", CartPoleSampler, 200, 0.99),
        ("CartPole-v1", GymSampler, 500, 0.99),
    ],
)
def test_names_give_samplers(name, kind, horizon, discount):
    sampler = make_sampler(name)
    assert isinstance(sampler, kind)
    assert isinstance(sampler, Sampler)
    assert (sampler.spec.name, sampler.spec.horizon, sampler.spec.discount) == (name, horizon, discount)
    sampler.close()
    sampler = make_sampler(name, horizon=7, discount=0.5)
    assert (sampler.spec.horizon, sampler.spec.discount) == (7, 0.5)
    sampler.close()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("Lqg", {}, "did you mean lqg"),
        ("cartpole", {}, "did you mean (cart-pole|CartPole)"),
        ("Pendulum-v2", {}, "did you mean Pendulum-v1"),
        ("lqg-0", {}, "env must be"),
        ("lqg", {"workers": 2}, "workers must go with a Gymnasium environment, got lqg"),
        ("cart-pole", {"num_envs": 2}, "num_envs must go with a Gymnasium environment, got cart-pole"),
    ],
)
def test_names_that_are_not_known_and_options_that_do_not_fit(name, options, message):
    with pytest.raises(InputError, match=message) as refused:
        make_sampler(name, **options)
    assert "\n" not in str(refused.value)
