"""Controllers of a user's own: the class behind ``file.py:MyPolicy``, and the name that a run's records give it."""

import importlib
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from batchwright.adapt.controller import MEASUREMENTS, Controller
from batchwright.adapt.registry import REGISTRY
from batchwright.core.errors import InputError, TaskError
from batchwright.tasks.blame import describe
from batchwright.tasks.user_code import file_module, importable

FORM = "file.py:MyPolicy"
PARTS = ("init", "needs", "update")

# Those that this process was shown, by their names in records. A folder of records names a policy and never has it imported.
_SHOWN: dict[str, type] = {}


def is_own(text: str) -> bool:
    """Whether a policy on the command line names a class of the user's and not one of the registry."""
    source, _, name = text.rpartition(":")
    if not source:
        return text.endswith(".py")
    if source.split(":")[0] in REGISTRY:
        return False
    return source.endswith(".py") or (name.isidentifier() and all(part.isidentifier() for part in source.split(".")))


def load_own(text: str) -> type:
    """The class behind ``file.py:MyPolicy`` or ``package.module:MyPolicy``.

    Raises:
        InputError: If there is no such file, module or class, or the class is no controller.
    """
    source, _, name = text.rpartition(":")
    if not source:
        source, name = name, ""
    try:
        if source.endswith(".py"):
            with file_module(Path(source).expanduser(), kind="policy", form=FORM) as module:
                return _take(module, name, source)
        with importable(Path.cwd()):
            return _take(importlib.import_module(source), name, f"module {source}")
    except TaskError as error:
        raise InputError(f"--policy {text}: {error}") from error
    except ModuleNotFoundError as error:
        names = ", ".join(sorted(REGISTRY))
        raise InputError(
            f"--policy must be one of {names}, or {FORM}, got {text!r} and there is no module {error.name!r}; is its folder the "
            "working folder?"
        ) from error
    except (Exception, SystemExit) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"--policy {text}: module {source} must import without an error, got {describe(error)}"
        ) from error


def _take(module: ModuleType, name: str, where: str) -> type:
    kind = getattr(module, name, None) if name else None
    if not isinstance(kind, type):
        own = [
            each for each, value in vars(module).items() if _looks_right(value) and value.__module__ == module.__name__
        ]
        raise InputError(
            f"{where} must have a class {name or 'MyPolicy'}, a batchwright.adapt.Controller, got "
            f"{'only ' + ', '.join(own) if own else 'none'}; name it as {FORM}"
        )
    _check_kind(kind)
    return kind


def _looks_right(value: Any) -> bool:
    return isinstance(value, type) and all(hasattr(value, part) for part in PARTS)


def _check_kind(kind: type) -> None:
    missing = [part for part in PARTS if not hasattr(kind, part)]
    if missing:
        raise InputError(
            f"policy {kind.__name__} must have init, needs and update, got none of the name {' or '.join(missing)}; "
            "batchwright.adapt.Controller says what each does"
        )
    if not is_dataclass(kind):
        raise InputError(
            f"policy {kind.__name__} must be a frozen dataclass, whose fields are its options, got another class; "
            "put @dataclass(frozen=True, kw_only=True) above it"
        )


def policy_name(controller: Controller) -> str:
    """Its name in records: that of the registry, or ``stem:Class`` of a class of the user's, which is shown to this process by this.

    Raises:
        InputError: If it is no controller, or has options that JSON cannot hold or measurements that nothing makes.
    """
    kind = type(controller)
    for name, known in REGISTRY.items():
        if kind is known:
            return name
    _check_kind(kind)
    unknown = frozenset(controller.needs) - MEASUREMENTS
    if unknown:
        raise InputError(
            f"needs of policy {kind.__name__} must be of {', '.join(sorted(MEASUREMENTS))}, got {', '.join(sorted(unknown))}"
        )
    try:
        json.dumps(asdict(cast(Any, controller)))
    except TypeError as error:
        raise InputError(
            f"options of policy {kind.__name__} must be numbers, texts and lists of them, for records and checkpoints, got one that "
            f"JSON cannot hold ({error})"
        ) from error
    # Without its folder: a record holds no path of its machine, and a run may be resumed from another place.
    path = getattr(sys.modules.get(kind.__module__), "__file__", None)
    name = f"{Path(path).stem if path else kind.__module__}:{kind.__qualname__}"
    _SHOWN[name] = kind
    return name


def controller_of(name: str, options: Mapping[str, Any]) -> Controller:
    """The controller that records name.

    Raises:
        InputError: If it is of a class that this process was not shown.
    """
    kind = REGISTRY.get(name) or _SHOWN.get(name)
    if kind is None:
        own = name.partition(":")[2]
        raise InputError(
            f"policy of the run is {name!r}, a class of its user's, which is not imported because a folder says so; give it again "
            f"beside --resume: --policy FILE.py:{own}, or policy={own}() in Python"
        )
    return cast(Controller, kind(**options))
