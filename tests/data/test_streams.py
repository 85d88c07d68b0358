"""Every example once an epoch on any number of ranks, in an order that sizes, ranks and workers do not change; exact resume."""

import random
from itertools import chain

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset, default_collate

from batchwright.core.errors import InputError
from batchwright.data.loader_stream import LoaderStream
from batchwright.data.map_stream import MapStream
from batchwright.data.streams import make_stream


def numbers(count: int) -> TensorDataset:
    return TensorDataset(torch.arange(count))


class Noisy(Dataset):
    """Examples to which each fetch adds random numbers of all three generators."""

    def __len__(self):
        return 37

    def __getitem__(self, index):
        return torch.tensor([index, torch.rand(()).item(), np.random.rand(), random.random()], dtype=torch.float64)


class Counting(IterableDataset):
    """``0 … count - 1``, plus 1000 times the epoch that it was told of."""

    def __init__(self, count: int) -> None:
        self.count, self.epoch = count, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self):
        for number in range(self.count):
            yield torch.tensor(1000 * self.epoch + number)


class Stateful(IterableDataset):
    """The same with a state, and a count of how many examples it has made."""

    def __init__(self, count: int) -> None:
        self.count, self.next, self.made = count, 0, 0

    def __iter__(self):
        while self.next < self.count:
            self.next += 1
            self.made += 1
            yield torch.tensor(self.next - 1)
        self.next = 0

    def state_dict(self):
        return {"next": self.next}

    def load_state_dict(self, state):
        self.next = state["next"]


def draw(stream, size: int, rng: random.Random) -> list:
    """One batch, taken in random parts; empty at the end of an epoch."""
    if not stream.reserve(size):
        return []
    found = []
    while not stream.exhausted:
        want = rng.randint(1, max(1, stream.share))
        batch, count = stream.take(min(want, stream.share - len(found)))
        batch = batch[0] if isinstance(batch, (list, tuple)) else batch
        assert len(batch) == count
        found += batch.tolist()
    stream.commit()
    return found


def epochs_of(make, rng, count, num_epochs, num_ranks=1):
    """Examples of each epoch in the order of the places, all ranks together, in batches of random sizes."""
    streams = [make(rank, num_ranks) for rank in range(num_ranks)]
    found = [[] for _ in range(num_epochs)]
    while streams[0].epoch < num_epochs:
        epoch, size = streams[0].epoch, rng.randint(1, count)
        parts = [draw(stream, size, rng) for stream in streams]
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
        for part in parts:
            found[epoch] += part
        assert len({stream.epoch for stream in streams}) == 1
    return found


@pytest.mark.parametrize("seed", range(12))
def test_every_example_comes_once_an_epoch_on_any_number_of_ranks(seed):
    rng = random.Random(seed)
    count, num_ranks = rng.randint(5, 60), rng.randint(1, 4)

    def make(rank, num_ranks):
        return MapStream(numbers(count), seed=seed, rank=rank, world_size=num_ranks)

    found = epochs_of(make, rng, count, 4, num_ranks)
    assert all(sorted(epoch) == list(range(count)) for epoch in found)
    assert found[0] != found[1]


def test_one_rank_gives_the_order_of_the_sampler_whatever_the_sizes():
    from batchwright.data.samplers import EpochSampler

    stream, sampler, rng = MapStream(numbers(23), seed=5), EpochSampler(23, 5), random.Random(0)
    found = []
    while stream.epoch < 3:
        found += draw(stream, rng.randint(1, 9), rng)
    assert found == sampler.take(23).tolist() + sampler.take(23).tolist() + sampler.take(23).tolist()


def test_a_batch_is_the_same_set_of_examples_on_any_number_of_ranks():
    for last in ("short", "wrap", "drop"):
        batches = {}
        for num_ranks in (1, 2, 3, 5):
            streams = [
                MapStream(numbers(31), seed=1, last=last, rank=rank, world_size=num_ranks) for rank in range(num_ranks)
            ]
            rng = random.Random(7)
            sizes = [rng.randint(1, 12) for _ in range(20)]
            batches[num_ranks] = [sorted(chain(*[draw(s, size, rng) for s in streams])) for size in sizes]
        assert batches[1] == batches[2] == batches[3] == batches[5]


