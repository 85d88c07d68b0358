"""Batches out of any map-style data set are what indexing example by example and collating would give."""

import pytest
import torch
from torch.utils.data import Dataset, IterableDataset, Subset, TensorDataset, default_collate

from batchwright.core.errors import TaskError
from batchwright.data.access import batches_of, fetch, num_examples

X = torch.randn(13, 3, generator=torch.Generator().manual_seed(0))
Y = torch.arange(13)


class Plain(Dataset):
    """One example at a time, as a dictionary."""

    def __len__(self) -> int:
        return len(X)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        assert type(index) is int
        return {"x": X[index], "y": Y[index]}


class Many(Plain):
    """A whole batch at a time."""

    def __init__(self) -> None:
        self.asked: list[list[int]] = []

    def __getitems__(self, indices: list[int]) -> list[dict[str, torch.Tensor]]:
        self.asked.append(indices)
        return [super(Many, self).__getitem__(index) for index in indices]


class Doubled(TensorDataset):
    """A sub-class that changes what an example is: it must not be indexed as a whole."""

    def __getitem__(self, index: int) -> tuple[torch.Tensor, ...]:
        return tuple(2 * tensor for tensor in super().__getitem__(index))


class Stream(IterableDataset):
    def __iter__(self):
        yield X[0]


DATASETS = {
    "tensors": TensorDataset(X, Y),
    "sub-class": Doubled(X, Y),
    "plain": Plain(),
    "many": Many(),
    "subset": Subset(TensorDataset(X, Y), [12, 0, 5, 5, 3, 8]),
    "subset of a subset": Subset(Subset(Plain(), [12, 0, 5, 3, 8, 1, 7]), [6, 0, 2, 3, 1, 4]),
    "list": [(x, int(y)) for x, y in zip(X, Y, strict=True)],
}


def leaves(batch) -> list[torch.Tensor]:
    return list(batch.values()) if isinstance(batch, dict) else list(batch)


@pytest.mark.parametrize("name", DATASETS)
def test_fetch_is_collating_example_by_example(name):
    dataset, indices = DATASETS[name], torch.tensor([4, 0, 4, 5, 1])
    found = fetch(dataset, indices)
    expected = default_collate([dataset[index] for index in indices.tolist()])
    assert [*map(type, leaves(found))] == [torch.Tensor] * 2
    for mine, its in zip(leaves(found), leaves(expected), strict=True):
        torch.testing.assert_close(mine, its, rtol=0, atol=0)


def test_a_data_set_that_gives_many_is_asked_once_a_batch():
    dataset = Many()
    fetch(dataset, torch.tensor([3, 1, 2]))
    assert dataset.asked == [[3, 1, 2]]


def test_a_fetched_batch_shares_no_memory_with_the_data_set():
    data = torch.arange(4.0)
    fetch(TensorDataset(data), torch.tensor([0, 1, 2]))[0].zero_()
    assert torch.equal(data, torch.arange(4.0))


@pytest.mark.parametrize("batch_size", [1, 4, 12, 13, 14, 1000])
def test_batches_in_order_make_the_data_set(batch_size):
    batches = list(batches_of(TensorDataset(X, Y), batch_size))
    assert torch.equal(torch.cat([x for x, _ in batches]), X)
    assert torch.equal(torch.cat([y for _, y in batches]), Y)
    assert [len(y) for _, y in batches] == [len(part) for part in Y.split(batch_size)]


@pytest.mark.parametrize("name", DATASETS)
def test_num_examples_is_the_length(name):
    assert num_examples(DATASETS[name]) == len(DATASETS[name])


@pytest.mark.parametrize("bad", [Stream(), iter([1, 2]), 3, None, {1, 2}])
def test_what_is_no_map_style_data_set_raises(bad):
    rule = (
        f"evaluation must be a map-style data set with __len__ and __getitem__, got {type(bad).__name__}; wrap tensors"
    )
    with pytest.raises(TaskError, match=rule):
        num_examples(bad, "evaluation")


def test_an_empty_data_set_raises():
    with pytest.raises(TaskError, match="train must hold at least one example, got an empty data set"):
        num_examples(TensorDataset(torch.zeros(0, 3)))
