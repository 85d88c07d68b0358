"""The code of docs/tuning.md runs, and its tables name what there is."""

from tests.page_blocks import DOCS, run_blocks

from batchwright.tuning.objective import KNOWN


def test_the_block_of_the_page_runs(capsys):
    names, count = run_blocks("tuning.md")
    assert count == 1
    assert capsys.readouterr().out.startswith("Recommended: x ")
    assert names["found"].values["kind"] == "a"
    assert abs(names["found"].values["x"] - 0.3) < 0.15


def test_the_page_names_every_setting_of_a_task():
    text = (DOCS / "tuning.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in text for name in KNOWN)
