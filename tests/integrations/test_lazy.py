"""Nothing of the libraries is imported before it is asked for, and a missing one is an error that says what to install."""

import json
import subprocess
import sys

import pytest

import batchwright
from batchwright import integrations

LIBRARIES = ("lightning", "pytorch_lightning", "transformers", "accelerate", "tensorboard", "wandb")
NAMES = {
    "BatchSizeCallback": "lightning",
    "BatchSizeTrainerCallback": "transformers",
    "AccelerateBatchSize": "transformers",
}


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_importing_the_room_imports_no_library():
    code = (
        "import json, sys\nimport batchwright\nbatchwright.integrations.Accumulation\ndir(batchwright.integrations)\n"
        f"print(json.dumps([name for name in {LIBRARIES} if name in sys.modules]))"
    )
    assert json.loads(run(code)) == []


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_library_names_its_extra(name):
    code = (
        f"import sys\nfor library in {LIBRARIES}:\n    sys.modules[library] = None\n"
        "import importlib.util\nimportlib.util.find_spec = lambda name: None\n"
        "import batchwright as bw\nfrom batchwright.core.errors import MissingExtraError\n"
        f"try:\n    bw.integrations.{name}\nexcept MissingExtraError as error:\n    print(error)"
    )
    assert f"pip install 'batchwright[{NAMES[name]}]'" in run(code)


def test_the_room_names_what_it_has():
    assert batchwright.integrations is integrations
    assert set(NAMES) <= set(dir(integrations))
    with pytest.raises(AttributeError, match=r"no_such_name.*BatchSizeCallback"):
        integrations.no_such_name  # noqa: B018
