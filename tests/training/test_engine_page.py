"""The page and the example of the engine run as they stand."""

import importlib.util
from pathlib import Path

import pytest
from tests.page_blocks import run_blocks

ROOT = Path(__file__).resolve().parents[2]


def test_the_blocks_of_the_page_run_one_after_the_other(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names, num_blocks = run_blocks("engine.md")
    assert num_blocks == 4
    assert names["cosine"].last_epoch == names["cosine"].T_max
    assert sum(names["sizes"]) == 3 * 512
    assert names["engine"].num_steps == 2
    assert "noise scale" in capsys.readouterr().out


def test_the_example_learns_and_goes_on_where_it_stopped(tmp_path, capsys):
    spec = importlib.util.spec_from_file_location("own_loop", ROOT / "examples" / "own_loop.py")
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    accuracy = example.main(tmp_path)
    assert accuracy > 0.85
    assert example.main(tmp_path) == pytest.approx(accuracy, abs=0)
    assert "goes on after step" in capsys.readouterr().out
