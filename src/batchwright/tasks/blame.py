"""An exception out of a user's code in one line: its class, its message, and the line of the user's that it came from."""

import sysconfig
import traceback
from pathlib import Path

MAX_MESSAGE = 300
# What is not the user's own: this library, the standard library, and whatever is installed beside it.
_PACKAGE = Path(__file__).resolve().parents[1]
_STANDARD_LIBRARY = Path(sysconfig.get_path("stdlib"))


def describe(error: BaseException, path: Path | None = None) -> str:
    """Class and message of ``error``, and where it was raised.

    Args:
        error: An exception that was caught.
        path: The user's file, if it is known; its last line in the traceback is named. Otherwise the last line that
            belongs neither to this library nor to an installed package.
    """
    message = " ".join(str(error.msg if isinstance(error, SyntaxError) else error).split())
    if len(message) > MAX_MESSAGE:
        message = message[: MAX_MESSAGE - 1] + "…"
    place = _place(error, path)
    return f"{type(error).__name__}{': ' + message if message else ''}{place}"


def _place(error: BaseException, path: Path | None) -> str:
    if isinstance(error, SyntaxError) and error.filename and error.lineno:
        return f" (line {error.lineno} of {Path(error.filename).name})"
    frames = [(Path(frame.filename), frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    users = [(file, line) for file, line in frames if _is_users(file)]
    in_path = [(file, line) for file, line in users if path is not None and file.resolve() == path.resolve()]
    for file, line in reversed(in_path or users):
        return f" (line {line} of {file.name})"
    return ""


def _is_users(file: Path) -> bool:
    inside = file.is_relative_to(_PACKAGE) or file.is_relative_to(_STANDARD_LIBRARY)
    return not inside and "site-packages" not in file.parts and not str(file).startswith("<")
