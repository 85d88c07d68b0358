"""A count that knows where the present step begins, as the frameworks' own arithmetic reads it."""

import copy
import math

from batchwright.integrations.whole_steps import StepsFrom


def test_steps_begin_at_their_first_micro_batch_and_end_after_the_count():
    for first in range(6):
        for count in range(1, 6):
            number = StepsFrom(count, first=first)
            begins = [position for position in range(first, first + 3 * count) if position % number == 0]
            assert begins == [first, first + count, first + 2 * count]
            ready = range(first + 1, first + 3 * count + 1)  # Lightning counts the micro-batches that it has begun
            assert [r for r in ready if r % number == 0] == [first + count, first + 2 * count, first + 3 * count]


def test_in_everything_else_it_is_the_plain_number():
    number = StepsFrom(4, first=3)
    assert isinstance(number, int)
    assert (number == 4, number + 1, 9 // number, math.ceil(10 / number), f"{number}") == (True, 5, 2, 3, "4")
    assert type(copy.deepcopy(number)) is int  # as it would be on disk
