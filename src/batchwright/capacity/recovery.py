"""Which items a matrix has stored.

Source: Kim et al. (2026), arXiv:2603.26554: an item is recovered when its own output has the highest score of all.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from batchwright.capacity.memory import AssociativeMemory
from batchwright.core.checks import check_int

# Of the items up to an index, the share that must be recovered for the index to belong to the prefix.
PREFIX_SHARE = 0.9


@dataclass(frozen=True, kw_only=True, slots=True)
class Recovery:
    """What is stored, one number a seed; shapes are ``()`` for a memory of one seed.

    Attributes:
        count: Recovered items among the queried ones.
        prefix: Largest ``k`` such that at least 90 % of the ``k`` most frequent items are recovered.
        missed_mass: Probability of an item that is not recovered. Items that were not queried count as missed.
        num_queries: Most frequent items that were queried.
    """

    count: Int[Tensor, " ..."]
    prefix: Int[Tensor, " ..."]
    missed_mass: Float[Tensor, " ..."]
    num_queries: int


def recovered_items(
    memory: AssociativeMemory, matrix: Float[Tensor, "... d d"], *, num_queries: int | None = None, first: int = 0
) -> Bool[Tensor, "... Q"]:
    """Whether each of the items ``first .. num_queries - 1`` has the highest score for its own input, against all outputs.

    The zero matrix, whose scores are all alike, has stored nothing.

    Args:
        memory: The pairs.
        matrix: ``W``; its scale is of no account.
        num_queries: End of the queried items; all where left out.
        first: Begin of the queried items, counted from 0.
    """
    end = memory.num_items if num_queries is None else check_int("num_queries", num_queries, at_least=1)
    end = min(end, memory.num_items)
    rows = torch.arange(first, end, device=memory.device)
    # Scores of a matrix of 1e-6 would be lost in float32 beside others; their order does not depend on its scale.
    top = matrix.abs().amax((-2, -1), keepdim=True)
    scaled = matrix / torch.where(top > 0, top, 1)
    found = [memory.scores(scaled, part).argmax(-1) == part for part in memory.chunks(rows)]
    return torch.cat(found, -1) & (top.squeeze(-1) > 0)


def summarise(memory: AssociativeMemory, recovered: Bool[Tensor, "... Q"]) -> Recovery:
    """Count, prefix and missed mass of `recovered_items` from the first item on."""
    number = recovered.shape[-1]
    places = torch.arange(1, number + 1, device=recovered.device)
    enough = recovered.cumsum(-1) >= PREFIX_SHARE * places
    shares = memory.probabilities[:number]
    return Recovery(
        count=recovered.sum(-1),
        prefix=(enough * places).amax(-1),
        missed_mass=1 - (recovered * shares).sum(-1),
        num_queries=number,
    )
