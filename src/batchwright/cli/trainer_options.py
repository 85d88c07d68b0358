"""``--option name=value``: any field of a trainer's options, read as its own kind."""

import types
import typing
from collections.abc import Sequence
from typing import Any


def read_trainer_options(options: type, texts: Sequence[str], *, taken: Sequence[str]) -> dict[str, Any]:
    """The fields that the texts name.

    Args:
        options: A dataclass.
        texts: ``name=value`` each; ``none`` for what may be left out.
        taken: Fields that have an option of their own on the command line.

    Raises:
        InputError: If a name is unknown or a value is not of its kind.
    """
    from batchwright.core.errors import InputError

    hints = typing.get_type_hints(options)
    names = [name for name in getattr(options, "__dataclass_fields__", {}) if name not in taken]
    found: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or name not in names:
            raise InputError(f"--option must be name=value with a name of {', '.join(names)}, got {text!r}")
        kinds = typing.get_args(hints[name]) if isinstance(hints[name], types.UnionType) else (hints[name],)
        kind = next(each for each in (bool, int, float, str) if each in kinds)
        try:
            if value.lower() == "none" and type(None) in kinds:
                found[name] = None
            else:
                found[name] = {"true": True, "false": False}[value.lower()] if kind is bool else kind(value)
        except (ValueError, KeyError):
            raise InputError(f"--option {name} must be of the kind {kind.__name__}, got {value!r}") from None
    return found
