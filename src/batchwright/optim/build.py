"""The optimizer that a task specifies: torch's own from the parameters, Muon and Scion from the layers of the model."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from batchwright.core.errors import TaskError
from batchwright.core.vectors import trainable
from batchwright.optim.muon import Muon
from batchwright.optim.param_groups import param_groups
from batchwright.optim.scion import Scion
from batchwright.tasks.task import OptimizerSpec

# The published radii of the embedding and the head, of the matrices (papers-2026, 3.7); its networks have no vectors.
RADII: Mapping[str, float] = {"embedding": 3000.0, "head": 3000.0, "vector": 5.0, "default": 50.0}


def build_optimizer(spec: OptimizerSpec, model: nn.Module) -> torch.optim.Optimizer:
    """An optimizer over the trainable parameters of a model.

    ``muon``: `Muon` over `param_groups`. AdamW's groups have the learning rate of the matrices, ``adjust_lr_fn="match_rms_adamw"``
    makes the two alike, and betas of 0.9 and the specification's. ``scion``: `Scion` over the groups of its norms with the
    published radii. ``spec.options`` changes any of it by keyword: for Muon ``overrides``, ``adamw_lr`` and `Muon`'s own, for
    Scion ``overrides``, ``radii`` (by kind, over the published ones) and `Scion`'s own.

    Raises:
        TaskError: If the options name what there is not, or Scion is given a weight decay.

    Example:
        >>> model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 2))
        >>> optimizer = build_optimizer(OptimizerSpec(name="muon", lr=0.01, options={"polar_every": 2}), model)
        >>> [group["optimizer"] for group in optimizer.param_groups]
        ['muon', 'adamw', 'adamw']
    """
    if spec.name not in BUILDERS:
        return spec.build(trainable(model))
    trainable(model)
    options = dict(spec.options)
    try:
        return BUILDERS[spec.name](spec, model, options)
    except TypeError as error:
        raise TaskError(
            f"options of optimizer {spec.name} must be keywords of batchwright.optim.{spec.name.capitalize()}, "
            f"got {', '.join(sorted(spec.options))}: {error}"
        ) from error


def _muon(spec: OptimizerSpec, model: nn.Module, options: dict[str, Any]) -> Muon:
    groups = param_groups(model, overrides=options.pop("overrides", None), adamw_lr=options.pop("adamw_lr", spec.lr))
    for group in groups:
        if group["optimizer"] == "adamw":
            group["betas"] = (0.9, spec.beta2)
            group.setdefault("weight_decay", spec.weight_decay)
    settings = {"adjust_lr_fn": "match_rms_adamw", "nesterov": True, **options}
    return Muon(groups, lr=spec.lr, weight_decay=spec.weight_decay, momentum=spec.momentum, **settings)


def _scion(spec: OptimizerSpec, model: nn.Module, options: dict[str, Any]) -> Scion:
    if spec.weight_decay:
        raise TaskError(
            f"weight_decay of scion must be 0, got {spec.weight_decay:g}; its learning rate is its weight decay: leave it out"
        )
    radii = {**RADII, **options.pop("radii", {})}
    groups = param_groups(model, "scion", overrides=options.pop("overrides", None), radii=radii)
    return Scion(groups, lr=spec.lr, momentum=spec.momentum, **options)


# Those that are made from the model; `tasks.optimizers` has what else is known of them.
BUILDERS: Mapping[str, Callable[[OptimizerSpec, nn.Module, dict[str, Any]], torch.optim.Optimizer]] = {
    "muon": _muon,
    "scion": _scion,
}
