"""Kernel inception distance against a plain loop, with extractors, subsets, intervals and clear errors."""

import math

import pytest
import torch
from torch import nn

import batchwright as bw
from batchwright.core.errors import InputError


def features(num, h=6, shift=0.0, seed=0):
    return torch.randn(num, h, generator=torch.Generator().manual_seed(seed)) + shift


def plain(x, y):
    """The published formula, one pair after another."""

    def k(a, b):
        return ((a @ b).item() / len(a) + 1) ** 3

    x, y = x.double(), y.double()
    m, n = len(x), len(y)
    within_x = sum(k(x[i], x[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    within_y = sum(k(y[i], y[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    return within_x + within_y - 2 * sum(k(a, b) for a in x for b in y) / (m * n)


def test_all_pairs_and_one_whole_subset_are_the_plain_formula():
    x, y = features(12), features(9, shift=0.3, seed=1)
    assert bw.gan.kid(x, y, num_subsets=None).value == pytest.approx(plain(x, y), abs=1e-12)
    assert bw.gan.kid(x[:9], y, num_subsets=1, subset_size=9).value == pytest.approx(plain(x[:9], y), abs=1e-12)


def test_subsets_average_to_all_pairs_and_repeat_with_their_generator():
    x, y = features(300), features(200, shift=0.3, seed=1)
    whole = bw.gan.kid(x, y, num_subsets=None)
    found, again = (
        bw.gan.kid(x, y, num_subsets=200, subset_size=50, generator=torch.Generator().manual_seed(0)) for _ in range(2)
    )
    assert found == again
    assert abs(found.value - whole.value) < 4 * found.subset_std / 200**0.5
    assert (whole.num_subsets, whole.num_real, whole.num_generated) == (0, 300, 200)
    assert math.isnan(whole.subset_std)


def test_the_interval_covers_the_distance():
    # The truth for N(0, I_3) against N(0.8, I_3), from the moments of inner products up to the third.
    sq = 3 * 0.8**2
    third = sq**3 + 3 * sq * (2 * sq + 3) + 6 * sq
    truth = 2 + (1 + sq + (sq**2 + 2 * sq + 3) / 3 + third / 27) - 2 * (1 + (sq + 3) / 3)
    covered = 0
    for repeat in range(80):
        x, y = features(300, 3, seed=2 * repeat), features(450, 3, 0.8, seed=2 * repeat + 1)
        found = bw.gan.kid(x, y, num_subsets=None)
        covered += found.low <= truth <= found.high
    assert covered / 80 > 0.95 - 4 * (0.95 * 0.05 / 80) ** 0.5


def test_any_extractor_serves_and_is_left_as_it_was():
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.BatchNorm1d(5), nn.Dropout(0.5))
    images, others = torch.rand(40, 3, 2, 2), torch.rand(30, 3, 2, 2)
    model.train()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    found = bw.gan.kid(images, others, extractor=model, num_subsets=None, batch_size=7)
    assert model.training
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    model.eval()
    with torch.no_grad():
        wanted = bw.gan.kid(model(images), model(others), num_subsets=None)
    assert found.value == pytest.approx(wanted.value, rel=1e-6)
    flat = bw.gan.kid(images, others, extractor=lambda part: part.flatten(1), num_subsets=None)
    assert flat.value == pytest.approx(bw.gan.kid(images.flatten(1), others.flatten(1), num_subsets=None).value)


def test_a_subset_larger_than_a_sample_is_refused_with_the_way_out():
    with pytest.raises(
        InputError, match="subset_size=1000 for 500 real and 80 generated ones; use subset_size=80, or num_subsets=None"
    ):
        bw.gan.kid(features(500), features(80))
    with pytest.raises(InputError, match="subset_size must be an integer of at least 4, got 2"):
        bw.gan.kid(features(500), features(80), subset_size=2)
    with pytest.raises(InputError, match="real must give one row of features an example, got shape"):
        bw.gan.kid(torch.ones(5, 3, 2), torch.ones(5, 3, 2))
