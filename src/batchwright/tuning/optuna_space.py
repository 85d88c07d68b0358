"""A space as Optuna's distributions, and its trials as points."""

from collections.abc import Mapping
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from batchwright.bandits import Dimension, Space


def distributions_of(space: Space) -> dict[str, BaseDistribution]:
    """One a dimension; a power of two is an integer on a logarithmic axis."""
    return {each.name: _distribution(each) for each in space.dimensions}


def point_of(space: Space, params: Mapping[str, Any]) -> Any:
    """The point ``(d,)`` of a trial's parameters; None where they are not of the space."""
    if not set(space.names) <= set(params):
        return None
    return space.point({name: params[name] for name in space.names})


def _distribution(dimension: Dimension) -> BaseDistribution:
    if dimension.kind == "categorical":
        return CategoricalDistribution(dimension.choices)
    if dimension.kind in ("integer", "log-integer", "power-of-two"):
        return IntDistribution(int(dimension.low), int(dimension.high), log=dimension.kind != "integer")
    return FloatDistribution(dimension.low, dimension.high, log=dimension.kind == "log")
