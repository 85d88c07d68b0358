"""The code of docs/rl.md runs, and its numbers are those of the code."""

import math

from tests.page_blocks import DOCS, run_blocks

from batchwright.rl import GaussianPolicy
from batchwright.rl.smoothness import curvature, published_curvature


def test_the_blocks_of_the_page_run_in_order(capsys):
    names, number = run_blocks("rl.md")
    assert number == 3
    assert names["run"].num_moves > 0
    assert names["trainer"].guarantee.holds
    assert names["advice"].batch_size > 1
    assert "with probability at most 0.2" in capsys.readouterr().out


def test_the_constants_of_the_page_are_those_of_the_code():
    text = " ".join((DOCS / "rl.md").read_text(encoding="utf-8").split())
    smooth = GaussianPolicy(1, 1).coordinate_smoothing(2.0)
    found = [
        curvature(smooth, reward_bound=4.0, discount=0.9, horizon=20, form=form)
        for form in ("finite-horizon", "infinite-horizon", "smoothing")
    ]
    found.append(published_curvature(reward_bound=4.0, feature_bound=2.0, std=1.0, action_volume=4.0, discount=0.9))
    words = [f"{value:,.0f}" for value in found]
    assert f"`c` is {words[0]}, {words[1]}, {words[2]} and {words[3]}" in text
    assert f"{found[3] / found[0]:.1f} times smaller" in text
    assert math.isfinite(found[0])
