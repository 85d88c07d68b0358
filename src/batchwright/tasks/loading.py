"""A task from what a user names: a built-in name, ``file.py:make_task`` or ``package.module:make_task``."""

import difflib
import importlib
import inspect
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from batchwright.core.errors import TaskError
from batchwright.data.readers import find_data_root
from batchwright.tasks.blame import describe
from batchwright.tasks.checking import check_task
from batchwright.tasks.registry import REGISTRY
from batchwright.tasks.task import Task
from batchwright.tasks.user_code import file_module, importable

# Whoever loads a task checks it next, so both are had from here.
__all__ = ["check_task", "load_task"]

DEFAULT_FUNCTION = "make_task"
SIGNATURE = "def make_task() -> batchwright.Task"
FORMS = "a built-in name, file.py:make_task or package.module:make_task"


def load_task(spec: str, *, data_root: Path | None = None) -> Task:
    """The task behind ``spec``.

    Args:
        spec: A name of `REGISTRY`, with ``:variant`` where it has variants; or a Python file or an importable module, and
            after a colon the function in it that makes the task, ``make_task`` where none is named. The working folder, or
            the folder of the file, is importable while the function runs and not after.
        data_root: Folder of real data sets. A function that has an argument ``data_root`` is given it too, or else the
            folder that ``BATCHWRIGHT_DATA`` names, or None.

    Returns:
        The task as its maker made it; see `check_task` for a check that its loss works.

    Raises:
        TaskError: If the spec names nothing, or what it names does not make a task; one line says what and where.
        DataError: If a built-in task needs data that is not there.
    """
    if spec in REGISTRY:
        return REGISTRY[spec].make(data_root, None)
    source, colon, function = (spec, "", "") if spec.endswith(".py") else spec.rpartition(":")
    if source in REGISTRY:
        return _built_in_variant(source, function, data_root)
    if source.endswith(".py") or "/" in source or "\\" in source:
        return _from_file(Path(source).expanduser(), function or DEFAULT_FUNCTION, data_root)
    if colon and all(part.isidentifier() for part in source.split(".")):
        return _from_module(source, function or DEFAULT_FUNCTION, data_root)
    raise _unknown(spec)


def _built_in_variant(name: str, variant: str, data_root: Path | None) -> Task:
    known = REGISTRY[name].variants
    if not known:
        raise TaskError(f"task {name!r} has no variants, got {variant!r} after the colon; leave it out")
    if variant not in known:
        raise TaskError(f"variant of {name} must be one of {', '.join(known)}, got {variant!r}{_close(variant, known)}")
    return REGISTRY[name].make(data_root, variant)


def _from_file(path: Path, function: str, data_root: Path | None) -> Task:
    with file_module(path, kind="task", form="file.py:make_task") as module:
        return _make(module, function, path.name, data_root)


def _from_module(name: str, function: str, data_root: Path | None) -> Task:
    with importable(Path.cwd()):
        try:
            module = importlib.import_module(name)
        except (Exception, SystemExit) as error:
            missing = error.name if isinstance(error, ModuleNotFoundError) else None
            if missing is not None and (name == missing or name.startswith(missing + ".")):
                raise TaskError(
                    f"task must be {FORMS}, got {name + ':' + function!r} and there is no module {missing!r}"
                    f"{_close(name, REGISTRY)}; is its folder the working folder, or its package installed?"
                ) from error
            raise TaskError(f"module {name} must import without an error, got {describe(error)}") from error
        return _make(module, function, f"module {name}", data_root)


def _make(module: ModuleType, function: str, where: str, data_root: Path | None) -> Task:
    make = getattr(module, function, None)
    if make is None:
        own = _own_functions(module)
        raise TaskError(
            f"{where} must have a function {SIGNATURE.replace(DEFAULT_FUNCTION, function)}, got "
            f"{'only ' + ', '.join(own) if own else 'no function at all'}{_close(function, own)}"
        )
    if not callable(make):
        raise TaskError(f"{function} in {where} must be a function, {SIGNATURE}, got {type(make).__name__}")
    options = _options(make, function, where, data_root)
    try:
        task = make(**options)
    except (Exception, SystemExit) as error:
        file = getattr(module, "__file__", None)
        raise TaskError(
            f"{function} in {where} must make a task, got {describe(error, Path(file) if file else None)}"
        ) from error
    if not isinstance(task, Task):
        way_out = f"; end {function} with `return batchwright.Task(...)`" if task is None else ""
        raise TaskError(f"{function} in {where} must return a batchwright.Task, got {type(task).__name__}{way_out}")
    return task


def _options(make: Callable[..., Any], function: str, where: str, data_root: Path | None) -> dict[str, Any]:
    try:
        parameters = inspect.signature(make).parameters.values()
    except (TypeError, ValueError):  # a callable written in C tells nothing
        return {}
    optional = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    takes_root = any(each.name == "data_root" and each.kind in by_name for each in parameters)
    unknown = [
        each.name
        for each in parameters
        if each.default is inspect.Parameter.empty
        and each.kind not in optional
        and not (each.name == "data_root" and takes_root)
    ]
    if unknown:
        raise TaskError(
            f"{function} in {where} must take no argument, or data_root alone, got {', '.join(unknown)}; "
            "give the others a default"
        )
    return {"data_root": find_data_root(data_root)} if takes_root else {}


def _own_functions(module: ModuleType) -> list[str]:
    return sorted(
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and inspect.isfunction(value) and value.__module__ == module.__name__
    )


def _unknown(spec: str) -> TaskError:
    return TaskError(
        f"task must be {FORMS}, got {spec!r}{_close(spec.split(':')[0], REGISTRY)}; built in are {', '.join(REGISTRY)}"
    )


def _close(name: str, known: Any) -> str:
    found = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {found[0]}?" if found else ""