def test_without_shuffling_the_order_is_the_data_sets_own():
    stream = MapStream(numbers(10), shuffle=False)
    assert draw(stream, 7, random.Random(0)) == list(range(7))


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("last", ["short", "wrap", "drop"])
def test_a_restored_stream_goes_on_exactly(num_workers, last):
    def make():
        return MapStream(numbers(41), seed=3, last=last, num_workers=num_workers, chunk_size=6)

    rng = random.Random(0)
    sizes = [rng.randint(1, 15) for _ in range(12)]
    whole = make()
    expected = [draw(whole, size, rng) for size in sizes]
    for cut in (1, 4, 9):
        first = make()
        assert [draw(first, size, rng) for size in sizes[:cut]] == expected[:cut]
        second = make()
        second.load_state_dict(first.state_dict())
        assert [draw(second, size, rng) for size in sizes[cut:]] == expected[cut:]


def test_workers_random_numbers_depend_on_nothing_but_the_example():
    def values(num_workers, sizes, cut=None):
        stream = MapStream(Noisy(), seed=2, num_workers=num_workers, chunk_size=5)
        found = []
        for number, size in enumerate(sizes):
            if number == cut:
                state = stream.state_dict()
                stream = MapStream(Noisy(), seed=2, num_workers=num_workers, chunk_size=5)
                stream.load_state_dict(state)
            stream.reserve(size)
            batch, _ = stream.take(size)
            found += batch.tolist()
            stream.commit()
        return found

    torch.manual_seed(0)
    before = torch.get_rng_state()
    one = values(1, [7, 9, 8, 13])
    assert torch.equal(torch.get_rng_state(), before)
    assert one == values(2, [7, 9, 8, 13]) == values(2, [10, 10, 10, 7]) == values(2, [7, 9, 8, 13], cut=2)
    assert len({tuple(row[1:]) for row in one}) == 37


def test_a_collate_function_makes_the_batches():
    def collate(examples):
        return {"x": torch.stack([x for (x,) in examples]) * 10}

    for num_workers in (0, 1):
        stream = MapStream(numbers(8), shuffle=False, collate_fn=collate, num_workers=num_workers, chunk_size=3)
        stream.reserve(5)
        assert stream.take(5)[0]["x"].tolist() == [0, 10, 20, 30, 40]


def test_rewind_gives_the_batch_again():
    for stream in (
        make_stream(numbers(20), num_workers=0),
        make_stream(numbers(20), num_workers=1, chunk_size=3),
        make_stream(DataLoader(numbers(20), batch_size=3, shuffle=True)),
    ):
        stream.reserve(4)
        stream.take(4)
        stream.commit()
        stream.reserve(9)
        stream.keep()
        first = list(chain(*[stream.take(n)[0][0].tolist() for n in (5, 4)]))
        stream.rewind()
        again = list(chain(*[stream.take(n)[0][0].tolist() for n in (2, 2, 5)]))
        assert first == again


# Iterable data sets and DataLoaders


def drain(stream, rng, num_epochs):
    found = [[] for _ in range(num_epochs)]
    while stream.epoch < num_epochs:
        found[stream.epoch] += draw(stream, rng.randint(1, 11), rng)
        if not stream.has_more:
            stream.next_epoch()
    return found


@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_iterable_gives_all_its_examples_each_epoch_in_order(num_workers):
    stream = make_stream(Counting(29), num_workers=num_workers, chunk_size=4)
    found = drain(stream, random.Random(0), 3)
    assert found == [[1000 * epoch + n for n in range(29)] for epoch in range(3)]


def test_a_loader_is_cut_anew_with_all_its_examples():
    torch.manual_seed(0)
    stream = make_stream(DataLoader(numbers(29), batch_size=8, shuffle=True))
    found = drain(stream, random.Random(0), 3)
    assert all(sorted(epoch) == list(range(29)) for epoch in found)
    assert found[0] != found[1]


