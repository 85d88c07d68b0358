"""What the rules share: the parameters, where the examples are, and what each use of a parameter gave."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from batchwright.core.errors import InputError
from batchwright.measure.per_example.axis import ExampleAxis, find_axis
from batchwright.measure.per_example.contributions import Contribution
from batchwright.measure.per_example.ledger import Ledger, Use


@dataclass(eq=False, slots=True)
class TableRead:
    """Rows read from a table at indices that may belong to no example, such as positions.

    Attributes:
        rows: What was read, of shape ``(*indices.shape, columns)``; held, so that its identity stays its own.
        indices: Where it was read.
        table: The table.
        use: The use already opened where the indices may also be one for each example.
    """

    rows: Tensor
    indices: Tensor
    table: Tensor
    use: Use | None


class Recorder:
    """One set of books for a model: filled by the rules in forward and backward passes, read by `take`.

    Attributes:
        ledgers: One for each trainable parameter, by name.
        keep_gradient: Whether rules return the ordinary gradient.
        num_examples: Examples ``B``; None until it is known.
        time_first: Whether the examples are now the second axis, as inside multi-head attention.
        coarsest_eps: Machine epsilon of the coarsest numbers that a norm was made of so far.
        following: The context in which calls are followed, for rules that look inside a call.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], *, keep_gradient: bool) -> None:
        self.ledgers = {name: Ledger(parameter) for name, parameter in parameters.items()}
        self.keep_gradient = keep_gradient
        self.num_examples: int | None = None
        self.time_first = False
        self.coarsest_eps = 0.0
        self.following: AbstractContextManager[Any] = nullcontext()
        self._by_id = {id(ledger.parameter): ledger for ledger in self.ledgers.values()}
        self._reads: dict[int, TableRead] = {}
        self._lengths: set[int] = set()  # numbers of examples that went backward
        self._device = next(iter(parameters.values())).device

    def axis(self, leading: Sequence[int]) -> ExampleAxis | None:
        """The example axis of a tensor with these leading axes, or None."""
        if self.num_examples is None:
            raise InputError(
                "num_examples must be given where the model is not called as a whole, got none; "
                "use PerExampleNorms(model, num_examples=...)"
            )
        return find_axis(leading, self.num_examples, time_first=self.time_first)

    def ledger(self, tensor: object) -> Ledger | None:
        """The ledger of the trainable parameter that ``tensor`` is, or is a view of."""
        return self._by_id.get(id(_root(tensor))) if isinstance(tensor, Tensor) else None

    def read(self, tensor: object) -> TableRead | None:
        """The table read that ``tensor`` is, or is a view of."""
        return self._reads.get(id(_root(tensor))) if self._reads and isinstance(tensor, Tensor) else None

    def note_read(self, read: TableRead) -> None:
        """Remember rows whose examples are only seen where they are used."""
        self._reads[id(read.rows)] = read

    def open(self, tensor: Tensor | None) -> Use | None:
        """A use of a trainable parameter; None for any other tensor."""
        ledger = self.ledger(tensor)
        if ledger is None or tensor is None:
            return None
        # A forward pass inside a backward pass belongs to it: a checkpointed segment is computed again.
        if self._lengths and torch._C._current_graph_task_id() == -1:
            raise InputError(
                "norms must be read after each backward pass, got another forward pass; call norms.squared()"
            )
        return ledger.open(tensor)

    def add(self, use: Use | None, contribution: Contribution, *, with_total: bool = True) -> Tensor | None:
        """Take in what a use gave; returns the ordinary gradient where it is wanted and kept."""
        if use is None:  # not a trainable parameter, but something behind it wants the gradient
            return contribution.total()
        self._lengths.add(len(contribution.factor))
        self.coarsest_eps = max(self.coarsest_eps, torch.finfo(contribution.factor.dtype).eps)
        return use.ledger.add(use, contribution, with_total=with_total and self.keep_gradient)

    @contextmanager
    def inside(self, *, time_first: bool) -> Iterator[None]:
        """Follow the calls inside a call, with the examples on the second axis where ``time_first``."""
        before, self.time_first = self.time_first, time_first
        try:
            with self.following:
                yield
        finally:
            self.time_first = before

    def take(self) -> dict[str, Tensor]:
        """Squared norms ``(B,)`` of each parameter that could be followed; then all is forgotten."""
        if not self._lengths and not any(ledger.unfollowed for ledger in self.ledgers.values()):
            raise InputError("norms are known after a backward pass, got none; call backward() before they are read")
        if len(self._lengths) > 1:
            raise InputError(
                f"one backward pass must be of one batch, got {sorted(self._lengths)} examples; read each apart"
            )
        num_examples = next(iter(self._lengths), self.num_examples or 0)
        found = {
            name: ledger.close(num_examples, self._device)
            for name, ledger in self.ledgers.items()
            if not ledger.unfollowed
        }
        self.clear()
        return found

    def clear(self) -> None:
        """Forget what was recorded."""
        self._lengths.clear()
        self._reads.clear()
        for ledger in self.ledgers.values():
            ledger.clear()


def _root(tensor: Tensor) -> Tensor:
    return tensor if tensor._base is None else tensor._base
