"""A Python file of the user's own as a module: tasks and policies are taken from it."""

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from batchwright.core.errors import TaskError
from batchwright.tasks.blame import describe


@contextmanager
def file_module(path: Path, *, kind: str, form: str) -> Iterator[ModuleType]:
    """The module that a file makes; its folder is importable until the block ends.

    Args:
        path: A Python file.
        kind: What is taken from it, for messages.
        form: How that is named on the command line, for messages.

    Raises:
        TaskError: If there is no such file, or it does not import.
    """
    if not path.is_file():
        raise TaskError(f"{kind} file must be there, got {str(path)!r}, which is not a file; name it as {form}")
    if path.suffix != ".py":
        raise TaskError(f"{kind} file must be a Python file, got {str(path)!r}; name it as {form}")
    path = path.resolve()
    # A name of its own for each file: two files of the same name, or a file named as a module, do not meet.
    name = f"_batchwright_{kind}_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    with importable(path.parent):
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None  # the name ends with .py, which has a loader
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        # Dataclasses look their module up there while the file runs, and pickling for data workers does later.
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except (Exception, SystemExit) as error:
            del sys.modules[name]
            raise TaskError(f"{path.name} must import without an error, got {describe(error, path)}") from error
        yield module


@contextmanager
def importable(folder: Path) -> Iterator[None]:
    """Whether modules of this folder are found: first, as Python itself puts a script's folder, and not after the block."""
    # Taken out again, so that nothing later is imported from there unawares.
    importlib.invalidate_caches()
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        if str(folder) in sys.path:
            sys.path.remove(str(folder))
