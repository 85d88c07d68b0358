"""What one use of a parameter gives to the gradient of each example, held as factors and not as ``B`` gradients.

Sources: Goodfellow (2015), arXiv:1510.01799 (norms from the two factors); Li et al. (2022), arXiv:2110.05679, section 4 (the
same for sequences, by Gram matrices). A norm comes either from Gram matrices, beside the ordinary gradient, or from the
gradients of a few examples at a time, whose sum then is the ordinary gradient and costs next to nothing.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# Scratch memory of a chunk of examples: on a CPU it should stay in the cache, on a GPU it should fill the device.
CHUNK_BYTES = {"cpu": 2**21}
CHUNK_BYTES_ELSEWHERE = 2**26
# A gradient element that is written, squared and summed takes about as long as this many multiply-adds of a Gram matrix.
# On a Zen 4 core 4 to 64 differ by 5 %, for layers of 3 to 1024 features and sequences of 1 to 64.
GRAM_PRODUCTS_AN_ELEMENT = 16
BLOCK = 4096


class Contribution(ABC):
    """The per-example gradients of one use of a parameter."""

    __slots__ = ()

    @property
    @abstractmethod
    def factor(self) -> Tensor:
        """One of the tensors it is made of, with the examples first."""

    @property
    @abstractmethod
    def bytes_an_example(self) -> int:
        """Scratch memory that `grads` takes for one example."""

    @abstractmethod
    def grads(self, start: int, stop: int) -> Tensor:
        """Gradients of examples ``start`` to ``stop``, shape ``(stop - start, *parameter shape)``."""

    @abstractmethod
    def total(self) -> Tensor:
        """Sum of the gradients over the examples: the ordinary gradient."""

    def sq_norms(self, *, with_total: bool) -> tuple[Tensor, Tensor | None]:
        """Squared norms ``(B,)`` in float64 and, if asked for, `total`; here from the gradients of a few examples at a time."""
        sq_norms, total = [], None
        for start, stop in self.chunks():
            grads = self.grads(start, stop)
            sq_norms.append(row_sq_norms(grads))
            if with_total:
                part = grads.sum(dim=0)
                total = part if total is None else total.add_(part)
        return torch.cat(sq_norms), total

    def chunks(self, bytes_an_example: int | None = None) -> Iterator[tuple[int, int]]:
        """Ranges of examples whose scratch memory stays within bounds."""
        return chunks(self.factor, self.bytes_an_example if bytes_an_example is None else bytes_an_example)


@dataclass(frozen=True, slots=True)
class Dense(Contribution):
    """Gradients that are small enough to be held: of biases, of norm layers, of what is added or multiplied.

    Attributes:
        values: Shape ``(B, *parameter shape)``.
    """

    values: Tensor

    @property
    def factor(self) -> Tensor:
        """The gradients."""
        return self.values

    @property
    def bytes_an_example(self) -> int:
        """Size of one gradient."""
        return self.values[0].numel() * self.values.element_size()

    def grads(self, start: int, stop: int) -> Tensor:
        """Some of the gradients, as a view."""
        return self.values[start:stop]

    def total(self) -> Tensor:
        """Their sum."""
        return self.values.sum(dim=0)

    def sq_norms(self, *, with_total: bool) -> tuple[Tensor, Tensor | None]:
        """Squared norms and sum in one go."""
        return row_sq_norms(self.values), self.total() if with_total else None


@dataclass(frozen=True, slots=True)
class OuterProducts(Contribution):
    """Sums of outer products ``sum_t left[b, t] right[b, t]^T``: the gradient of a matrix that multiplies rows.

    Attributes:
        left: Shape ``(B, T, rows of the matrix)``.
        right: Shape ``(B, T, columns of the matrix)``.
    """

    left: Tensor
    right: Tensor

    @property
    def factor(self) -> Tensor:
        """The left factor."""
        return self.left

    @property
    def bytes_an_example(self) -> int:
        """Size of the matrix."""
        return self.left.shape[2] * self.right.shape[2] * self.left.element_size()

    def grads(self, start: int, stop: int) -> Tensor:
        """One matrix product an example."""
        return torch.bmm(self.left[start:stop].transpose(1, 2), self.right[start:stop])

    def total(self) -> Tensor:
        """One matrix product over all examples."""
        return self.left.flatten(0, 1).t() @ self.right.flatten(0, 1)

    def sq_norms(self, *, with_total: bool) -> tuple[Tensor, Tensor | None]:
        """By Gram matrices where they are cheaper."""
        length, num_rows = self.left.shape[1:]
        if not gram_is_cheaper(length, num_rows, self.right.shape[2]):
            return Contribution.sq_norms(self, with_total=with_total)
        sq_norms = [
            gram_sq_norms(self.left[start:stop], self.right[start:stop])
            for start, stop in self.chunks(2 * length * length * self.left.element_size())
        ]
        return torch.cat(sq_norms), self.total() if with_total else None


@dataclass(frozen=True, slots=True)
class Lookups(Contribution):
    """Rows added at an index: the gradient of a table from which rows were read.

    Attributes:
        indices: Shape ``(B, T)``.
        values: Shape ``(B, T, columns of the table)``.
        num_rows: Rows of the table.
    """

    indices: Tensor
    values: Tensor
    num_rows: int

    @property
    def factor(self) -> Tensor:
        """What is added."""
        return self.values

    @property
    def bytes_an_example(self) -> int:
        """Size of the table."""
        return self.num_rows * self.values.shape[2] * self.values.element_size()

    def grads(self, start: int, stop: int) -> Tensor:
        """One table an example."""
        return _add_up(self.indices[start:stop], self.values[start:stop], self.num_rows)

    def total(self) -> Tensor:
        """One table for all."""
        table = self.values.new_zeros(self.num_rows, self.values.shape[2])
        return table.index_add_(0, self.indices.flatten(), self.values.flatten(0, 1))

    def sq_norms(self, *, with_total: bool) -> tuple[Tensor, Tensor | None]:
        """Equal indices of an example meet in a table with no more rows than the example has indices."""
        ordered, order = self.indices.sort(dim=1)
        rank = torch.zeros_like(ordered)
        rank[:, 1:] = (ordered[:, 1:] != ordered[:, :-1]).cumsum(dim=1)
        group = torch.empty_like(rank).scatter_(1, order, rank)
        length, num_columns = self.values.shape[1:]
        sq_norms = [
            row_sq_norms(_add_up(group[start:stop], self.values[start:stop], length))
            for start, stop in self.chunks(length * num_columns * self.values.element_size())
        ]
        return torch.cat(sq_norms), self.total() if with_total else None


def _add_up(indices: Tensor, values: Tensor, num_rows: int) -> Tensor:
    offsets = torch.arange(len(indices), device=indices.device)[:, None] * num_rows
    tables = values.new_zeros(len(indices) * num_rows, values.shape[2])
    tables.index_add_(0, (indices + offsets).flatten(), values.flatten(0, 1))
    return tables.view(len(indices), num_rows, -1)


def row_sq_norms(values: Tensor) -> Tensor:
    """Squared norm of each row, in float64; half precision is widened before it is squared."""
    if values.numel() == 0:
        return torch.zeros(len(values), dtype=torch.float64, device=values.device)
    wide = torch.promote_types(values.dtype, torch.float32)
    flat = values.reshape(len(values), -1)
    whole = flat.shape[1] // BLOCK * BLOCK
    # A float32 norm over millions of elements is off by 1e-4 on a CPU, so blocks are added up in float64.
    blocks = torch.linalg.vector_norm(flat[:, :whole].unflatten(1, (-1, BLOCK)), dim=2, dtype=wide)
    rest = torch.linalg.vector_norm(flat[:, whole:], dim=1, dtype=wide)
    return torch.add(blocks.double().square().sum(dim=1), rest.double().square())


def chunks(factor: Tensor, bytes_an_example: int) -> Iterator[tuple[int, int]]:
    """Ranges of the rows of ``factor`` whose scratch memory stays within bounds; at least one row each."""
    allowed = CHUNK_BYTES.get(factor.device.type, CHUNK_BYTES_ELSEWHERE)
    size = max(1, allowed // max(1, bytes_an_example))
    for start in range(0, len(factor), size):
        yield start, min(start + size, len(factor))


def gram_is_cheaper(length: int, num_rows: int, num_columns: int) -> bool:
    """Whether Gram matrices of ``length`` rows cost less than making each gradient of this shape."""
    return length * length * (num_rows + num_columns) <= GRAM_PRODUCTS_AN_ELEMENT * num_rows * num_columns


def gram_sq_norms(left: Tensor, right: Tensor) -> Tensor:
    """Squared norms of ``sum_t left[b, t] right[b, t]^T``: the sum of the product of the two Gram matrices."""
    if left.shape[1] == 1:
        return row_sq_norms(left) * row_sq_norms(right)
    products = OuterProducts(left, right)
    return _inner(products, products).clamp_(min=0)


def sum_sq_norms(parts: Sequence[OuterProducts | Lookups]) -> Tensor | None:
    """Squared norms of the sum of several uses of one matrix, from inner products; None where gradients are cheaper."""
    first = parts[0]
    num_columns = _right(first).shape[2]
    num_elements = first.bytes_an_example // first.factor.element_size()
    longest = max(_right(part).shape[1] for part in parts)
    widest = max(part.left.shape[2] if isinstance(part, OuterProducts) else 0 for part in parts)
    if (len(parts) * longest) ** 2 * (num_columns + widest) > GRAM_PRODUCTS_AN_ELEMENT * num_elements:
        return None
    found = []
    for start, stop in first.chunks(3 * longest**2 * first.factor.element_size()):
        cut = [_cut(part, start, stop) for part in parts]
        pairs = [_inner(one, other) for one in cut for other in cut]
        found.append(torch.stack(pairs).sum(dim=0).clamp_(min=0))
    return torch.cat(found)


def _right(part: OuterProducts | Lookups) -> Tensor:
    return part.values if isinstance(part, Lookups) else part.right


def _cut(part: OuterProducts | Lookups, start: int, stop: int) -> OuterProducts | Lookups:
    if isinstance(part, Lookups):
        return Lookups(part.indices[start:stop], part.values[start:stop], part.num_rows)
    return OuterProducts(part.left[start:stop], part.right[start:stop])


def _inner(one: OuterProducts | Lookups, other: OuterProducts | Lookups) -> Tensor:
    """Inner product of two gradients of each example: ``sum_{t,s} (left_t . left_s) (right_t . right_s)``.

    The left row of a lookup is the unit vector of its index.
    """
    if isinstance(one, OuterProducts) and isinstance(other, Lookups):
        one, other = other, one
    wide = torch.promote_types(_right(one).dtype, torch.float32)
    if isinstance(one, OuterProducts) and isinstance(other, OuterProducts):
        left = torch.bmm(one.left.to(wide), other.left.to(wide).transpose(1, 2))
    elif isinstance(one, Lookups) and isinstance(other, OuterProducts):
        picked = one.indices[:, None, :].expand(-1, other.left.shape[1], -1)
        left = other.left.to(wide).gather(2, picked).transpose(1, 2)
    else:
        assert isinstance(one, Lookups)
        assert isinstance(other, Lookups)
        left = (one.indices[:, :, None] == other.indices[:, None, :]).to(wide)
    right = torch.bmm(_right(one).to(wide), _right(other).to(wide).transpose(1, 2))
    return right.mul_(left).sum(dim=(1, 2), dtype=torch.float64)
