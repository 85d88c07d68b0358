"""Frozen dataclasses to strict JSON and back.

JSON has no infinity and no NaN, and an unbounded interval is an honest answer here: non-finite numbers are written as
the strings "inf", "-inf" and "nan", which `float` reads.
"""

import dataclasses
import math
import types
import typing
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any, TypeVar

import numpy as np
from torch import Tensor

from batchwright.core.errors import RecordError

T = TypeVar("T")


def to_plain(value: Any) -> Any:
    """Nested dictionaries, lists, strings, numbers and None that ``json.dumps(..., allow_nan=False)`` accepts."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Enum):
        return to_plain(value.value)
    if isinstance(value, (Tensor, np.ndarray, np.generic)):
        return to_plain(value.tolist())
    if isinstance(value, bool | int | str) or value is None:
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, Sequence | set | frozenset):
        return [to_plain(item) for item in value]
    return str(value)


def from_plain(kind: type[T], value: Any, where: str = "value") -> T:
    """Rebuild a dataclass (or a plain annotation) from what `to_plain` made of it; unknown keys are ignored.

    Raises:
        RecordError: If a field is missing or of another kind; the message names its place.
    """
    return typing.cast(T, _build(kind, value, where))


def _build(kind: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    try:
        if kind is Any:
            return value
        if origin in (typing.Union, types.UnionType):
            if value is None and type(None) in arguments:
                return None
            return _build(next(option for option in arguments if option is not type(None)), value, where)
        if dataclasses.is_dataclass(kind):
            hints = typing.get_type_hints(kind)
            known = {
                field.name: _build(hints[field.name], value[field.name], f"{where}.{field.name}")
                for field in dataclasses.fields(kind)
                if field.name in value
            }
            return kind(**known)
        if kind is float:
            return float(value)
        if origin is tuple:
            if len(arguments) == 2 and arguments[1] is Ellipsis:
                return tuple(_build(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(value))
            return tuple(_build(option, item, where) for option, item in zip(arguments, value, strict=True))
        if origin in (dict, Mapping):
            return {key: _build(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
        if isinstance(kind, type) and not isinstance(value, kind):
            raise TypeError(f"expected {kind.__name__}")
    except RecordError:
        raise
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise RecordError(f"{where} cannot be read from {value!r}: {error}") from error
    return value
