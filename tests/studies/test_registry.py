"""The battery over every study: its cells can run apart from one another, it says its main claim, and it has a page."""

import json
from pathlib import Path

import pytest

from batchwright.core.serialization import to_plain
from batchwright.studies.registry import REGISTRY
from batchwright.studies.study import PRESETS

DOCS = Path(__file__).resolve().parents[2] / "docs" / "studies"
SEED = 3


@pytest.mark.parametrize("name", REGISTRY)
def test_a_study_is_named_as_its_key_and_says_what_it_reproduces(name):
    study = REGISTRY[name]
    assert study.name == name
    assert study.title
    assert study.source
    assert study.headline
    assert not study.options or study.configure is not None


@pytest.mark.parametrize("name", REGISTRY)
def test_the_cells_of_every_preset_can_run_in_any_process(name):
    configured = REGISTRY[name].configured({}, None)
    for preset in (*PRESETS, *configured.more_presets):
        cells = list(configured.cells(preset, SEED))
        names = [cell.name for cell in cells]
        assert len(set(names)) == len(names) > 0
        for number, cell in enumerate(cells):
            # A worker imports the function by its module; arguments are recorded as JSON.
            assert cell.run.__qualname__ == cell.run.__name__ != "<lambda>", cell.name
            assert json.loads(json.dumps(to_plain(cell.arguments), allow_nan=False)) is not None
            assert set(cell.after) <= {*names[:number], *names[number + 1 :]}, cell.name


@pytest.mark.parametrize("name", REGISTRY)
def test_nothing_finished_is_a_summary_too(name):
    study = REGISTRY[name].configured({}, None)
    assert all(row.verdict == "not there yet" for row in study.summarise("smoke", {}).rows)


@pytest.mark.parametrize("name", REGISTRY)
def test_a_study_has_a_page_that_says_how_to_run_it(name):
    assert f"batchwright study {name}" in (DOCS / f"{name}.md").read_text(encoding="utf-8")
