"""A batch size as a whole number of micro-batches: the nearest, within bounds, and it says what it rounded."""

import pytest

from batchwright.core.errors import InputError
from batchwright.integrations.micro_batches import whole_batch


@pytest.mark.parametrize(
    ("wanted", "options", "count", "size"),
    [
        (96, {}, 3, 96),
        (100, {}, 3, 96),
        (112, {}, 4, 128),
        (1, {}, 1, 32),
        (1, {"at_least": 2}, 2, 64),
        (1000, {"at_most": 5}, 5, 160),
        (100, {"world_size": 2}, 2, 128),
        (100, {"max_batch_size": 127}, 3, 96),
        (127, {"max_batch_size": 127}, 3, 96),
        (20, {"max_batch_size": 20}, 1, 32),
    ],
)
def test_the_nearest_whole_number_within_the_bounds(wanted, options, count, size):
    found = whole_batch(wanted, micro_batch_size=32, **options)
    assert (found.num_micro_batches, found.batch_size) == (count, size)
    assert bool(found.note) == (size != wanted)
    assert found.note == "" or (str(wanted) in found.note and str(size) in found.note)


def test_the_note_says_why_the_bounds_held():
    assert "all that an epoch holds" in whole_batch(1000, micro_batch_size=32, at_most=5).note
    assert whole_batch(1, micro_batch_size=32, at_least=2, at_least_because="so be it").note.endswith("= 64: so be it")
    assert "on each of 4 ranks" in whole_batch(100, micro_batch_size=8, world_size=4).note


@pytest.mark.parametrize("name", ["wanted", "micro_batch_size", "world_size"])
def test_a_size_below_one_is_refused(name):
    sizes = {"wanted": 8, "micro_batch_size": 4, "world_size": 1, name: 0}
    with pytest.raises(InputError, match=f"{name} must be an integer of at least 1, got 0"):
        whole_batch(sizes["wanted"], micro_batch_size=sizes["micro_batch_size"], world_size=sizes["world_size"])
