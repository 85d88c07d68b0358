"""The code of docs/stability.md runs, and what it says of levels is what the library computes."""

import re
from pathlib import Path

import pytest

from batchwright.measure import stability

PAGE = Path(__file__).resolve().parents[1] / "docs" / "stability.md"


def test_the_blocks_of_the_page_run_in_order(capsys):
    text = PAGE.read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert len(blocks) == 4
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
    assert names["measured"].batch_size == 16
    assert names["gauge"].low == pytest.approx(2 * 0.1 / 0.05)
    assert names["change"].settings.lr == 0.5
    assert [reading.step for reading in names["monitor"].history] == [20, 40, 60]
    assert len(capsys.readouterr().out.splitlines()) == 4


@pytest.mark.parametrize(
    ("row", "options"),
    [
        ("SGD", {"momentum": 0.0}),
        ("heavy ball", {"momentum": 0.7}),
        ("Nesterov, torch's form", {"momentum": 0.7, "nesterov": True}),
        ("EMA form", {"momentum": 0.7, "form": "ema"}),
    ],
)
def test_the_table_of_levels_is_what_the_library_computes(row, options):
    (line,) = re.findall(rf"^\| {row}[^|]*\|([^|]*)\|([^|]*)\|$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    # Formulas of the page as Python: a number or a bracket before b, a bracket or lr is a factor.
    values = {"b": options["momentum"], "lr": 0.03}
    low, high = (
        eval(
            re.sub(r"(?<=[\d)])\s*(?=[(b]|lr)", "*", cell.strip(" `").replace("−", "-").replace("/lr", "/(lr)")), values
        )
        for cell in line
    )
    found = stability(lr=0.03, batch_sharpness=1.0, **options)
    assert (found.low, found.high) == pytest.approx((low, high))
