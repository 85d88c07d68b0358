"""Observations and actions of a Gymnasium space as rows of numbers, and the spaces that have no such form."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from batchwright.core.errors import InputError

# Gymnasium writes "no bound" as infinity or as the largest float32.
UNBOUNDED = 1e30


@dataclass(frozen=True, kw_only=True, slots=True)
class ObservationCode:
    """How one observation becomes a row of numbers.

    Attributes:
        dim: Length ``S`` of the row.
        bound: No component is larger in absolute value; None where the space does not say.
        write: Puts observations ``(n, ...)`` into rows ``(n, S)`` in place.
    """

    dim: int
    bound: float | None
    write: Callable[[np.ndarray, np.ndarray], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class ActionCode:
    """What the environment takes as an action.

    Attributes:
        dim: Length ``A`` of a continuous action; None where actions are discrete.
        num: Number of discrete actions; None where they are continuous.
        volume: Of the box of continuous actions; None where it has no bounds.
        diameter: Euclidean diameter of that box.
        prepare: Raw actions ``(n, A)`` or ``(n,)`` of the policy in the form the environment takes: clipped to the box, in its
            shape and type, or counted from the first action.
    """

    dim: int | None
    num: int | None
    volume: float | None
    diameter: float | None
    prepare: Callable[[np.ndarray], np.ndarray]


def code_observations(name: str, space: Any) -> ObservationCode:
    """Choose the form of an observation: a box flat as it is, one of ``n`` as ``n`` numbers of which one is 1.

    Raises:
        InputError: If the space is an image, or of parts (a dict, a tuple).
    """
    from gymnasium import spaces

    if isinstance(space, spaces.Discrete):
        start = int(space.start)

        def write_one_hot(found: np.ndarray, rows: np.ndarray) -> None:
            rows[...] = 0.0
            rows[np.arange(len(rows)), found - start] = 1.0

        return ObservationCode(dim=int(space.n), bound=1.0, write=write_one_hot)
    if isinstance(space, spaces.MultiBinary) or (isinstance(space, spaces.Box) and not _is_image(space)):
        dim = math.prod(space.shape)
        largest = (
            float(max(np.abs(space.low).max(), np.abs(space.high).max())) if isinstance(space, spaces.Box) else 1.0
        )
        bound = largest if 0.0 < largest < UNBOUNDED else None
        if len(space.shape) == 1:
            return ObservationCode(dim=dim, bound=bound, write=_write_rows)
        return ObservationCode(dim=dim, bound=bound, write=_write_flat)
    if isinstance(space, spaces.Box):
        raise InputError(
            f"observations of {name} must be vectors of features, got images of shape {space.shape}; "
            "give wrappers=[...] that turn them into features"
        )
    raise InputError(
        f"observations of {name} must be a Box of numbers or Discrete, got {type(space).__name__}; "
        "give wrappers=[gymnasium.wrappers.FlattenObservation]"
    )


def code_actions(name: str, space: Any) -> ActionCode:
    """Choose the form of an action.

    Raises:
        InputError: If actions are neither a vector of numbers nor one of ``n``.
    """
    from gymnasium import spaces

    if isinstance(space, spaces.Discrete):
        start = int(space.start)
        prepare = _as_they_are if start == 0 else (lambda actions: actions + start)
        return ActionCode(dim=None, num=int(space.n), volume=None, diameter=None, prepare=prepare)
    if isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating):
        low, high, shape, dtype = space.low, space.high, space.shape, space.dtype
        width = high.astype(np.float64) - low.astype(np.float64)
        bounded = bool(np.all(width < UNBOUNDED))

        def clip(actions: np.ndarray) -> np.ndarray:
            clipped: np.ndarray = np.clip(actions.reshape(-1, *shape), low, high)
            return clipped.astype(dtype, copy=False)

        return ActionCode(
            dim=math.prod(shape),
            num=None,
            volume=float(width.prod()) if bounded else None,
            diameter=float(np.sqrt(np.square(width).sum())) if bounded else None,
            prepare=clip,
        )
    raise InputError(
        f"actions of {name} must be a Box of real numbers or Discrete, got {space}; give wrappers=[...] that make them so"
    )


def _is_image(space: Any) -> bool:
    return len(space.shape) >= 3 or (len(space.shape) == 2 and space.dtype == np.uint8)


def _write_rows(found: np.ndarray, rows: np.ndarray) -> None:
    rows[...] = found


def _write_flat(found: np.ndarray, rows: np.ndarray) -> None:
    rows[...] = found.reshape(rows.shape)


def _as_they_are(actions: np.ndarray) -> np.ndarray:
    return actions
