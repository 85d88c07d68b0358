"""Seesaw: an lr decay compiled into a growing batch: for a fall by ``a``, the lr falls by ``sqrt(a)`` and the batch grows by ``1/a``.

Source: Meterez et al. (2025), Seesaw, arXiv:2510.14717, the rule of its abstract.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from batchwright.adapt.amounts import parse_count
from batchwright.adapt.controller import CLOCKS, Decision, Measured, check_first_size, clock, clock_needs
from batchwright.core.checks import check_choice, check_int, check_number
from batchwright.core.errors import InputError

CURVES = ("cosine", "linear")


@dataclass(frozen=True, kw_only=True, slots=True)
class Seesaw:
    """Batch size and lr factor that stand for a decay ``f`` of the learning rate, which itself must not decay then.

    A curve is first cut into falls by ``cut``, as in the paper: ``f = cut^k`` from where the curve passes ``cut^k``. Then the batch is
    ``B0 / f``, rounded, at most ``max_batch_size``, and the lr factor ``f sqrt(B / B0)``. So ``lr^2 / B``, on which the noise of
    normalised updates depends, is at each instant what it would have been under ``f``; once the bound holds, the
    learning rate falls alone.

    Attributes:
        decay: ``cosine``, ``linear``, or falls as ``start:f``, such as ``"30k:0.1 60k:0.01"``, with ``f`` over the lr of the start.
        end: Where a curve ends; left out for falls.
        start: Where a curve starts; where warm-up ends.
        final: ``f`` at the end of a curve.
        cut: ``f`` falls by this at a time along a curve, between 0 and 1.
        unit: What starts and ends count: ``steps``, ``examples``, ``tokens`` or ``epochs``. Steps do not mean the same at another size.
        max_batch_size: Never larger, in examples.
    """

    main_option: ClassVar[tuple[str, str]] = ("decay", "30k:0.5 60k:0.1")

    decay: str = "cosine"
    end: int | None = None
    start: int = 0
    final: float = 0.0
    cut: float = 0.5
    unit: str = "examples"
    max_batch_size: int = 4096

    def __post_init__(self) -> None:
        check_choice("unit", self.unit, CLOCKS)
        check_int("start", self.start, at_least=0)
        check_number("final", self.final, at_least=0.0, at_most=1.0)
        check_number("cut", self.cut, above=0.0, below=1.0)
        check_int("max_batch_size", self.max_batch_size, at_least=1)
        if self.decay in CURVES:
            if self.end is None:
                raise InputError(f"end must say where the {self.decay} decay ends, got none; give it in {self.unit}")
            check_int("end", self.end, at_least=self.start + 1)
        else:
            _falls(self.decay)

    @property
    def needs(self) -> frozenset[str]:
        """Its clock."""
        return clock_needs(self.unit)

    def refusal(self, optimizer: str, *, momentum: float = 0.0) -> str | None:
        """Its equivalence is that of normalised updates."""
        if optimizer != "sgd":
            return None
        return (
            "policy seesaw must go with an optimizer that normalises its updates (adam, adamw, muon, scion), got sgd; "
            "there lr / B and not "
            "lr^2 / B sets the noise, so take geometric with keep_lr=true in place of lr decay"
        )

    def init(self, *, batch_size: int) -> dict[str, Any]:
        """It remembers the first batch size.

        Raises:
            InputError: If that is above ``max_batch_size``.
        """
        return {"first": check_first_size(batch_size, self.max_batch_size)}

    def update(self, state: dict[str, Any], measured: Measured) -> tuple[dict[str, Any], Decision]:
        """Batch size and lr factor at this instant."""
        now, first = clock(measured, self.unit), state["first"]
        if now is None:
            return state, Decision(
                batch_size=measured.batch_size, changed=False, reason=f"not measured yet: {self.unit}"
            )
        decayed = self.decayed(now)
        size = self.max_batch_size
        if decayed > first / self.max_batch_size:
            size = min(self.max_batch_size, round(first / decayed))
        changed = size != measured.batch_size
        reason = f"lr decay of {decayed:.4g} as batch size {size} and lr factor {decayed * math.sqrt(size / first):.4g}"
        factor = decayed * math.sqrt(size / first)
        return state, Decision(batch_size=size, changed=changed, reason=reason, lr_factor=factor)

    def decayed(self, now: int) -> float:
        """The decay ``f`` that is compiled, at a count of ``unit``: 1 before it starts."""
        if self.decay not in CURVES:
            return next((f for start, f in reversed(_falls(self.decay)) if now >= start), 1.0)
        assert self.end is not None
        part = min(max((now - self.start) / (self.end - self.start), 0.0), 1.0)
        shape = 0.5 * (1 + math.cos(math.pi * part)) if self.decay == "cosine" else 1 - part
        curve = self.final + (1 - self.final) * shape
        # A hair of room, so that a curve that ends at a power of the cut reaches it despite rounding.
        return 0.0 if curve <= 0 else float(self.cut ** math.floor(math.log(curve) / math.log(self.cut) + 1e-9))


def _falls(text: str) -> list[tuple[int, float]]:
    found: list[tuple[int, float]] = []
    for entry in text.replace(",", " ").split():
        start, _, factor = entry.partition(":")
        try:
            value = float(factor)
        except ValueError:
            value = math.nan
        if not 0 < value <= (found[-1][1] if found else 1.0):
            raise InputError(
                f"decay must be cosine, linear, or falls start:factor with factors from 1 down to above 0, got {entry!r}; "
                "for instance '30k:0.1 60k:0.01'"
            )
        found.append((parse_count("decay start", start), value))
        if len(found) > 1 and found[-1][0] <= found[-2][0]:
            raise InputError(f"decay must have increasing starts, got {entry!r} after start {found[-2][0]}")
    if not found:
        raise InputError(f"decay must be cosine, linear, or falls start:factor, got {text!r}")
    return found
