"""Book-keeping: which parameter was used where in a forward pass, and what each use gave in the backward pass."""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from batchwright.measure.per_example.contributions import (
    Contribution,
    Lookups,
    OuterProducts,
    row_sq_norms,
    sum_sq_norms,
)


@dataclass(eq=False, slots=True)
class Use:
    """One use of a parameter, or of a view of it, in a forward pass.

    Attributes:
        ledger: The parameter's ledger.
        view: Size, stride and storage offset within the parameter; None for the whole.
        cancelled: Whether another use has taken this one's place.
    """

    ledger: "Ledger"
    view: tuple[torch.Size, tuple[int, ...], int] | None
    cancelled: bool = False

    def extent(self) -> tuple[int, int]:
        """First and last-plus-one element of the parameter's storage that this use can touch."""
        if self.view is None:
            return 0, self.ledger.parameter.numel()
        size, stride, offset = self.view
        return offset, offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) + 1


@dataclass(eq=False, slots=True)
class Ledger:
    """Uses of one parameter and the squared norms they gave so far.

    Attributes:
        parameter: The parameter.
        uses: Its uses in the forward passes since the last reading.
        unfollowed: Whether it was used in a way that no rule knows.
        sq_norms: Squared norms ``(B,)`` of uses that overlap no other.
        pending: Contributions that must be added up before their norm can be taken.
    """

    parameter: nn.Parameter
    uses: list[Use] = field(default_factory=list)
    unfollowed: bool = False
    sq_norms: Tensor | None = None
    pending: list[tuple[Use, Contribution]] = field(default_factory=list)

    def open(self, tensor: Tensor) -> Use:
        """A use of the parameter through ``tensor``, the parameter itself or a view of it."""
        view = None
        if tensor is not self.parameter:
            view = (tensor.shape, tensor.stride(), int(tensor.storage_offset()) - int(self.parameter.storage_offset()))
        use = Use(self, view)
        self.uses.append(use)
        return use

    def add(self, use: Use, contribution: Contribution, *, with_total: bool) -> Tensor | None:
        """Take in what a use gave; returns its sum over the examples if asked for."""
        if use.cancelled:
            return contribution.total() if with_total else None
        if self._overlapped(use):
            self.pending.append((use, contribution))
            return contribution.total() if with_total else None
        sq_norms, total = contribution.sq_norms(with_total=with_total)
        self.sq_norms = sq_norms if self.sq_norms is None else self.sq_norms + sq_norms
        return total

    def close(self, num_examples: int, device: torch.device) -> Tensor:
        """Squared norms ``(B,)`` of the gradient of each example; zero where the parameter took no part."""
        found = torch.zeros(num_examples, dtype=torch.float64, device=device)
        if self.sq_norms is not None:
            found += self.sq_norms.to(device)
        if self.pending:
            found += self._pending_sq_norms().to(device)
        return found

    def clear(self) -> None:
        """Forget all uses."""
        self.uses, self.pending, self.sq_norms, self.unfollowed = [], [], None, False

    def _overlapped(self, use: Use) -> bool:
        start, stop = use.extent()
        for other in self.uses:
            if other is not use and not other.cancelled:
                other_start, other_stop = other.extent()
                if start < other_stop and other_start < stop:
                    return True
        return False

    def _pending_sq_norms(self) -> Tensor:
        parts = [contribution for _, contribution in self.pending]
        matrices = [part for part in parts if isinstance(part, OuterProducts | Lookups)]
        if len(matrices) == len(parts) and all(use.view is None for use, _ in self.pending):
            found = sum_sq_norms(matrices)
            if found is not None:
                return found
        parameter = self.parameter
        bytes_an_example = 2 * parameter.numel() * parameter.element_size()
        sq_norms = []
        for start, stop in parts[0].chunks(bytes_an_example):
            # The strides of the parameter, so that a view of it is the same view of each gradient.
            strides = (parameter.numel(), *parameter.stride())
            grads = torch.zeros(0, dtype=parameter.dtype, device=parts[0].factor.device)
            grads = grads.new_empty_strided((stop - start, *parameter.shape), strides).zero_()
            for use, part in self.pending:
                place = grads
                if use.view is not None:
                    size, stride, offset = use.view
                    place = grads.as_strided((stop - start, *size), (strides[0], *stride), offset)
                place.add_(part.grads(start, stop))
            sq_norms.append(row_sq_norms(grads))
        return torch.cat(sq_norms)
