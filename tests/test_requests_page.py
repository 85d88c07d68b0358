"""The page of requests runs as it stands, and what it points at is there."""

import re
from pathlib import Path

import pytest
from tests.page_blocks import DOCS, run_blocks


def test_the_blocks_of_the_page_run_one_after_the_other(capsys):
    names, num_blocks = run_blocks("requests.md")
    printed = capsys.readouterr().out
    assert num_blocks == 9
    assert "384 examples in 4 micro-batches" in printed
    assert names["cosine"].last_epoch == (32 + 64 + 17 + 256) // 32
    found = dict(re.findall(r"^(train|eval) (\d+) ", printed, re.M))
    assert int(found["train"]) < int(found["eval"])
    assert names["engine"].batch_size == 64
    assert "noise scale" in printed
    assert names["norms"].shape == (16,)
    assert "lr=0.002" in printed
    assert "take square-root" in printed


def test_the_examples_and_sections_that_the_page_names_are_there():
    text = (DOCS / "requests.md").read_text(encoding="utf-8")
    for path in re.findall(r"\]\((\.\./[^)#]+|[a-z_]+\.md)", text):
        assert (DOCS / path).exists(), path
    titles = re.findall(r"^## (.*)$", text, re.M)
    anchors = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
    assert set(re.findall(r"\]\(#([^)]+)\)", text)) <= anchors


@pytest.mark.parametrize(
    "example", sorted(re.findall(r"examples/(\w+)\.py", (DOCS / "requests.md").read_text("utf-8")))
)
def test_the_readme_of_an_example_says_how_to_run_it(example):
    path = Path(DOCS.parent, "examples", f"{example}.py")
    assert f"python examples/{example}.py" in path.read_text(encoding="utf-8")
