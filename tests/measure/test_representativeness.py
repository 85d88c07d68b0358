"""Distances of batches and parts to their data set: closed form, plain loop, exactness of the test, and what it finds."""

import pytest
import torch

import batchwright as bw
from batchwright.core.errors import InputError
from batchwright.core.kernels import GaussianMixture, Linear
from batchwright.core.mmd import mmd2

KERNEL = GaussianMixture((1.0, 2.0))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def classes(num=400, seed=0):
    """Points of two classes four apart, the first half of one class."""
    return torch.randn(num, 2, generator=seeded(seed)) + 4.0 * (torch.arange(num) >= num // 2)[:, None]


def test_the_distance_is_the_biased_squared_mmd_to_the_data_set():
    data, order = classes(60), torch.randperm(60, generator=seeded(1))
    (found,) = bw.measure.batch_representativeness(data, order, batch_sizes=[10], kernel=KERNEL, generator=seeded())
    batches = order.reshape(6, 10)
    wanted = sum(mmd2(data[batch], data, KERNEL, unbiased=False).item() for batch in batches) / 6
    assert found.mmd2 == pytest.approx(wanted, abs=1e-6)
    assert (found.name, found.batch_size, found.num_batches) == ("batches of 10", 10, 6)


def test_the_expectation_is_the_mean_over_uniform_draws():
    data = classes(40)
    draws = [
        mmd2(data[torch.randperm(40, generator=seeded(i))[:5]], data, KERNEL, unbiased=False).item() for i in range(600)
    ]
    values = torch.tensor(draws)
    (found,) = bw.measure.batch_representativeness(
        data, parts={"a": torch.arange(5)}, kernel=KERNEL, generator=seeded()
    )
    assert abs(values.mean() - found.expected) < 4 * values.std() / 600**0.5
    # With the linear kernel it is the textbook variance of a mean from a finite population.
    (linear,) = bw.measure.batch_representativeness(
        data, parts={"a": torch.arange(5)}, kernel=Linear(), generator=seeded()
    )
    assert linear.expected == pytest.approx(data.var(dim=0).sum().item() / 5 * (1 - 5 / 40), rel=1e-4)


@pytest.mark.parametrize("max_examples", [2000, 24])
def test_uniform_orders_and_parts_are_rejected_at_the_level(max_examples):
    generator, data, found = seeded(3), classes(60), []
    for _ in range(150):
        order = torch.randperm(60, generator=generator)
        rows = bw.measure.batch_representativeness(
            data,
            order,
            batch_sizes=[6],
            parts={"shard": order[:15]},
            kernel=KERNEL,
            num_draws=19,
            max_examples=max_examples,
            generator=generator,
        )
        found.append([row.p_value <= 0.2 for row in rows])
    for column in zip(*found, strict=True):
        assert abs(sum(column) / 150 - 0.2) < 4 * (0.2 * 0.8 / 150) ** 0.5


def test_a_short_shuffle_buffer_shows_more_the_larger_the_batch():
    data = classes()
    buffered = torch.cat([20 * i + torch.randperm(20, generator=seeded(i)) for i in range(20)])
    rows = bw.measure.batch_representativeness(
        data, buffered, batch_sizes=[2, 8, 20, 50], num_draws=99, generator=seeded()
    )
    ratios = [row.ratio for row in rows]
    assert ratios == sorted(ratios)
    assert ratios[-1] > 5 > 2 > ratios[0]
    assert rows[-1].p_value == 0.01
    shuffled = torch.randperm(400, generator=seeded(7))
    fair = bw.measure.batch_representativeness(
        data, shuffled, batch_sizes=[2, 8, 20, 50], num_draws=99, generator=seeded()
    )
    assert all(0.7 < row.ratio < 1.4 for row in fair)
    assert min(row.adjusted_p_value for row in fair) > 0.05
    assert [row.expected for row in fair] == sorted((row.expected for row in fair), reverse=True)


def test_shards_ranks_and_foreign_batches():
    data = classes()
    parts = {
        "rank 0 of 2, interleaved": torch.arange(0, 400, 2),
        "rank 0 of 2, contiguous": torch.arange(200),
        "a batch of the same law": classes(400, seed=9)[torch.randperm(400, generator=seeded(2))[:50]],
        "a shifted batch": classes(400, seed=9)[torch.randperm(400, generator=seeded(2))[:50]] + 1.5,
    }
    rows = {
        row.name: row
        for row in bw.measure.batch_representativeness(data, parts=parts, num_draws=99, generator=seeded())
    }
    assert rows["rank 0 of 2, interleaved"].p_value > 0.05
    assert rows["rank 0 of 2, contiguous"].adjusted_p_value == 0.04
    assert rows["a batch of the same law"].p_value > 0.05
    assert rows["a shifted batch"].adjusted_p_value == 0.04
    assert rows["rank 0 of 2, contiguous"].ratio > 20


def test_features_decide_what_is_compared():
    data = classes().reshape(400, 1, 2)
    parts = {"first class": torch.arange(100)}
    sees = bw.measure.batch_representativeness(data, parts=parts, num_draws=99, generator=seeded())[0]
    blind = bw.measure.batch_representativeness(
        data, parts=parts, features=lambda x: x[:, 0, :1] - x[:, 0, 1:], num_draws=99, generator=seeded()
    )[0]
    assert sees.p_value == 0.01
    assert blind.p_value > 0.05


def test_a_large_part_is_thinned_and_still_found():
    data = classes(600)
    (found,) = bw.measure.batch_representativeness(
        data, parts={"first class": torch.arange(300)}, max_examples=80, num_draws=99, generator=seeded()
    )
    assert found.batch_size == 40
    assert found.p_value == 0.01


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "order goes with batch_sizes.*got order=None, 0 batch_sizes and 0 parts"),
        ({"order": torch.arange(5)}, "order goes with batch_sizes"),
        ({"order": torch.tensor([0, 0, 1]), "batch_sizes": [1]}, "order must hold each index at most once"),
        ({"order": torch.tensor([0, 99]), "batch_sizes": [1]}, "order must hold indices from 0 to 19, got 0 to 99"),
        ({"order": torch.arange(5), "batch_sizes": [6]}, "at most the length of order.*got 6 for 5, 20"),
        ({"parts": {"all": torch.arange(20)}}, "part 'all' must leave some examples out, got all 20"),
        ({"parts": {"odd": torch.ones(3, 5)}}, r"part 'odd' must hold examples of shape \(2,\), got shape \(3, 5\)"),
        ({"parts": {"a": torch.arange(3)}, "num_draws": 5}, "num_draws must be an integer of at least 19"),
        ({"parts": {"a": torch.arange(3)}, "features": lambda x: x[:1]}, "features must give one row an example"),
    ],
)
def test_what_cannot_be_measured_is_refused(options, message):
    with pytest.raises(InputError, match=message):
        bw.measure.batch_representativeness(classes(20), **options)
