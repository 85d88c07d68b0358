"""AdaScale: at a batch size larger than the one its lr was tuned for, scale the lr by the gain in progress of a step.

Source: Johnson, Agrawal, Gu & Guestrin (2020), arXiv:2007.05105, the gain ratio and algorithm 1.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from batchwright.adapt.controller import Decision, Measured, is_known, keep
from batchwright.core.checks import check_int


@dataclass(frozen=True, kw_only=True, slots=True)
class AdaScale:
    """Keep the batch size, and give the learning rate the gain ``r = (trace/B0 + ||G||^2) / (trace/B + ||G||^2)``.

    The gain lies between 1, where no noise is left to average away, and ``S = B / B0``, where noise rules. ``trace`` and
    ``||G||^2`` should be running averages. The sum of gains is the number of steps at ``B0`` that the run is worth: the paper's
    scale-invariant iterations, by which its lr schedule should be read; it is in the state as ``progress``.

    Attributes:
        base_batch_size: Batch size ``B0`` for which the run's learning rate was tuned, in examples; the first batch
            size where left out.
    """

    main_option: ClassVar[tuple[str, str]] = ("base_batch_size", "32")

    base_batch_size: int | None = None

    def __post_init__(self) -> None:
        if self.base_batch_size is not None:
            check_int("base_batch_size", self.base_batch_size, at_least=1)

    @property
    def needs(self) -> frozenset[str]:
        """The scatter of the gradients and their norm."""
        return frozenset({"trace", "grad_sq_norm"})

    def refusal(self, optimizer: str, *, momentum: float = 0.0) -> str | None:
        """Its bound is for steps along the gradient."""
        if optimizer == "sgd":
            return None
        return (
            f"policy adascale must go with SGD, got {optimizer}; its gain is derived for a step of lr times the "
            f"gradient, and an update that "
            "is normalised by its own noise does not shrink with it: take the square-root rule"
        )

    def init(self, *, batch_size: int) -> dict[str, Any]:
        """It remembers the size at which the learning rate holds, the last gain, and the progress."""
        return {"base_batch_size": self.base_batch_size or batch_size, "gain": 1.0, "progress": 0.0, "step": 0}

    def update(self, state: dict[str, Any], measured: Measured) -> tuple[dict[str, Any], Decision]:
        """The gain at the present size; the last one where nothing was measured."""
        progress = state["progress"] + state["gain"] * (measured.step - state["step"])
        state = {**state, "progress": progress, "step": measured.step}
        if not is_known(measured, self.needs):
            return state, keep(measured, "gradient noise is not measured yet", lr_factor=state["gain"])
        assert measured.trace is not None
        assert measured.grad_sq_norm is not None
        found = gain(
            measured.trace,
            measured.grad_sq_norm,
            base_batch_size=state["base_batch_size"],
            batch_size=measured.batch_size,
        )
        reason = f"gain {found:.4g} at {measured.batch_size / state['base_batch_size']:.4g} times the base batch size"
        return {**state, "gain": found}, keep(measured, reason, lr_factor=found)


def gain(trace: float, grad_sq_norm: float, *, base_batch_size: int, batch_size: int) -> float:
    """How many steps at ``base_batch_size`` one at ``batch_size`` is worth, by the same expected decrease.

    Negative estimates count as zero; where both are zero the gain is 1.

    Example:
        >>> gain(64.0, 1.0, base_batch_size=16, batch_size=64)
        2.5
    """
    trace, grad_sq_norm = max(trace, 0.0), max(grad_sq_norm, 0.0)
    below = trace / batch_size + grad_sq_norm
    return (trace / base_batch_size + grad_sq_norm) / below if below > 0 else 1.0
