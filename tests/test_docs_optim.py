"""The code of docs/optim.md runs, and its numbers are those that the library computes."""

import math

import numpy as np
import pytest
from tests.page_blocks import DOCS, run_blocks

from batchwright.optim.polar import JORDAN, best_quintics, depth_for, zolotarev
from batchwright.optim.polar.choose import BFLOAT16_SAFETY
from batchwright.optim.polar.quintic import largest_error


def test_the_blocks_of_the_page_run_in_order(capsys):
    names, count = run_blocks("optim.md")
    assert count == 4
    assert round(names["cost"].batch_size) == 5120
    assert max(names["scion"].norms()) <= 0.5
    assert names["gauge"].noise_scale().value > 0
    assert "0.weight  50x32  adamw" in capsys.readouterr().out.replace("     ", "  ")


def slope(quintics):
    return math.prod(quintic[0] for quintic in quintics)


def test_the_table_of_errors_is_what_the_library_computes():
    text = (DOCS / "optim.md").read_text(encoding="utf-8")
    best = best_quintics(2e-3, 5, safety=BFLOAT16_SAFETY)
    near_zero = np.array([1e-7])
    rows = {
        "five fixed quintics": (largest_error((JORDAN,) * 5, 1 / 400), slope((JORDAN,) * 5)),
        "five best quintics, with the margin for bfloat16": (largest_error(best, 2e-3), slope(best)),
        "two rational terms (the default)": (zolotarev(2e-3, 2).error, zolotarev(2e-3, 2)(near_zero)[0] * 1e7),
        "three rational terms (`tolerance=0.05`)": (zolotarev(2e-3, 3).error, zolotarev(2e-3, 3)(near_zero)[0] * 1e7),
    }
    for name, (error, steepness) in rows.items():
        (line,) = [line for line in text.splitlines() if line.startswith(f"| {name} |")]
        cells = [cell.strip() for cell in line.split("|")[2:4]]
        assert float(cells[0].split()[0]) == pytest.approx(error, rel=0.05), name
        assert float(cells[1]) == pytest.approx(steepness, rel=0.02), name
    assert depth_for("newton-schulz", 256.0**-2) == 9
