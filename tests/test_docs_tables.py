"""The tables of the docs are those of the code; `python docs/tables.py` writes them anew."""

import importlib.util
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[1] / "docs"
spec = importlib.util.spec_from_file_location("docs_tables", DOCS / "tables.py")
assert spec is not None
assert spec.loader is not None
tables = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tables)


@pytest.mark.parametrize("page", sorted(tables.TABLES))
def test_a_page_holds_the_table_of_the_code(page):
    text = (DOCS / page).read_text(encoding="utf-8")
    assert text.count(tables.BEGIN) == text.count(tables.END) == 1
    assert text == tables.updated(page), "write it anew: python docs/tables.py"


def test_each_rule_and_controller_names_its_source():
    for line in tables.controllers().split("\n\n")[0].splitlines()[2:]:
        cells = [cell.strip() for cell in line.split(" | ")]
        if not cells[0].startswith("| `fixed"):
            assert len(cells[-1].rstrip("| ")) > 10, line
    assert all(rule.source for rule in tables.RULES)
