"""What every controller that follows a measurement shares: bounds, hysteresis, largest change, cooldown and rounding, in one place.

A controller names the batch size that it would like, with an interval where it has one; whether and how far the batch moves there
is decided here. The size moves only when the whole interval lies on one side of the present size by the factor ``hysteresis``. With
powers of two the wish must also be past the boundary between two sizes by the root of that factor, so a wish that wanders by less
than the factor in all never moves the size forth and back.
"""

import math
from dataclasses import dataclass
from typing import Any

from batchwright.adapt.controller import Decision, Measured, is_known, keep
from batchwright.core.checks import check_choice, check_int, check_number
from batchwright.core.errors import InputError
from batchwright.planning.laws import power_of_two

ROUNDINGS = ("power-of-two", "exact")


@dataclass(frozen=True, kw_only=True, slots=True)
class Wish:
    """The batch size that a measurement asks for, in examples.

    Attributes:
        value: Not rounded; ``inf`` where no size is large enough.
        low: Lower end of its interval; the value itself where it has none.
        high: Upper end.
        reason: What was measured and what it asks for, to be followed by what is done.
    """

    value: float
    low: float
    high: float
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """Options that the controllers which follow a measurement share, and how a wish becomes a decision.

    Attributes:
        max_batch_size: Never larger, in examples.
        min_batch_size: Never smaller, in examples.
        hysteresis: At least 1; the factor between wish and present size below which nothing moves.
        max_change: Largest factor of one change, at least 2; None for any.
        cooldown: Optimizer steps between two changes.
        rounding: ``power-of-two`` or ``exact``.
        may_shrink: Whether the batch may become smaller again.
    """

    max_batch_size: int = 4096
    min_batch_size: int = 1
    hysteresis: float = 1.25
    max_change: float | None = 2.0
    cooldown: int = 20
    rounding: str = "power-of-two"
    may_shrink: bool = True

    def __post_init__(self) -> None:
        check_int("min_batch_size", self.min_batch_size, at_least=1)
        check_int("max_batch_size", self.max_batch_size, at_least=1)
        if self.max_batch_size < self.min_batch_size:
            raise InputError(
                f"max_batch_size must be at least min_batch_size, got {self.max_batch_size} and {self.min_batch_size}"
            )
        check_number("hysteresis", self.hysteresis, at_least=1.0)
        if self.max_change is not None:
            check_number("max_change", self.max_change, at_least=2.0)
        check_int("cooldown", self.cooldown, at_least=0)
        check_choice("rounding", self.rounding, ROUNDINGS)

    @property
    def needs(self) -> frozenset[str]:
        """What the wish is made of."""
        raise NotImplementedError

    def wish(self, memory: dict[str, Any], measured: Measured) -> tuple[dict[str, Any], Wish | None]:
        """The next memory, and the batch size that the measurement asks for; None where it asks for none."""
        raise NotImplementedError

    def first_memory(self) -> dict[str, Any]:
        """What `wish` remembers before the first step."""
        return {}

    @property
    def lr_factor(self) -> float | None:
        """Of each decision; None leaves the learning rate to the rule of the optimizer."""
        return None

    def init(self, *, batch_size: int) -> dict[str, Any]:
        """It remembers the step of its last change, and what the measurement needs."""
        return {"last_change": 0, **self.first_memory()}

    def update(self, state: dict[str, Any], measured: Measured) -> tuple[dict[str, Any], Decision]:
        """Keep, grow or shrink; the reason says which and why."""
        now = measured.batch_size
        within = min(max(now, self.min_batch_size), self.max_batch_size)
        if within != now:
            reason = f"batch size {now} is outside the bounds {self.min_batch_size} to {self.max_batch_size}"
            return {**state, "last_change": measured.step}, self._change(within, reason)
        if not is_known(measured, self.needs):
            return state, self._keep(measured, f"not measured yet: {', '.join(sorted(self.needs))}")
        memory, wish = self.wish({key: state[key] for key in state if key != "last_change"}, measured)
        state = {"last_change": state["last_change"], **memory}
        if wish is None or math.isnan(wish.value):
            return state, self._keep(measured, "the measurement does not ask for a batch size")
        if measured.step - state["last_change"] < self.cooldown:
            return state, self._keep(measured, f"{wish.reason}; the last change is less than {self.cooldown} steps ago")
        wanted = self._move(now, wish)
        if wanted == now:
            return state, self._keep(measured, f"{wish.reason}; {now} is near enough")
        move = f"the batch {'grows' if wanted > now else 'shrinks'} from {now} to {wanted}"
        return {"last_change": measured.step, **self.after_change(memory)}, self._change(
            wanted, f"{wish.reason}; {move}"
        )

    def after_change(self, memory: dict[str, Any]) -> dict[str, Any]:
        """The memory that still holds at another batch size."""
        return memory

    def _move(self, now: int, wish: Wish) -> int:
        """The size to go to from ``now``."""
        most = math.inf if self.max_change is None else now * self.max_change
        least = 0.0 if self.max_change is None else now / self.max_change
        if wish.low > now * self.hysteresis:
            # The lower end is what is sure; with no upper end the value itself may be infinite.
            aim = wish.low if math.isinf(wish.value) else wish.value
            return max(now, self._round(min(aim / self._slack, most)))
        if self.may_shrink and wish.high < now / self.hysteresis:
            return min(now, self._round(max(wish.value * self._slack, least)))
        return now

    def _keep(self, measured: Measured, reason: str) -> Decision:
        return keep(measured, reason, lr_factor=self.lr_factor)

    def _change(self, batch_size: int, reason: str) -> Decision:
        return Decision(batch_size=batch_size, changed=True, reason=reason, lr_factor=self.lr_factor)

    @property
    def _slack(self) -> float:
        return math.sqrt(self.hysteresis) if self.rounding == "power-of-two" else 1.0

    def _round(self, size: float) -> int:
        if self.rounding == "power-of-two":
            size = min(size, float(self.max_batch_size))
            return power_of_two(size, at_least=self.min_batch_size, at_most=self.max_batch_size)
        return round(min(max(size, self.min_batch_size), self.max_batch_size))


def sure(value: float, reason: str) -> Wish:
    """A wish without an interval."""
    return Wish(value=value, low=value, high=value, reason=reason)
