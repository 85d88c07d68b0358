"""The norms that the study compares, each as a conversion of the network with batch norm."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from batchwright.nn import convert

GHOST_SIZE = 2
# Running statistics over all ghosts with the variance between their means, for every arm that is compared with another.
ALL = {"running": "batch", "between_ghosts": True}


@dataclass(frozen=True, kw_only=True, slots=True)
class Arm:
    """A norm.

    Attributes:
        name: In cells and tables.
        label: In figures.
        to: Target of the conversion.
        options: Of the conversion.
    """

    name: str
    label: str
    to: str
    options: Mapping[str, Any] = field(default_factory=dict)


def _kalman(name: str, label: str, **options: Any) -> Arm:
    return Arm(name=name, label=label, to="kalman", options={"ghost_size": GHOST_SIZE, **options})


ARMS: Mapping[str, Arm] = {
    arm.name: arm
    for arm in (
        Arm(name="batch", label="BN, batch 128", to="batch"),
        Arm(name="ghost", label="BN, ghosts of 2", to="ghost", options={"ghost_size": GHOST_SIZE, **ALL}),
        _kalman("kalman", "KN 0.9, consistent"),
        _kalman("kalman-raw", "KN 0.9, raw", prior="raw"),
        _kalman("kalman-half", "KN 0.5, consistent", gain=0.5),
        _kalman("kalman-raw-half", "KN 0.5, raw", prior="raw", gain=0.5),
        _kalman("kalman-sampled", "KN 0.9, consistent, sampled", propagate="sampled"),
        # As the official code has it: raw, sampled, running statistics of the first ghost; gain 0 is ghost batch norm.
        _kalman("kalman-code", "KN 0.9, as coded", prior="raw", propagate="sampled", running="first"),
        _kalman("ghost-code", "BN, ghosts of 2, as coded", gain=0.0, running="first"),
        Arm(name="kalman-large", label="KN 0.05, batch 128", to="kalman", options={"gain": 0.05}),
        Arm(name="group", label="GN, 4 groups", to="group", options={"num_groups": 4}),
    )
}


def with_norm(model: nn.Module, arm: str, generator: torch.Generator, example: Float[Tensor, "B C H W"]) -> nn.Module:
    """The network with the norm of an arm.

    Args:
        model: With batch norm; changed in place.
        arm: Name of the arm.
        generator: Of the samples of those that draw.
        example: Images that the network takes; one run on them is followed, since a checker of shapes refuses a trace.
    """
    chosen, more = ARMS[arm], {}
    if chosen.to == "kalman":
        more = {"example_inputs": example, "generator": generator}
    return convert(model, chosen.to, **chosen.options, **more).model
