"""The restarted token-budget schedule: when more tokens become available, take the batch, sequence length and lr of the new total.

Source: Islamov et al. (2026), arXiv:2603.21191, the guidelines for a growing budget ("restarted Scion") and the BST rule; the rule
itself is `batchwright.planning.token_budget`.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

from batchwright.adapt.amounts import parse_count
from batchwright.adapt.controller import Decision, Measured, is_known, keep
from batchwright.core.checks import check_choice, check_int, check_number
from batchwright.core.errors import InputError
from batchwright.planning.token_budget import GROWTHS, ROUNDINGS, TokenBudget, token_budget


@dataclass(frozen=True, kw_only=True, slots=True)
class RestartedBudget:
    """Stages of a run whose token budget grows; its first settings are those tuned for the first budget.

    Once the tokens of a budget are used, the values prescribed for the next *total* hold, not those for what remains.

    Attributes:
        budgets: Totals in tokens at which the run is continued, such as ``"1.3B 10.8B"``; the last is where it ends.
        grow: ``batch``, or ``batch-and-sequence`` for both together. The paper's run was better by 0.01 in loss with the batch alone.
        rounding: Of the growth: ``power-of-two`` or ``multiple``.
        multiple_of: The batch size is a multiple of this where the growth is not rounded to a power of two.
        rho_exponent: How the norm ratio ``rho`` grows with the batch size; 0.1 in the paper's fit, 0 to leave it out.
        rho_shift: Batch size that fit starts from; 9.4 in the paper's.
        max_batch_size: Never larger, in examples; the learning rate follows the size that is taken.
    """

    main_option: ClassVar[tuple[str, str]] = ("budgets", "1.3B 10.8B")

    budgets: str
    grow: str = "batch"
    rounding: str = "power-of-two"
    multiple_of: int = 1
    rho_exponent: float = 0.0
    rho_shift: float = 0.0
    max_batch_size: int | None = None

    def __post_init__(self) -> None:
        check_choice("grow", self.grow, GROWTHS)
        check_choice("rounding", self.rounding, ROUNDINGS)
        check_int("multiple_of", self.multiple_of, at_least=1)
        check_number("rho_exponent", self.rho_exponent, at_least=0.0, below=1.0)
        check_number("rho_shift", self.rho_shift, at_least=0.0)
        if self.max_batch_size is not None:
            check_int("max_batch_size", self.max_batch_size, at_least=1)
        self.totals()

    def totals(self) -> list[int]:
        """The budgets as numbers.

        Raises:
            InputError: If there is none, or they do not increase.
        """
        found = [parse_count("budgets", word) for word in self.budgets.replace(",", " ").split()]
        if not found or found[0] < 1 or any(later <= earlier for earlier, later in pairwise(found)):
            raise InputError(
                f"budgets must be increasing totals of tokens, got {self.budgets!r}; for instance '1.3B 10.8B'"
            )
        return found

    @property
    def needs(self) -> frozenset[str]:
        """Tokens used; and the sequence length where it grows too, else it cancels out of the rule."""
        return frozenset({"num_tokens"} if self.grow == "batch" else {"num_tokens", "sequence_length"})

    def refusal(self, optimizer: str, *, momentum: float = 0.0) -> str | None:
        """Its bound is that of stochastic conditional gradient."""
        if optimizer in ("scion", "muon"):
            return None
        return (
            f"policy restarted-budget must go with scion (or muon), got {optimizer}; its rule comes from the "
            f"convergence bound of stochastic "
            "conditional gradient: take schedule with unit=tokens, and the optimizer's own rule for the lr"
        )

    def init(self, *, batch_size: int) -> dict[str, Any]:
        """It remembers the first sizes; the sequence length is known after the first step."""
        return {"batch_size": batch_size, "sequence_length": None}

    def update(self, state: dict[str, Any], measured: Measured) -> tuple[dict[str, Any], Decision]:
        """The values for the total that the run is on its way to."""
        if not is_known(measured, self.needs):
            return state, keep(measured, "not measured yet: tokens or sequence length", lr_factor=None)
        assert measured.num_tokens is not None
        length = measured.sequence_length or 1
        if state["sequence_length"] is None:
            state = {**state, "sequence_length": length}
        totals = self.totals()
        stage = min(sum(measured.num_tokens >= total for total in totals), len(totals) - 1)
        base = TokenBudget(
            batch_size=state["batch_size"], sequence_length=state["sequence_length"], lr=1.0, tokens=totals[0]
        )
        now = base
        if stage > 0:
            now = token_budget(
                base=base,
                tokens=totals[stage],
                grow=self.grow,
                rounding=self.rounding,
                multiple_of=self.multiple_of,
                rho_exponent=self.rho_exponent,
                rho_shift=self.rho_shift,
                max_batch_size=self.max_batch_size,
            )
        changed = (now.batch_size, now.sequence_length) != (measured.batch_size, length)
        reason = (
            f"for {totals[stage]:,} tokens in all: batch size {now.batch_size}, "
            + (f"sequence length {now.sequence_length}, " if measured.sequence_length else "")
            + f"lr times {now.lr:.4g}"
        )
        return state, Decision(
            batch_size=now.batch_size,
            changed=changed,
            reason=reason,
            lr_factor=now.lr,
            sequence_length=now.sequence_length if measured.sequence_length else None,
        )
