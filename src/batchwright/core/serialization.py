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
from typing import Any

from batchwright.core.errors import RecordError


def to_plain(value: Any) -> Any:
    """Nested dictionaries, lists, strings, numbers and None that ``json.dumps(..., allow_nan=False)`` accepts."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Enum):
        return to_plain(value.value)
    if callable(getattr(value, "tolist", None)):  # of NumPy and torch, neither of which is imported for it
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


def from_plain(kind: Any, value: Any, where: str = "value") -> Any:
    """Rebuild a dataclass (or any annotation, such as ``Interval | None``) from what `to_plain` made of it.

    Unknown keys are ignored, so a newer writer may add some.

    Raises:
        RecordError: If a field is missing or of another kind; the message names its place.
    """
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    try:
        if kind is Any:
            return value
        if origin in (typing.Union, types.UnionType):
            if value is None and type(None) in arguments:
                return None
            return from_plain(next(option for option in arguments if option is not type(None)), value, where)
        if isinstance(kind, type) and dataclasses.is_dataclass(kind):
            if not isinstance(value, Mapping):
                raise TypeError(f"expected the fields of {kind.__name__}")
            hints = typing.get_type_hints(kind)
            known = {
                field.name: from_plain(hints[field.name], value[field.name], f"{where}.{field.name}")
                for field in dataclasses.fields(kind)
                if field.name in value
            }
            return kind(**known)
        if kind is float:
            return float(value)
        if origin is tuple:
            if not isinstance(value, list | tuple):
                raise TypeError("expected a list")
            if len(arguments) == 2 and arguments[1] is Ellipsis:
                return tuple(from_plain(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(value))
            return tuple(from_plain(option, item, where) for option, item in zip(arguments, value, strict=True))
        if origin in (dict, Mapping):
            return {key: from_plain(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
        if isinstance(kind, type) and not isinstance(value, kind):
            raise TypeError(f"expected {kind.__name__}")
    except RecordError:
        raise
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise RecordError(f"{where} cannot be read from {value!r}: {error}") from error
    return value
