"""Whatever a user has to train on, as one stream of examples from which batches of any size are taken."""

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset, default_collate

from batchwright.core.checks import check_choice
from batchwright.core.errors import InputError
from batchwright.data.loader_stream import LoaderStream, is_loader
from batchwright.data.map_stream import LAST_BATCHES, Collate, MapStream

# One rank's examples: a batch is begun with `reserve`, taken in parts with `take`, and ended with `commit`.
Stream = MapStream | LoaderStream


def make_stream(
    dataset: Any,
    *,
    seed: int = 0,
    shuffle: bool = True,
    last: str = "short",
    collate_fn: Collate | None = None,
    num_workers: int = 0,
    chunk_size: int = 32,
    pin_memory: bool = False,
    rank: int = 0,
    world_size: int = 1,
) -> Stream:
    """A stream over a map-style data set, an iterable one, or a DataLoader whose batches are cut anew.

    Args:
        dataset: Map-style (``__len__`` and ``__getitem__``), an iterable of examples, or a DataLoader.
        seed: Of the order and of the workers' random numbers.
        shuffle: Only for a map-style data set; what is iterable has its own order.
        last: ``short``, ``wrap`` (only map-style) or ``drop``; see `MapStream`.
        collate_fn: Makes a batch of a list of examples; not for a DataLoader, which has its own.
        num_workers: Processes that fetch ahead; not for a DataLoader.
        chunk_size: Examples that are fetched at a time by a worker or from an iterable data set.
        pin_memory: As of `DataLoader`.
        rank: Number of this process. What is iterable must give each rank its own examples by itself.
        world_size: Number of processes.

    Raises:
        InputError: If the data set is none of these, or an option does not go with it.
    """
    check_choice("last", last, LAST_BATCHES)
    map_style = hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")
    if map_style and not is_loader(dataset) and not isinstance(dataset, IterableDataset):
        return MapStream(
            dataset,
            seed=seed,
            shuffle=shuffle,
            last=last,
            collate_fn=collate_fn,
            num_workers=num_workers,
            chunk_size=chunk_size,
            pin_memory=pin_memory,
            rank=rank,
            world_size=world_size,
        )
    if last == "wrap":
        raise InputError("last='wrap' must go with a map-style data set, got an iterable one; take 'short' or 'drop'")
    if is_loader(dataset):
        if collate_fn is not None or num_workers:
            raise InputError(
                "collate_fn and num_workers must be left out with a DataLoader, which has its own; give them to the DataLoader"
            )
        if getattr(dataset, "drop_last", False):
            raise InputError(
                "a DataLoader must be made with drop_last=False, got True: examples would be left out by its batches and not by the "
                "engine's; give last='drop' to the engine if the last batch shall be left out"
            )
        stateful = _stateful(dataset, getattr(dataset, "num_workers", 0))
        return LoaderStream(dataset, stateful=stateful, rank=rank, world_size=world_size)
    if not hasattr(dataset, "__iter__") or isinstance(dataset, Iterator):
        raise InputError(
            f"dataset must be map-style, an iterable of examples or a DataLoader, got {type(dataset).__name__}; an iterator can be "
            "gone through once only: give something whose iter() begins anew"
        )
    generator = torch.Generator()
    loader: DataLoader = DataLoader(
        dataset if isinstance(dataset, IterableDataset) else _Examples(dataset),
        batch_size=chunk_size,
        collate_fn=collate_fn or default_collate,
        num_workers=num_workers,
        pin_memory=pin_memory,
        generator=generator,
    )
    return LoaderStream(
        loader,
        stateful=_stateful(loader, num_workers),
        generator=generator,
        seed=seed,
        rank=rank,
        world_size=world_size,
    )


def _stateful(loader: Any, num_workers: int) -> Any:
    """What knows where the source stands: the loader, or its iterable data set where it is gone through in this process."""
    dataset = getattr(loader, "dataset", None)
    candidates = [loader]
    if num_workers == 0 and (isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__")):
        candidates.append(dataset)
    for candidate in candidates:
        if callable(getattr(candidate, "state_dict", None)) and callable(getattr(candidate, "load_state_dict", None)):
            return candidate
    return None


class _Examples(IterableDataset):
    """An iterable of examples that is no class of torch's."""

    def __init__(self, examples: Any) -> None:
        self._examples = examples

    def __getattr__(self, name: str) -> Any:
        if name in ("state_dict", "load_state_dict", "set_epoch"):
            return getattr(self._examples, name)
        raise AttributeError(name)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._examples)
