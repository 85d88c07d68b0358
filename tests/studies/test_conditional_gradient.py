"""The study of stochastic conditional gradient: its simulation against a plain loop, and a whole run in seconds."""

import numpy as np
import pytest

from batchwright.studies import run_study
from batchwright.studies.conditional_gradient import toy
from batchwright.studies.conditional_gradient.presets import PRESETS, cells, toy_batches
from batchwright.studies.conditional_gradient.study import CONDITIONAL_GRADIENT
from batchwright.studies.registry import REGISTRY


def test_the_simulation_is_the_algorithm():
    """One setting, one repeat, step by step as the paper writes it."""
    num_steps, size, c, alpha = 6, 64, toy.STEP_CONSTANTS[2], toy.ALPHAS[3]
    generator = np.random.default_rng([1, 2])
    optimum = np.full(toy.DIM, toy.DIM**-0.5)
    noise = toy.SIGMA / np.sqrt(toy.DIM * size)

    def gradient(x):
        offset = x - optimum
        return offset / np.sqrt(toy.DELTA**2 + offset @ offset) + noise * generator.standard_normal(toy.DIM)

    x = np.zeros(toy.DIM)
    m = gradient(x)
    for _ in range(num_steps):
        m = (1 - alpha) * m + alpha * gradient(x)
        x = (1 - c / num_steps) * x + c / num_steps * toy.RADIUS * (-m / np.linalg.norm(m))
    expected = np.sqrt(toy.DELTA**2 + (x - optimum) @ (x - optimum)) - toy.DELTA
    found = toy.simulate(num_steps, size, 1, [1, 2])
    assert found.shape == (1, 6, 7)
    assert found[0, 2, 3] == pytest.approx(expected, rel=1e-10)


def test_without_noise_the_optimum_is_reached_up_to_the_step(monkeypatch):
    monkeypatch.setattr(toy, "SIGMA", 0.0)
    for steps in (64, 256):
        found = toy.simulate(steps, 1, 1, [0])[0, 2, 6]
        # The iterates end within one step, of length 2 radius / steps at most, of the optimum.
        assert found < (toy.DELTA**2 + (2 * toy.RADIUS / steps) ** 2) ** 0.5 - toy.DELTA


def test_cells_and_batches():
    assert REGISTRY["conditional-gradient"] is CONDITIONAL_GRADIENT
    for preset, size in PRESETS.items():
        names = [cell.name for cell in cells(preset, 0)]
        assert len(set(names)) == len(names)
        # No step constant leaves the ball: c / K is at most one.
        assert all(2**power / max(toy_batches(size, power)) >= max(toy.STEP_CONSTANTS) for power in size.toy_powers)


def test_a_whole_run_in_seconds(tmp_path, monkeypatch):
    monkeypatch.setattr("batchwright.studies.runner.PRESETS", ("tiny",))
    record = run_study(CONDITIONAL_GRADIENT, preset="tiny", out=tmp_path, num_workers=1)
    assert not record.failures
    rows = {row.what: row for row in record.rows}
    for ratio, size in ((2, 416), (4, 672), (6, 896), (8.065, 1120)):
        assert rows[f"batch size at {ratio:g} times the tokens"].measured.value == size
        assert rows[f"step size at {ratio:g} times the tokens"].verdict == "holds"
    assert rows["rise from 2048 to 4096 over that from 1024 to 2048"].measured.value == pytest.approx(2.28, abs=0.005)
    assert {figure.name for figure in record.figures} == {
        "bound",
        "simulation",
        "published",
        "language",
        "language-grid",
    }
