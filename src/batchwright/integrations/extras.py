"""Optional libraries, imported when they are first needed; a missing one is an error that names the extra to install."""

from importlib import import_module
from typing import Any

from batchwright.core.errors import MissingExtraError


def require(module: str, extra: str) -> Any:
    """Import a module of an optional library.

    Args:
        module: Its dotted name.
        extra: The extra of this package that brings it.

    Raises:
        MissingExtraError: If it is not installed, or one of its own imports fails.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise MissingExtraError(
            f"{module} must be installed for this, got {type(error).__name__}: {error}; pip install 'batchwright[{extra}]'"
        ) from error
