"""Every example comes exactly once an epoch whatever the batch sizes, and a restored sampler goes on exactly."""

import random

import pytest
import torch

from batchwright.core.errors import InputError
from batchwright.data.samplers import EpochSampler, SamplerState


def random_sizes(rng: random.Random, num_examples: int, total: int) -> list[int]:
    """Batch sizes that change at every step and add up to ``total``."""
    sizes = []
    while (left := total - sum(sizes)) > 0:
        sizes.append(min(rng.randint(1, num_examples), left))
    return sizes


@pytest.mark.parametrize("seed", range(25))
def test_each_example_comes_exactly_once_an_epoch_while_the_batch_size_changes(seed):
    rng = random.Random(seed)
    num_examples, num_epochs = rng.randint(1, 90), 5
    sampler = EpochSampler(num_examples, seed)
    sizes = random_sizes(rng, num_examples, num_epochs * num_examples)
    batches = [sampler.take(size) for size in sizes]
    assert [len(batch) for batch in batches] == sizes
    for epoch in torch.cat(batches).view(num_epochs, num_examples):
        assert torch.equal(epoch.sort().values, torch.arange(num_examples))
    assert sampler.state == SamplerState(seed=seed, epoch=num_epochs, position=0)


def test_the_order_does_not_depend_on_the_batch_sizes():
    one, other = EpochSampler(30, seed=4), EpochSampler(30, seed=4)
    sizes = random_sizes(random.Random(0), 30, 150)
    assert torch.equal(torch.cat([one.take(size) for size in sizes]), torch.cat([other.take(15) for _ in range(10)]))


@pytest.mark.parametrize("seed", range(15))
def test_a_sampler_restored_at_any_point_goes_on_exactly(seed):
    rng = random.Random(seed)
    num_examples = rng.randint(2, 50)
    sampler = EpochSampler(num_examples, seed)
    sizes = random_sizes(rng, num_examples, 6 * num_examples)
    cut = rng.randrange(len(sizes))
    for size in sizes[:cut]:
        sampler.take(size)
    state = sampler.state
    expected = [sampler.take(size) for size in sizes[cut:]]
    for restored in (EpochSampler(num_examples, seed=999), sampler):
        restored.restore(state)
        assert restored.state == state
        assert all(torch.equal(restored.take(size), batch) for size, batch in zip(sizes[cut:], expected, strict=True))


def test_the_order_differs_by_epoch_and_by_seed():
    orders = set()
    for seed in range(6):
        sampler = EpochSampler(40, seed)
        orders |= {tuple(sampler.take(40).tolist()) for _ in range(6)}
    assert len(orders) == 36


def test_the_order_of_an_epoch_needs_no_replay_of_those_before():
    replayed, restored = EpochSampler(20, seed=1), EpochSampler(20, seed=1)
    for _ in range(1000):
        replayed.take(20)
    restored.restore(SamplerState(seed=1, epoch=1000, position=0))
    assert torch.equal(replayed.take(20), restored.take(20))


def test_each_example_is_equally_likely_at_each_place():
    num_examples, num_epochs = 7, 3000
    sampler = EpochSampler(num_examples, seed=2)
    orders = torch.stack([sampler.take(num_examples) for _ in range(num_epochs)])
    counts = torch.nn.functional.one_hot(orders).sum(dim=0).double()
    chance = 1 / num_examples
    assert (counts / num_epochs - chance).abs().max() < 4 * (chance * (1 - chance) / num_epochs) ** 0.5


def test_the_global_generator_is_left_alone():
    before = torch.get_rng_state()
    sampler = EpochSampler(10)
    for _ in range(5):
        sampler.take(7)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_batch_is_a_copy_and_not_the_order_itself():
    sampler, untouched = EpochSampler(6), EpochSampler(6)
    sampler.take(3).zero_()
    untouched.take(3)
    assert torch.equal(sampler.take(3), untouched.take(3))
    batch = sampler.take(3)
    state = sampler.state
    batch.zero_()
    sampler.restore(SamplerState(seed=0, epoch=state.epoch, position=0))
    untouched.restore(SamplerState(seed=0, epoch=state.epoch, position=0))
    assert torch.equal(sampler.take(6), untouched.take(6))


def test_a_batch_may_be_the_whole_data_set_but_not_larger():
    sampler = EpochSampler(5)
    assert sorted(sampler.take(5).tolist()) == list(range(5))
    with pytest.raises(
        InputError, match="batch_size must be at most the number of training examples, got 6 for 5; use 5 or fewer"
    ):
        sampler.take(6)


def test_bad_sizes_and_seeds_raise():
    with pytest.raises(InputError, match="num_examples must be an integer of at least 1, got 0"):
        EpochSampler(0)
    with pytest.raises(InputError, match="seed must be an integer of at least 0, got -1"):
        EpochSampler(3, seed=-1)


def test_a_large_seed_is_taken():
    assert sorted(EpochSampler(4, seed=2**62).take(4).tolist()) == [0, 1, 2, 3]


@pytest.mark.parametrize("batch_size", [0, -1])
def test_a_batch_holds_at_least_one_example(batch_size):
    with pytest.raises(InputError, match=f"batch_size must be an integer of at least 1, got {batch_size}"):
        EpochSampler(5).take(batch_size)


@pytest.mark.parametrize("position", [6, 100, -1])
def test_a_state_of_a_larger_data_set_raises(position):
    with pytest.raises(InputError, match=f"position .*{position}"):
        EpochSampler(5).restore(SamplerState(seed=0, epoch=1, position=position))
