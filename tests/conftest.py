"""Settings of the whole test run: one torch thread, and jaxtyping's shapes checked at every public call."""

import os
from pathlib import Path

import pytest
import torch
from jaxtyping import install_import_hook

import os as _os
if not _os.environ.get("NOHOOK"): install_import_hook("batchwright", "beartype.beartype")
torch.set_num_threads(1)


@pytest.fixture
def data_root() -> Path:
    """The folder of real data sets, or a skip with its reason."""
    root = os.environ.get("BATCHWRIGHT_DATA")
    if not root or not Path(root).is_dir():
        pytest.skip("real data sets are not here: set BATCHWRIGHT_DATA to their folder")
    return Path(root)
