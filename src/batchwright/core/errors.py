"""Errors that only this library knows, each also of the built-in kind that a caller would expect.

Every class carries the exit code that the command line ends with: 2 for input that its user can mend, 3 for "not enough
evidence", 1 for a failure of ours.
"""


class BatchwrightError(Exception):
    """Base class of all errors raised on purpose by this library."""

    exit_code = 1


class InputError(BatchwrightError, ValueError):
    """A value breaks a rule; the message names the argument, the rule, the value and the way out."""

    exit_code = 2


class TaskError(InputError):
    """A task is missing or is not made as `batchwright.Task` asks."""


class DataError(InputError):
    """A data file is missing, damaged or not of the form that its reader expects."""


class NonFiniteLossError(BatchwrightError, ArithmeticError):
    """A training loss became NaN or infinite."""

    exit_code = 2


class RecordError(InputError):
    """A record on disk cannot be read."""


class CheckpointError(InputError):
    """A checkpoint on disk is missing, damaged, or belongs to another run."""


class OutputError(BatchwrightError, OSError):
    """The output folder cannot be written."""

    exit_code = 2


class DoesNotFitError(BatchwrightError, RuntimeError):
    """Not even one example fits the memory budget."""

    exit_code = 2


class RankError(BatchwrightError, RuntimeError):
    """Another process of the job failed or is gone; raised on those that could have gone on.

    Attributes:
        exit_code: That of the other's error.
    """

    def __init__(self, message: str, *, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class MissingExtraError(BatchwrightError, ImportError):
    """An optional dependency is needed and not installed."""

    exit_code = 2


class NotEnoughEvidenceError(BatchwrightError, RuntimeError):
    """The measurements do not settle the question; the message says how much more would."""

    exit_code = 3


class StabilityWarning(UserWarning):
    """A change of learning rate, momentum or batch size is likely to make the loss spike."""
