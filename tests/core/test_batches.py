"""Every nesting of tensors is measured, cut and moved along its first axis."""

from collections import OrderedDict, namedtuple

import pytest
import torch

from batchwright.core.batches import batch_length, map_tensors, slice_batch, split_batch, tensors_of, to_device
from batchwright.core.errors import InputError

Pair = namedtuple("Pair", ["inputs", "classes"])

X = torch.arange(14.0).reshape(7, 2)
Y = torch.arange(7)
NESTINGS = {
    "tensor": X,
    "tuple": (X, Y),
    "list": [X, Y],
    "dict": {"x": X, "y": Y},
    "ordered dict": OrderedDict(y=Y, x=X),
    "named tuple": Pair(X, Y),
    "nested": {
        "views": [X, (X + 1, {"deep": Y})],
        "pair": Pair(X, Y),
        "name": "digits",
        "scale": torch.tensor(2.0),
        "n": 3,
    },
}


def same(left: object, right: object) -> bool:
    """Whether two batches have the same types, nesting and values."""
    if type(left) is not type(right):
        return False
    if isinstance(left, torch.Tensor):
        return torch.equal(left, right)
    if isinstance(left, dict):
        return list(left) == list(right) and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    return left == right


@pytest.fixture(params=NESTINGS)
def batch(request):
    return NESTINGS[request.param]


def test_length_is_the_first_axis(batch):
    assert batch_length(batch) == 7


def test_micro_batches_in_order_make_the_batch_again(batch):
    for size in range(1, 9):
        parts = list(split_batch(batch, size))
        assert [batch_length(part) for part in parts] == [len(part) for part in Y.split(size)]
        assert all(type(part) is type(batch) for part in parts)
        for whole, *pieces in zip(tensors_of(batch), *map(tensors_of, parts), strict=True):
            assert torch.equal(torch.cat(pieces) if whole.ndim else pieces[0], whole)


def test_slices_are_views(batch):
    for part, whole in zip(tensors_of(slice_batch(batch, 0, 3)), tensors_of(batch), strict=True):
        assert part.data_ptr() == whole.data_ptr()


def test_map_keeps_the_nesting_and_all_that_is_no_tensor(batch):
    assert same(map_tensors(lambda leaf: leaf + 1 - 1, batch), batch)


def test_to_device_keeps_tensors_that_are_there(batch):
    moved = to_device(batch, torch.device("cpu"))
    assert same(moved, batch)
    assert all(a is b for a, b in zip(tensors_of(moved), tensors_of(batch), strict=True))


@pytest.mark.parametrize(
    ("bad", "axes"),
    [
        ((X, Y[:5]), r"\[5, 7\]"),
        ({"x": X, "deep": [Y, Y[:1]]}, r"\[1, 7\]"),
        (torch.tensor(3.0), r"\[\]"),
        ((), r"\[\]"),
        ({"name": "digits"}, r"\[\]"),
        (None, r"\[\]"),
    ],
)
def test_tensors_that_disagree_or_are_not_there_raise(bad, axes):
    with pytest.raises(InputError, match=f"every tensor of a batch must hold one example a row, got first axes {axes}"):
        batch_length(bad)


@pytest.mark.parametrize("size", [0, -3])
def test_a_micro_batch_holds_at_least_one_example(size):
    with pytest.raises(InputError, match=f"micro_batch_size must be an integer of at least 1, got {size}"):
        list(split_batch(X, size))
