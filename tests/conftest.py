"""Settings of the whole test run: one torch thread, and jaxtyping's shapes checked at every public call."""

import os
import random
from pathlib import Path

import pytest
import torch
from jaxtyping import install_import_hook

# beartype looks at random items of containers and draws them from Python's global generator; tests compare that generator, so
# it gets one of its own.
kept, random.getrandbits = random.getrandbits, random.Random(0).getrandbits
import beartype  # noqa: E402, F401

random.getrandbits = kept

install_import_hook("batchwright", "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))")
torch.set_num_threads(1)


@pytest.fixture
def data_root() -> Path:
    """The folder of real data sets, or a skip with its reason."""
    root = os.environ.get("BATCHWRIGHT_DATA")
    if not root or not Path(root).is_dir():
        pytest.skip("real data sets are not here: set BATCHWRIGHT_DATA to their folder")
    return Path(root)
