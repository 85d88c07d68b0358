"""The sizes of DiveBatch and CABS meet their formulas, also at the ends of what they may be given."""

import doctest
import math

import pytest

from batchwright.core.errors import InputError
from batchwright.measure import wanted_batch_sizes as module
from batchwright.measure.wanted_batch_sizes import cabs_batch_size, dive_batch_size


def test_dive_batch_takes_a_share_of_its_bound_and_never_more_than_the_largest():
    assert dive_batch_size(0.5, num_examples=200, delta=0.1, max_batch_size=64) == pytest.approx(10.0)
    assert dive_batch_size(math.inf, num_examples=100, delta=0.1, max_batch_size=64) == 64.0


def test_cabs_is_the_learning_rate_times_the_trace_over_the_loss():
    assert cabs_batch_size(30.0, loss=1.5, lr=0.1) == pytest.approx(2.0)
    assert cabs_batch_size(30.0, loss=0.0, lr=0.1) == math.inf
    assert math.isnan(cabs_batch_size(0.0, loss=0.0, lr=0.1))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: cabs_batch_size(1.0, loss=-1.0, lr=0.1), "loss must be .* at least 0, got -1.0; subtract the lowest"),
        (lambda: dive_batch_size(math.nan, num_examples=1, delta=1.0, max_batch_size=1), "diversity must not be"),
        (lambda: dive_batch_size(1.0, num_examples=1, delta=0.0, max_batch_size=1), "delta must be"),
    ],
)
def test_bad_arguments_are_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_examples_of_the_docstrings_run():
    found = doctest.testmod(module)
    assert found.attempted >= 2
    assert found.failed == 0
