"""What is known of each optimizer by its name; a line enrols one for tasks, for the rules of a changed batch size and for studies."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimizerKind:
    """An optimizer.

    Attributes:
        class_name: Name of its class, torch's own or this library's: an optimizer that a program brings is known by it.
        update: What a step goes along: ``gradient``; ``normalised``, the gradient by its own size, so that noise rules its length as
            the root of the batch; ``ball``, a point of a norm's ball.
        layered: Whether it steps by layers, so that it is made from the model: `batchwright.optim.build_optimizer`.
        decoupled: Whether weight decay is taken off the parameters, times the learning rate, and not added to the gradient.
        has_beta2: Whether its own steps have a decay of squared gradients.
    """

    class_name: str
    update: str
    layered: bool = False
    decoupled: bool = False
    has_beta2: bool = False


KINDS: Mapping[str, OptimizerKind] = {
    "sgd": OptimizerKind(class_name="SGD", update="gradient"),
    "adam": OptimizerKind(class_name="Adam", update="normalised", has_beta2=True),
    "adamw": OptimizerKind(class_name="AdamW", update="normalised", decoupled=True, has_beta2=True),
    "muon": OptimizerKind(class_name="Muon", update="normalised", layered=True, decoupled=True),
    "scion": OptimizerKind(class_name="Scion", update="ball", layered=True),
}


def names_of(*, update: str | None = None, layered: bool | None = None) -> tuple[str, ...]:
    """The optimizers of that kind of update, and made from the model or not; in the order of the table."""
    return tuple(
        name for name, kind in KINDS.items() if update in (None, kind.update) and layered in (None, kind.layered)
    )
