"""The code of docs/rl_environments.md runs."""

import pytest
from tests.page_blocks import run_blocks


def test_the_blocks_of_the_page_run_in_order(capsys):
    pytest.importorskip("gymnasium")
    names, count = run_blocks("rl_environments.md")
    assert count == 2
    assert names["run"].num_trajectories == 5000
    assert "No guarantee." in capsys.readouterr().out
