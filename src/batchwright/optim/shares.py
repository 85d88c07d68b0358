"""Work on many matrices shared over the ranks of a process group: each does a part and gives it to the others."""

from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor


def owners(costs: Sequence[float], num_ranks: int) -> list[int]:
    """The rank that does each piece of work: the dearest first, each to the rank with the least so far.

    Example:
        >>> owners([1.0, 5.0, 4.0, 2.0], 2)
        [0, 0, 1, 1]
    """
    loads, found = [0.0] * num_ranks, [0] * len(costs)
    for number in sorted(range(len(costs)), key=lambda each: (-costs[each], each)):
        rank = loads.index(min(loads))
        found[number] = rank
        loads[rank] += costs[number]
    return found


def shared(
    matrices: Sequence[Tensor],
    work: Callable[[Sequence[Tensor]], Sequence[Tensor]],
    *,
    costs: Sequence[float],
    group: dist.ProcessGroup | None,
) -> list[Tensor]:
    """``work(matrices)``, each matrix on one rank of ``group``; all ranks get all results, of the shapes and types of the matrices.

    All ranks must hold equal matrices, as they do under DDP, and must all call. One message of each rank and type carries its
    results.
    """
    if group is None or not matrices or dist.get_world_size(group) == 1:
        return list(work(matrices))
    rank, num_ranks = dist.get_rank(group), dist.get_world_size(group)
    owner = owners(costs, num_ranks)
    mine = [number for number in range(len(matrices)) if owner[number] == rank]
    found: list[Tensor | None] = [None] * len(matrices)
    for number, mine_found in zip(mine, work([matrices[number] for number in mine]), strict=True):
        found[number] = mine_found.to(matrices[number].dtype)
    for source in range(num_ranks):
        theirs = [number for number in range(len(matrices)) if owner[number] == source]
        for dtype in sorted({matrices[number].dtype for number in theirs}, key=str):
            numbers = [number for number in theirs if matrices[number].dtype == dtype]
            sizes = [matrices[number].numel() for number in numbers]
            if source == rank:
                results = [found[number] for number in numbers]
                buffer = torch.cat([result.reshape(-1) for result in results if result is not None])
            else:
                buffer = torch.empty(sum(sizes), dtype=dtype, device=matrices[numbers[0]].device)
            dist.broadcast(buffer, src=dist.get_global_rank(group, source), group=group)
            for number, part in zip(numbers, buffer.split(sizes), strict=True):
                found[number] = part.view(matrices[number].shape)
    return [result for result in found if result is not None]
