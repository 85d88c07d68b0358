"""The code of docs/nn.md runs, and the table of targets is the registry's."""

import re

from tests.page_blocks import DOCS, run_blocks

from batchwright.nn import REGISTRY, GhostBatchNorm2d


def test_the_blocks_of_the_page_run_in_order(capsys):
    names, number = run_blocks("nn.md")
    assert number == 7
    assert names["found"].micro_batch_sizes == (2, 4, 8, 16, 32)
    assert isinstance(names["model"][1], GhostBatchNorm2d)
    assert names["named"] == ("1",)
    assert "1: BatchNorm2d(16" in capsys.readouterr().out


def test_every_target_of_a_conversion_has_a_row():
    text = (DOCS / "nn.md").read_text(encoding="utf-8")
    rows = set(re.findall(r"^\| `(\w+)` \|", text.split("| `to=` |")[1].split("\n\n")[0], flags=re.MULTILINE))
    assert rows == set(REGISTRY)