def test_an_object_that_is_only_iterable_holds_examples():
    class Words:
        def __iter__(self):
            return iter([torch.tensor(3), torch.tensor(5)])

    stream = make_stream(Words(), chunk_size=2)
    assert isinstance(stream, LoaderStream)
    assert drain(stream, random.Random(0), 2) == [[3, 5], [3, 5]]


def loaders():
    return {
        "iterable": lambda: make_stream(Counting(43), chunk_size=4),
        "iterable with a worker": lambda: make_stream(Counting(43), chunk_size=4, num_workers=1),
        "stateful": lambda: make_stream(Stateful(43), chunk_size=4),
        "loader": lambda: make_stream(DataLoader(numbers(43), batch_size=5, shuffle=True)),
        "loader with a generator": lambda: make_stream(
            DataLoader(numbers(43), batch_size=5, shuffle=True, generator=torch.Generator().manual_seed(9))
        ),
        "loader with a worker": lambda: make_stream(DataLoader(numbers(43), batch_size=5, shuffle=True, num_workers=1)),
    }


@pytest.mark.parametrize("name", loaders())
def test_a_restored_loader_goes_on_exactly(name):
    make = loaders()[name]
    sizes = [7, 9, 2, 13, 12, 7, 9, 11, 16, 8]

    def go(stream, sizes):
        found = []
        for size in sizes:
            found.append(draw(stream, size, random.Random(0)))
            if not stream.has_more:
                stream.next_epoch()
            torch.rand(3)  # a model draws numbers too
        return found

    torch.manual_seed(1)
    expected = go(make(), sizes)
    for cut in (1, 4, 5, 7):
        torch.manual_seed(1)
        first = make()
        assert go(first, sizes[:cut]) == expected[:cut]
        state, generator = first.state_dict(), torch.get_rng_state()
        torch.manual_seed(77)
        second = make()
        torch.set_rng_state(generator)
        second.load_state_dict(state)
        assert second.state_dict() == state
        assert go(second, sizes[cut:]) == expected[cut:]


def test_a_source_with_a_state_is_not_gone_through_again():
    first = make_stream(Stateful(1000), chunk_size=4)
    for _ in range(50):
        draw(first, 10, random.Random(0))
    source = Stateful(1000)
    second = make_stream(source, chunk_size=4)
    second.load_state_dict(first.state_dict())
    assert draw(second, 10, random.Random(0)) == list(range(500, 510))
    assert source.made < 20


def test_what_cannot_be_a_stream_is_refused_with_the_way_out():
    with pytest.raises(InputError, match="iterator can be gone through once only"):
        make_stream(iter([torch.tensor(1)]))
    with pytest.raises(InputError, match="dataset must be map-style, an iterable of examples or a DataLoader, got int"):
        make_stream(3)
    with pytest.raises(InputError, match="last='wrap' must go with a map-style data set"):
        make_stream(Counting(3), last="wrap")
    with pytest.raises(InputError, match="collate_fn and num_workers must be left out with a DataLoader"):
        make_stream(DataLoader(numbers(3)), collate_fn=default_collate)
    with pytest.raises(InputError, match="drop_last=False, got True"):
        make_stream(DataLoader(numbers(3), batch_size=2, drop_last=True))
    with pytest.raises(InputError, match="at least one example an epoch, got none"):
        make_stream(Counting(0)).reserve(3)
    with pytest.raises(InputError, match="got 4 for 3; nothing would ever be trained on"):
        make_stream(numbers(3), last="drop").reserve(4)
    with pytest.raises(InputError, match="state must be that of a map-style data set of 3 examples, got map of 4"):
        make_stream(numbers(3)).load_state_dict(make_stream(numbers(4)).state_dict())
    with pytest.raises(InputError, match="state must be that of a DataLoader or an iterable data set, got map"):
        make_stream(Counting(3)).load_state_dict(make_stream(numbers(4)).state_dict())
    stream = make_stream(Counting(30))
    draw(stream, 20, random.Random(0))
    shorter = make_stream(Counting(9))
    shorter.load_state_dict(stream.state_dict())
    with pytest.raises(InputError, match="had used 20 examples of this epoch, got one of 9"):
        shorter.reserve(3)
