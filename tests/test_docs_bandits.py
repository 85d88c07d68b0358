"""The code of docs/bandits.md runs, and what its comments say is so."""

import math

from tests.page_blocks import run_blocks

from batchwright.bandits import batch_schedule


def test_the_blocks_of_the_page_run_in_order(capsys):
    names, count = run_blocks("bandits.md")
    assert count == 3
    printed = capsys.readouterr().out
    assert printed.startswith("bpe: 64 trials in 3 rounds: 8, 23, 33\n")
    assert "Recommended: lr" in printed
    found = names["found"]
    # The optimum of the example is 0, and choosing adam costs 0.3; the noise has a standard deviation of 0.05.
    assert found.values["opt"] == "sgd"
    gain = found.values["lr"] / found.values["batch_size"] ** 0.5 / (1 - found.values["momentum"])
    assert 0.1 * (math.log(gain) + 4.6) ** 2 < 0.05
    assert [each.id for each in names["again"].pending()] == [each.id for each in names["small"].pending()]
    assert set(names["off"].radius) == {"lr", "batch_size", "momentum"}


def test_the_numbers_of_rounds_of_the_page_are_those_of_the_code():
    assert [len(batch_schedule(horizon, rule="sqrt")) for horizon in (64, 1000, 10_000)] == [3, 4, 5]
    assert [len(batch_schedule(horizon)) for horizon in (64, 1000, 10_000)] == [2, 3, 3]
