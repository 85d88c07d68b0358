"""The targets of a conversion that swap layer for layer."""

import math
from typing import Any

from torch import nn

from batchwright.core.checks import check_choice, check_int
from batchwright.core.errors import InputError
from batchwright.nn.batch_renorm import RENORMS
from batchwright.nn.conversion import Conversion
from batchwright.nn.ghost_batch_norm import GHOST_NORMS, RUNNING
from batchwright.nn.swap import BATCH_NORMS, BatchNorm, batch_norm_options, carry, swap

MOST_GROUPS = 32


def to_ghost(
    model: nn.Module, *, ghost_size: int = 32, running: str = "ghosts", between_ghosts: bool = False
) -> Conversion:
    """Ghost batch norm: training statistics of ghosts of ``ghost_size`` examples; evaluation as BatchNorm.

    The options are those of `GhostBatchNorm2d`.
    """
    check_int("ghost_size", ghost_size, at_least=1)
    check_choice("running", running, RUNNING)

    def factory(old: BatchNorm, kind: int) -> tuple[nn.Module, str]:
        new = GHOST_NORMS[kind](
            old.num_features,
            **batch_norm_options(old),
            **{"ghost_size": ghost_size, "running": running, "between_ghosts": between_ghosts},  # type: ignore[arg-type]
            device="meta",
        )
        carry(old, new)
        return new, f"training statistics of {ghost_size} examples; evaluation unchanged"

    return swap(model, "ghost", factory)


def to_batch(model: nn.Module) -> Conversion:
    """Torch's batch norm: training statistics of the batch; evaluation by the running ones."""

    def factory(old: BatchNorm, kind: int) -> tuple[nn.Module, str]:
        if type(old) is BATCH_NORMS[kind]:
            return old, "it is one already"
        new = BATCH_NORMS[kind](old.num_features, **batch_norm_options(old), device="meta")
        carry(old, new)
        return new, "training statistics of the whole batch; evaluation unchanged"

    return swap(model, "batch", factory)


def to_group(model: nn.Module, *, num_groups: int | None = None) -> Conversion:
    """Group norm: statistics of one example, in training and evaluation; **changes the model's output**, train it further.

    Scale and shift are kept, running statistics have no place in it.

    Args:
        model: The model.
        num_groups: Groups of channels; the greatest common divisor of the channels and 32 where left out.
    """
    if num_groups is not None:
        check_int("num_groups", num_groups, at_least=1)

    def factory(old: BatchNorm, kind: int) -> tuple[nn.Module, str]:
        groups = num_groups or math.gcd(old.num_features, MOST_GROUPS)
        if old.num_features % groups:
            raise InputError(
                f"num_groups must divide the channels, got num_groups={groups} and {old.num_features} channels; leave it out"
            )
        new = nn.GroupNorm(groups, old.num_features, eps=old.eps, affine=old.affine, device="meta")
        new.weight, new.bias = old.weight, old.bias
        lost = " and drops running statistics" if old.track_running_stats else ""
        return new, f"statistics of one example; changes evaluation{lost}: train it further"

    return swap(model, "group", factory)


def to_renorm(
    model: nn.Module,
    *,
    r_max: float = 3.0,
    d_max: float = 5.0,
    warmup_steps: int = 5000,
    r_steps: int = 40000,
    d_steps: int = 25000,
) -> Conversion:
    """Batch renorm: batch statistics, corrected by the running ones within limits; evaluation as BatchNorm.

    The options are those of `BatchRenorm1d`, the momentum is the old layer's.
    """
    options: dict[str, Any] = {"r_max": r_max, "d_max": d_max}
    options |= {"warmup_steps": warmup_steps, "r_steps": r_steps, "d_steps": d_steps, "device": "meta"}
    RENORMS[0](1, **options)  # checks them before anything changes

    def factory(old: BatchNorm, kind: int) -> tuple[nn.Module, str]:
        if kind >= len(RENORMS):
            return old, "there is no batch renorm for volumes"
        if not old.track_running_stats:
            return old, "it keeps no running statistics, which batch renorm needs"
        new = RENORMS[kind](old.num_features, old.eps, old.momentum, old.affine, **options)
        carry(old, new)
        return new, "training output corrected by the running statistics; evaluation unchanged"

    return swap(model, "renorm", factory)
