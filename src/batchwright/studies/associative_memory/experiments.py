"""The experiments of the study; each is a cell, and its record holds one number a seed."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from batchwright.capacity import (
    AssociativeMemory,
    Muon,
    make_update,
    newton_schulz_depth,
    one_step,
    recovered_items,
    summarise,
    thresholded_step,
    train,
)
from batchwright.capacity.updates import Update
from batchwright.studies.study import Place


def num_items(dim: int, alpha: float, *, factor: float = 8.0, cap: int = 40_000) -> int:
    """``factor * d^(1 + 1/(2 alpha))``, but not more than ``cap``."""
    return min(cap, int(factor * dim ** (1 + 1 / (2 * alpha))))


def _recovery(memory: AssociativeMemory, matrix: Tensor, num_queries: int) -> dict[str, list[float]]:
    found = summarise(memory, recovered_items(memory, matrix, num_queries=num_queries))
    return {
        "count": found.count.tolist(),
        "prefix": found.prefix.tolist(),
        "missed_mass": found.missed_mass.tolist(),
    }


def capacity(
    place: Place, *, dim: int, alpha: float, seeds: Sequence[int], cap: int, input_decay: float = 0.0
) -> Mapping[str, Any]:
    """Items stored by one step on the whole law, for each optimizer."""
    number = num_items(dim, alpha, cap=cap)
    memory = AssociativeMemory(dim, number, alpha, tuple(seeds), input_decay=input_decay, device=place.device)
    updates: dict[str, Update] = {
        "sgd": make_update("sgd"),
        "muon": Muon(),
        "smoothed": Muon(smoothing=float(memory.probabilities[dim - 1])),
        "newton": make_update("newton"),
    }
    gradient = memory.negative_gradient()
    queries = num_items(dim, alpha, factor=3.0, cap=number)
    return {
        "num_items": number,
        **{name: _recovery(memory, update(memory, gradient), queries) for name, update in updates.items()},
    }


def batches(
    place: Place, *, dim: int, alpha: float, num_items: int, batch_sizes: Sequence[int], seeds: Sequence[int]
) -> Mapping[str, Any]:
    """Items stored by one step on a batch, against its size, and how many distinct items were in it."""
    memory = AssociativeMemory(dim, num_items, alpha, tuple(seeds), device=place.device)
    found: dict[str, list[Any]] = {"sgd": [], "muon": [], "seen": []}
    for batch_size in batch_sizes:
        smooth = Muon(smoothing=max(float(memory.probabilities[dim - 1]), 1 / batch_size))
        updates: dict[str, Update] = {"sgd": make_update("sgd"), "muon": smooth}
        for name, update in updates.items():
            matrix = one_step(memory, update, batch_size=batch_size)
            found[name].append(_recovery(memory, matrix, num_items))
        found["seen"].append((memory.sample_weights(batch_size) > 0).sum(-1).tolist())
    return found


def critical_batch(
    place: Place, *, dim: int, alpha: float, seeds: Sequence[int], share: float, largest: int
) -> Mapping[str, Any]:
    """Smallest power of two whose missed mass is within ``share`` of that of the whole law, one a seed; None beyond ``largest``."""
    memory = AssociativeMemory(dim, num_items(dim, alpha), alpha, tuple(seeds), device=place.device)
    bulk, queries = float(memory.probabilities[dim - 1]), num_items(dim, alpha, factor=3.0)
    answer: dict[str, list[int | None]] = {}
    for name in ("sgd", "muon"):

        def missed(batch_size: int | None, name: str = name) -> Tensor:
            smoothing = max(bulk, 1 / batch_size) if batch_size else bulk
            update: Update = Muon(smoothing=smoothing) if name == "muon" else make_update("sgd")
            matrix = one_step(memory, update, batch_size=batch_size)
            return summarise(memory, recovered_items(memory, matrix, num_queries=queries)).missed_mass

        limit = share * missed(None)
        sizes: list[int | None] = [None] * len(seeds)
        batch_size = 1
        while batch_size <= largest and None in sizes:
            enough = missed(batch_size) <= limit
            sizes = [
                size if size is not None else batch_size if ok else None for size, ok in zip(sizes, enough, strict=True)
            ]
            batch_size *= 2
        answer[name] = sizes
    return answer


def depth(place: Place, *, dim: int, alpha: float, seeds: Sequence[int]) -> Mapping[str, Any]:
    """Items stored by Newton-Schulz of several depths, and by the exact polar factor."""
    number = num_items(dim, alpha)
    memory = AssociativeMemory(dim, number, alpha, tuple(seeds), device=place.device)
    gradient, queries = memory.negative_gradient(), num_items(dim, alpha, factor=3.0)
    enough = newton_schulz_depth(dim, alpha)
    depths = sorted({3, 5, 7, 9, 11, 14, enough})
    return {
        "enough": enough,
        "polar": _recovery(memory, Muon()(memory, gradient), queries),
        "depths": depths,
        "newton_schulz": [
            _recovery(memory, Muon(newton_schulz_steps=steps)(memory, gradient), queries) for steps in depths
        ],
    }


def thresholded(
    place: Place, *, dim: int, alpha: float, num_items: int, removed: Sequence[int], seeds: Sequence[int]
) -> Mapping[str, Any]:
    """New items of one step once the most frequent have dropped out, for SGD and Muon."""
    memory = AssociativeMemory(dim, num_items, alpha, tuple(seeds), device=place.device)
    return {
        name: [thresholded_step(memory, make_update(name), num_removed=number).sum(-1).tolist() for number in removed]
        for name in ("sgd", "muon")
    }


def softmax(
    place: Place,
    *,
    dim: int,
    num_items: int,
    alpha: float,
    optimizer: str,
    lr: float,
    record_at: Sequence[int],
    seeds: Sequence[int],
) -> Mapping[str, Any]:
    """Items stored and loss along full-batch training on the true softmax."""
    memory = AssociativeMemory(dim, num_items, alpha, tuple(seeds), device=place.device)
    snapshots = train(memory, make_update(optimizer), lr=lr, num_steps=max(record_at), record_at=record_at)
    return {
        "steps": [each.step for each in snapshots],
        "count": [each.recovery.count.tolist() for each in snapshots],
        "loss": [each.loss.tolist() for each in snapshots],
        "num_gradients": float(num_items * max(record_at) * len(seeds)),
    }
