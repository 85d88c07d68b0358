"""Batches cut anew hold the same examples in the same order, whatever they are made of."""

import random
from collections import namedtuple
from itertools import chain

import pytest
import torch

from batchwright.core.batches import cut_batch, join_batches
from batchwright.core.errors import InputError
from batchwright.data.recut import Recut

Pair = namedtuple("Pair", "x y")


def chunks(sizes):
    start = 0
    for size in sizes:
        numbers = torch.arange(start, start + size)
        yield {
            "x": numbers[:, None].float(),
            "pair": Pair(numbers, (numbers * 2, [f"example {n}" for n in numbers.tolist()])),
            "scalar": torch.tensor(1.0),
            "name": "same",
        }
        start += size


@pytest.mark.parametrize("seed", range(10))
def test_any_sizes_give_the_same_examples_in_order(seed):
    rng = random.Random(seed)
    sizes = [rng.randint(0, 9) for _ in range(20)]
    recut, start = Recut(chunks(sizes)), 0
    while True:
        batch, found = recut.take(rng.randint(1, 17))
        if not found:
            break
        numbers = torch.arange(start, start + found)
        assert torch.equal(batch["x"], numbers[:, None].float())
        assert torch.equal(batch["pair"].x, numbers)
        assert torch.equal(batch["pair"].y[0], numbers * 2)
        assert batch["pair"].y[1] == [f"example {n}" for n in numbers.tolist()]
        assert (float(batch["scalar"]), batch["name"]) == (1.0, "same")
        start += found
    assert start == sum(sizes)
    assert batch is None


def test_a_whole_chunk_is_not_copied():
    tensors = [torch.zeros(4, 2), torch.ones(4, 2)]
    recut = Recut(iter(tensors))
    assert recut.take(4)[0] is tensors[0]
    assert recut.take(2)[0].data_ptr() == tensors[1].data_ptr()


def test_what_was_taken_since_a_mark_comes_again():
    recut = Recut(chunks([5, 5, 5, 5]))
    recut.take(3)
    recut.mark()
    first = [recut.take(n)[0]["pair"].x.tolist() for n in (4, 1, 6)]
    recut.rewind()
    assert torch.equal(recut.peek()["pair"].x, torch.tensor([3]))
    again = [recut.take(n)[0]["pair"].x.tolist() for n in (2, 9)]
    assert list(chain(*first)) == list(chain(*again)) == list(range(3, 14))
    recut.unmark()
    assert recut.skip(4) == 4
    assert recut.skip(10) == 2


def test_what_cannot_be_cut_or_joined_is_named():
    with pytest.raises(InputError, match="got 2 for 3 examples"):
        cut_batch((torch.zeros(3), ["a", "b"]), 0, 1)
    with pytest.raises(InputError, match="made of tensors, tuples, lists and dicts to be cut anew, got object"):
        cut_batch((torch.zeros(3), object()), 0, 1)
    with pytest.raises(InputError, match=r"agree in all but their first axis.*\(2,\) and \(3,\).*pad every"):
        join_batches([torch.zeros(4, 2), torch.zeros(4, 3)])
