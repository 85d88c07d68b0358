"""A controller from text, as a command line gives it: ``schedule:0:64 50k:128``, with ``name=value`` options beside it."""

import dataclasses
import types
import typing
from collections.abc import Iterable
from typing import Any

from batchwright.adapt.amounts import parse_count
from batchwright.adapt.controller import Controller
from batchwright.adapt.own import FORM, is_own, load_own
from batchwright.adapt.registry import REGISTRY
from batchwright.core.checks import check_choice
from batchwright.core.errors import InputError


def parse_policy(text: str, options: Iterable[str] = ()) -> Controller:
    """Make the controller that ``text`` and the options name.

    Args:
        text: A name of the registry, or ``name:value`` for the option that it cannot do without; or ``file.py:MyPolicy`` or
            ``package.module:MyPolicy`` for a class of your own (`Controller` says what it must have).
        options: ``name=value`` each; whole numbers may be written ``50k``, ``none`` leaves an optional one out. An option of the
            controller inside ``stability-aware`` is written ``options.name=value``.

    Raises:
        InputError: If a name is unknown, a value is not of its kind, or a needed option is missing.

    Example:
        >>> parse_policy("schedule:0:64 50k:128", ["unit=tokens"])
        Schedule(schedule='0:64 50k:128', unit='tokens')
    """
    pairs = [_split(option) for option in options]
    if is_own(text):
        return _make(text, load_own(text), pairs)
    name, colon, value = text.partition(":")
    if name not in REGISTRY:
        known = ", ".join(sorted(REGISTRY))
        raise InputError(f"--policy must be one of {known}, or {FORM} for a class of your own, got {name!r}")
    if colon:
        main = main_option(name)
        if main is None:
            raise InputError(
                f"--policy {name} must stand without a value, got {text!r}; give --policy-option name=value"
            )
        pairs.insert(0, (main[0], value))
    return make_policy(name, pairs)


def make_policy(name: str, pairs: Iterable[tuple[str, str]]) -> Controller:
    """The controller of that name, its options read from text."""
    return _make(name, REGISTRY[name], pairs)


def _make(name: str, kind: type, pairs: Iterable[tuple[str, str]]) -> Controller:
    found: dict[str, Any] = {}
    nested: list[tuple[str, str]] = []
    for option, value in pairs:
        if option.startswith("options."):
            nested.append((option.removeprefix("options."), value))
        else:
            found[option] = _read(name, kind, option, value)
    if nested:
        inner = found.get("inner", "noise-scale") if "inner" in _kinds(kind) else None
        if inner is None:
            raise InputError(f"--policy-option options.… must go with a policy that wraps another, got {name}")
        check_choice("inner", inner, REGISTRY)
        found["options"] = {option: _read(inner, REGISTRY[inner], option, value) for option, value in nested}
    needed = [
        field.name
        for field in dataclasses.fields(kind)
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    missing = [option for option in needed if option not in found]
    if missing:
        main = main_option(name)
        way = repr(example(name)) if main and main[0] in missing else f"--policy-option {missing[0]}=..."
        raise InputError(f"--policy {name} must be given {', '.join(missing)}, got none; for instance {way}")
    controller: Controller = kind(**found)
    return controller


def example(name: str) -> str:
    """A policy of this name as it is written on the command line; the docs table and the battery of the tests use it."""
    main = main_option(name)
    return name if main is None else f"{name}:{main[1]}"


def main_option(name: str) -> tuple[str, str] | None:
    """The option that the text after a colon means and an example of it, as the controller itself says; None where it has none."""
    found: tuple[str, str] | None = getattr(REGISTRY[name], "main_option", None)
    return found


def _split(option: str) -> tuple[str, str]:
    name, equals, value = option.partition("=")
    if not equals or not name.strip():
        raise InputError(f"--policy-option must be name=value, got {option!r}; for instance max_batch_size=512")
    return name.strip().replace("-", "_"), value.strip()


def _kinds(kind: type) -> dict[str, tuple[type, ...]]:
    """Fields of a controller that can be written as text, with the kinds each may be of."""
    hints = typing.get_type_hints(kind)
    found = {}
    for field in dataclasses.fields(kind):
        hint = hints[field.name]
        options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
        plain = tuple(option for option in options if option in (bool, int, float, str, type(None)))
        if plain:
            found[field.name] = plain
    return found


def _read(name: str, kind: type, option: str, value: str) -> Any:
    kinds = _kinds(kind)
    if option not in kinds:
        raise InputError(
            f"an option of --policy {name} must be one of {', '.join(sorted(kinds)) or 'none'}, got {option!r}"
        )
    choices = kinds[option]
    if type(None) in choices and value.lower() == "none":
        return None
    if bool in choices:
        words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
        if value.lower() not in words:
            raise InputError(f"{option} must be true or false, got {value!r}")
        return words[value.lower()]
    if int in choices:
        return parse_count(option, value)
    if float in choices:
        try:
            return float(value)
        except ValueError as error:
            raise InputError(f"{option} must be a number, got {value!r}") from error
    return value
