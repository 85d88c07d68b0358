"""Every error is of the family, of its built-in kind, and carries the exit code that it promises."""

import pytest

from batchwright.core import errors
from batchwright.core.errors import BatchwrightError, InputError

CLASSES = [item for item in vars(errors).values() if isinstance(item, type) and not issubclass(item, Warning)]
KINDS = {
    "InputError": (ValueError, 2),
    "TaskError": (ValueError, 2),
    "DataError": (ValueError, 2),
    "RecordError": (ValueError, 2),
    "CheckpointError": (ValueError, 2),
    "NonFiniteLossError": (ArithmeticError, 2),
    "OutputError": (OSError, 2),
    "DoesNotFitError": (RuntimeError, 2),
    "RankError": (RuntimeError, 1),
    "MissingExtraError": (ImportError, 2),
    "NotEnoughEvidenceError": (RuntimeError, 3),
}


@pytest.mark.parametrize("name", KINDS)
def test_a_class_is_also_the_built_in_kind_and_has_its_exit_code(name):
    kind, exit_code = KINDS[name]
    found = getattr(errors, name)
    assert issubclass(found, BatchwrightError)
    assert issubclass(found, kind)
    assert found("").exit_code == exit_code


def test_every_class_is_of_the_family_and_has_a_known_exit_code():
    for found in CLASSES:
        assert issubclass(found, BatchwrightError)
        assert found("").exit_code in (1, 2, 3)
        assert found.__doc__


def test_the_message_is_what_was_said():
    assert str(InputError("lr must be positive")) == "lr must be positive"
    assert str(errors.OutputError("--out must be a folder")) == "--out must be a folder"
