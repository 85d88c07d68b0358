"""CABS: couple the batch size to the learning rate, so that one step's expected gain per example is largest.

Source: Balles, Romero & Hennig (2017), arXiv:1612.05086, eq. (22) and algorithm 1.
"""

from dataclasses import dataclass
from typing import Any

from batchwright.adapt.controller import Measured
from batchwright.adapt.limits import Limits, Wish, sure
from batchwright.core.checks import check_number
from batchwright.measure.wanted_batch_sizes import cabs_batch_size


@dataclass(frozen=True, kw_only=True, slots=True)
class Cabs(Limits):
    """Wanted size ``lr * trace / loss``, with loss and trace averaged as in the authors' code.

    Because the size follows the learning rate, its decisions leave the learning rate where it is (``lr_factor`` 1): a rule that raised
    it with the batch would chase its own tail. Deviation: the shared limits (hysteresis, cooldown) come on top.

    Attributes:
        lowest_loss: Lowest loss that can be reached; taken off the loss.
        averaging: Weight kept of the running averages of loss and trace from one update to the next; 0.95 in the authors' code.
    """

    lowest_loss: float = 0.0
    averaging: float = 0.95

    def __post_init__(self) -> None:
        Limits.__post_init__(self)
        check_number("lowest_loss", self.lowest_loss)
        check_number("averaging", self.averaging, at_least=0.0, below=1.0)

    @property
    def needs(self) -> frozenset[str]:
        """Learning rate, loss, and the scatter of the gradients."""
        return frozenset({"lr", "loss", "trace"})

    def refusal(self, optimizer: str, *, momentum: float = 0.0) -> str | None:
        """It is derived for SGD without momentum: the step is ``lr * g``."""
        if optimizer == "sgd" and momentum == 0:
            return None
        got = f"sgd with momentum {momentum:g}" if optimizer == "sgd" else optimizer
        return (
            f"policy cabs must go with plain SGD, got {got}; its size lr * trace / loss comes from a bound on a step of lr * g, "
            "so set momentum to 0 or take noise-scale"
        )

    @property
    def lr_factor(self) -> float | None:
        """The learning rate is what the size follows, so it stays."""
        return 1.0

    def first_memory(self) -> dict[str, Any]:
        """No average yet."""
        return {"weight": 0.0, "loss": 0.0, "trace": 0.0}

    def wish(self, memory: dict[str, Any], measured: Measured) -> tuple[dict[str, Any], Wish | None]:
        """The size of eq. (22) at the averages."""
        assert measured.loss is not None
        assert measured.trace is not None
        assert measured.lr is not None
        old, new = self.averaging, 1 - self.averaging
        memory = {
            "weight": old * memory["weight"] + new,
            "loss": old * memory["loss"] + new * measured.loss,
            "trace": old * memory["trace"] + new * measured.trace,
        }
        loss = memory["loss"] / memory["weight"] - self.lowest_loss
        trace = memory["trace"] / memory["weight"]
        if not (loss > 0 and trace >= 0 and measured.lr > 0):  # a loss at its floor, or a trace that is all noise
            return memory, None
        wanted = cabs_batch_size(trace, loss=loss, lr=measured.lr)
        return memory, sure(wanted, f"lr {measured.lr:.3g} * trace {trace:.3g} / loss {loss:.3g} asks for {wanted:.4g}")
