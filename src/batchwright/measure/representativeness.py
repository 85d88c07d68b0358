"""How far mini-batches, shards, ranks or curriculum stages are from the data set that they stand for, with a test.

The distance is the squared MMD of a part to the data set, which sees any difference of the laws of the features, not of
their means alone.

Sources: Gretton et al. (2012), JMLR 13 (MMD, permutation test); the expectation under uniform draws is that of a mean of a finite
population, here of the mean embedding.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from batchwright.core.checks import check_int
from batchwright.core.errors import InputError
from batchwright.core.kernels import Kernel, median_gaussians
from batchwright.core.mmd.permutation import permutation_p_value, subset_sums

Features = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True, slots=True)
class PartDistance:
    """Distance of one part, or of the batches of one size, to the data set.

    Attributes:
        name: ``batches of B``, or the name of the part.
        batch_size: Examples in the part or in each batch.
        num_batches: Batches that ``mmd2`` is the mean over; 1 for a part.
        mmd2: Squared MMD to the data set, itself seen as the population; never negative.
        expected: Its expectation for uniform draws without replacement, in closed form; falls as ``1 / batch_size``.
        p_value: Chance that uniform draws of these sizes are at least as far; exact.
        adjusted_p_value: Holm's, over all rows of one call.
    """

    name: str
    batch_size: int
    num_batches: int
    mmd2: float
    expected: float
    p_value: float
    adjusted_p_value: float

    @property
    def ratio(self) -> float:
        """``mmd2 / expected``: about 1 for uniform draws; ``R`` where a batch stands for the data as one ``R`` times smaller should."""
        return self.mmd2 / self.expected if self.expected > 0 else float("nan")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Row:
    """Disjoint parts of equal size, as places in a pool of points."""

    name: str
    pool: Tensor
    size: int
    num_batches: int


def batch_representativeness(
    data: Float[Tensor, "N ..."],
    order: Int[Tensor, " K"] | Sequence[int] | None = None,
    *,
    batch_sizes: Sequence[int] = (),
    parts: Mapping[str, Tensor] | None = None,
    features: Features | None = None,
    kernel: Kernel | None = None,
    num_batches: int = 16,
    num_draws: int = 199,
    max_examples: int = 2000,
    generator: torch.Generator | None = None,
) -> tuple[PartDistance, ...]:
    """Measure how well batches or parts of a data set stand for the whole of it.

    For each batch size the order is cut into consecutive batches, and for each named part the part is taken as it is. The
    mean squared MMD to the data set is compared with that of uniform draws without replacement, through random draws of
    the same sizes. A shuffle buffer that is too short, a sorted file, a shard of one class or a stage of a curriculum
    shows as a ratio above 1 that grows with the batch size; batches that are balanced on purpose show as one below 1,
    which this one-sided test does not reject.

    Args:
        data: The examples, one a row; axes behind the first are flattened.
        order: Indices of examples in the order in which the loader gives them; only with ``batch_sizes``.
        batch_sizes: Sizes at which to cut ``order``.
        parts: By name, indices of examples (an integer vector), or examples of their own (as ``data``, for a batch that a
            loader gave).
        features: Maps rows of examples to features ``(B, h)`` in which to compare; the values themselves where left out.
        kernel: Gaussians around the median distance of the data where left out.
        num_batches: Batches of a size to look at, evenly spread over the order.
        num_draws: Random draws a row; the smallest possible p-value is ``1 / (num_draws + 1)``.
        max_examples: Largest number of points in a comparison; time grows with its square. From a larger data set the
            batches at hand and a uniform choice of the others are kept, which leaves the test exact; a larger part is
            thinned to half of it.
        generator: For the draws; one of its own with seed 0 where left out, so that torch's default generator stays as it was.

    Returns:
        One row a batch size, then one a part.

    Raises:
        InputError: If nothing is to be measured, an index or a size is out of range, or the features are not one row an example.

    Example:
        >>> data = torch.arange(64.0)[:, None]
        >>> halves = {"first half": torch.arange(32)}
        >>> batch_representativeness(data, parts=halves)[0].p_value
        0.005
    """
    check_int("num_draws", num_draws, at_least=19, way_out="fewer cannot reach a p-value of 0.05")
    check_int("num_batches", num_batches, at_least=1)
    check_int("max_examples", max_examples, at_least=8)
    sizes = [check_int("batch size", size, at_least=1) for size in batch_sizes]
    if (order is None) != (not sizes) or (order is None and not parts):
        raise InputError(
            f"order goes with batch_sizes, and one of order and parts must be given, got order={'None' if order is None else 'given'}, "
            f"{len(sizes)} batch_sizes and {len(parts or {})} parts"
        )
    generator = generator or torch.Generator().manual_seed(0)
    points = _features("data", data, features)
    kernel = median_gaussians(points) if kernel is None else kernel
    rows: list[_Row] = []
    if order is not None:
        places = _indices("order", torch.as_tensor(order), len(points), at_least=2)
        if len(places.unique()) < len(places):
            raise InputError("order must hold each index at most once, got one twice; give the order of one epoch")
        rows += [_cut_order(points, places, size, num_batches, max_examples, generator) for size in sizes]
    for name, part in (parts or {}).items():
        rows.append(_part(name, part, points, data, features, max_examples, generator))
    found = [_distance(row, kernel, num_draws, generator) for row in rows]
    return _adjusted(found)


def _features(name: str, examples: Tensor, features: Features | None) -> Tensor:
    with torch.no_grad():
        found = (examples if features is None else features(examples)).flatten(1).float()
    if len(found) != len(examples):
        raise InputError(
            f"features must give one row an example, got {len(found)} rows for {len(examples)} examples of {name}"
        )
    return found


def _indices(name: str, places: Tensor, num: int, *, at_least: int) -> Tensor:
    if places.ndim != 1 or places.is_floating_point() or len(places) < at_least:
        raise InputError(
            f"{name} must be a vector of at least {at_least} indices, got {places.dtype} of shape {tuple(places.shape)}"
        )
    if int(places.min()) < 0 or int(places.max()) >= num:
        raise InputError(
            f"{name} must hold indices from 0 to {num - 1}, got {int(places.min())} to {int(places.max())}"
        )
    return places.long()


def _cut_order(
    points: Tensor, order: Tensor, size: int, num_batches: int, limit: int, generator: torch.Generator | None
) -> _Row:
    whole = len(order) // size
    if whole == 0 or size >= len(points) or size > limit // 2:
        raise InputError(
            f"a batch size must be at most the length of order, below the number of examples and at most half of max_examples, "
            f"got {size} for {len(order)}, {len(points)} and {limit}"
        )
    count = min(whole, num_batches, limit // 2 // size)
    starts = [size * (whole * number // count) for number in range(count)]
    chosen = torch.cat([order[start : start + size] for start in starts])
    pool = torch.cat([chosen, _others(chosen, len(points), limit - len(chosen), generator)])
    return _Row(name=f"batches of {size}", pool=points[pool], size=size, num_batches=count)


def _part(
    name: str,
    part: Tensor,
    points: Tensor,
    data: Tensor,
    features: Features | None,
    limit: int,
    generator: torch.Generator | None,
) -> _Row:
    if part.is_floating_point():
        if part.shape[1:] != data.shape[1:] or len(part) == 0:
            raise InputError(
                f"part {name!r} must hold examples of shape {tuple(data.shape[1:])}, got shape {tuple(part.shape)}"
            )
        own = _thinned(_features(f"part {name!r}", part, features), limit // 2, generator)
        others = _thinned(points, limit - len(own), generator)
    else:
        places = _indices(f"part {name!r}", part, len(points), at_least=1).unique()
        if len(places) == len(points):
            raise InputError(f"part {name!r} must leave some examples out, got all {len(points)}")
        own = _thinned(points[places], limit // 2, generator)
        others = points[_others(places, len(points), limit - len(own), generator)]
    return _Row(name=name, pool=torch.cat([own, others]), size=len(own), num_batches=1)


def _others(chosen: Tensor, num: int, limit: int, generator: torch.Generator | None) -> Tensor:
    left = torch.ones(num, dtype=torch.bool)
    left[chosen] = False
    return _thinned(left.nonzero().squeeze(1), limit, generator)


def _thinned(rows: Tensor, limit: int, generator: torch.Generator | None) -> Tensor:
    return rows if len(rows) <= limit else rows[torch.randperm(len(rows), generator=generator)[:limit]]


def _distance(row: _Row, kernel: Kernel, num_draws: int, generator: torch.Generator | None) -> PartDistance:
    """The mean over the parts of ``||mean embedding of the part - that of the pool||^2``, against random parts."""
    num, size, count = len(row.pool), row.size, row.num_batches
    orders = [torch.arange(num)] + [torch.randperm(num, generator=generator) for _ in range(num_draws)]
    member = torch.zeros(num, (num_draws + 1) * count, dtype=row.pool.dtype)
    columns = torch.arange(count).repeat_interleave(size)
    for draw, order in enumerate(orders):
        member[order[: size * count], draw * count + columns] = 1
    own = kernel.diagonal(row.pool).double()
    both, one, total = subset_sums(row.pool, member.to(row.pool.device), kernel)
    own_sums = own.cpu() @ member.double()
    squared = (both.cpu() + own_sums) / size**2 - 2 * (one.cpu() + own_sums) / (size * num)
    squared += (total.cpu() + own.cpu().sum()) / num**2
    values = squared.reshape(num_draws + 1, count).mean(dim=1)
    spread = float(own.mean()) - float(total.cpu() + own.cpu().sum()) / num**2
    return PartDistance(
        name=row.name,
        batch_size=size,
        num_batches=count,
        mmd2=max(float(values[0]), 0.0),
        expected=spread / size * (num - size) / (num - 1),
        p_value=permutation_p_value(values),
        adjusted_p_value=1.0,
    )


def _adjusted(found: list[PartDistance]) -> tuple[PartDistance, ...]:
    """The same with Holm's p-values: the smallest times the number of rows, the next times one less, and never falling."""
    running, adjusted = 0.0, [0.0] * len(found)
    for rank, number in enumerate(sorted(range(len(found)), key=lambda number: found[number].p_value)):
        running = max(running, min(1.0, (len(found) - rank) * found[number].p_value))
        adjusted[number] = running
    return tuple(
        PartDistance(
            name=row.name,
            batch_size=row.batch_size,
            num_batches=row.num_batches,
            mmd2=row.mmd2,
            expected=row.expected,
            p_value=row.p_value,
            adjusted_p_value=value,
        )
        for row, value in zip(found, adjusted, strict=True)
    )
