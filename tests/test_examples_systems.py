"""The examples of the research systems, each with a fact of its output that is known from elsewhere."""

import math
import re

import pytest
from tests.test_examples import EXAMPLES, run


def told_by(name, tmp_path):
    return run(tmp_path, str(EXAMPLES / f"{name}.py"))


def test_one_step_of_muon_stores_what_one_of_sgd_does_not(tmp_path):
    rows = re.findall(
        r"^ *(\d+) +([\d.]+) +\((\d+)\) +([\d.]+) +\((\d+)\)$", told_by("one_step_of_muon", tmp_path), re.M
    )
    assert [int(row[0]) for row in rows] == [32, 64, 128]
    for dim, sgd, sgd_theory, muon, muon_theory in rows:
        assert int(sgd_theory) == round(int(dim) ** 0.25)
        assert int(muon_theory) == round(int(dim) ** 1.25)
        assert float(muon) > 4 * float(sgd)


def test_muon_takes_the_matrices_and_both_get_to_what_can_be_foretold(tmp_path):
    told = told_by("muon_in_your_loop", tmp_path)
    width, blocks = 48, 2
    matrices = blocks * (4 * width * width + 2 * 4 * width * width)
    vectors = blocks * (4 * width + 4 * width + width) + 2 * width
    tables = (32 + 24 + 32) * width
    assert f"adamw: {tables + vectors:,} numbers, muon: {matrices:,} numbers" in told
    losses = [float(value) for value in re.findall(r"(?:AdamW|Muon) (\d\.\d+)", told)]
    assert len(losses) == 2
    floor = math.log(32) * 11 / 23
    assert all(0.98 * floor < loss < 1.1 * floor for loss in losses)


def test_the_measurement_foretells_what_batch_norm_loses_in_passes_of_two(tmp_path):
    told = told_by("micro_batches_of_two", tmp_path)
    accuracy = {
        (name, size): float(value)
        for name, size, value in re.findall(r"^(\w+) norm, passes of (\d+): accuracy (\S+)", told, re.M)
    }
    assert accuracy["batch", "32"] > 0.85
    assert accuracy["batch", "2"] < accuracy["kalman", "2"] < accuracy["group", "2"]
    excess = [float(value) for value in re.findall(r"by \+?(-?\d\.\d+) \(", told)]
    assert len(excess) == 5
    assert excess == sorted(excess, reverse=True)


def test_a_search_in_three_rounds_recommends_what_its_space_holds(tmp_path):
    told = told_by("tune_in_rounds", tmp_path)
    lr, batch_size = re.search(r"Recommended: lr (\S+), batch_size (\d+)\.", told).groups()
    assert 1e-3 <= float(lr) <= 1
    assert int(batch_size) in (8, 16, 32, 64, 128, 256)
    assert "The optimum is at most" in told


def test_a_generator_comes_nearer_to_digits_and_the_test_still_tells_its_samples(tmp_path):
    pytest.importorskip("PIL", reason="pillow is not installed; pip install 'batchwright[images]'")
    told = told_by("digits_gan", tmp_path)
    distances = [float(value) for value in re.findall(r"held out (\d\.\d+)", told)]
    assert len(distances) == 3
    assert distances == sorted(distances, reverse=True)
    real, samples = (float(value) for value in re.findall(r"p = (\S+)", told))
    assert real > 0.05 > samples
    from PIL import Image

    with Image.open(tmp_path / "runs" / "digits_gan.png") as picture:
        assert picture.size == (640, 640)


def test_an_environment_of_ones_own_is_learned_within_its_budget(tmp_path):
    pytest.importorskip("gymnasium", reason="gymnasium is not installed; pip install 'batchwright[rl]'")
    told = told_by("safe_policy_gradient", tmp_path)
    updates = [(int(size), float(value)) for size, value in re.findall(r"^(\d+) episodes: return (\S+),", told, re.M)]
    assert sum(size for size, _ in updates) <= 10_000
    # The best linear gain leaves a cost near that of the weather alone; doing nothing costs what the first batches show.
    assert updates[-1][1] > updates[0][1] + 1
    assert told.startswith("No guarantee.")


def test_a_larger_budget_is_carried_by_the_published_powers(tmp_path):
    told = told_by("larger_token_budget", tmp_path)
    batch = re.findall(
        r"^batch: +([\d,]+) tokens: +(\d+) sequences of +512, step size (\S+), ([\d,]+) steps", told, re.M
    )
    assert len(batch) == 2
    for (tokens, size, lr, steps), growth in zip(batch, (10, 100), strict=True):
        assert int(size) == 64 * growth ** (2 / 3) // 8 * 8
        # The step size times the number of steps is what it was.
        before = 1e-3 * 100e6 / (64 * 512)
        assert float(lr) * int(tokens.replace(",", "")) / (int(size) * 512) == pytest.approx(before, rel=0.005)
        assert int(steps.replace(",", "")) == round(int(tokens.replace(",", "")) / (int(size) * 512))
