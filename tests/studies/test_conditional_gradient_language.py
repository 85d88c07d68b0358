"""The runs of a language model in the study of stochastic conditional gradient: the loop, and what is made of the losses."""

import json
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from batchwright.cli.app import run
from batchwright.optim import Scion
from batchwright.studies.conditional_gradient import curves as curves_module
from batchwright.studies.conditional_gradient.curves import best_step, curves, slope_interval, vertex, whole_seeds
from batchwright.studies.conditional_gradient.grid import SCHEDULES, arm_settings, language_cells
from batchwright.studies.conditional_gradient.language import run_language
from batchwright.studies.conditional_gradient.language_figures import grid_figure, language_figure
from batchwright.studies.conditional_gradient.language_rows import (
    batch_rows,
    constant_rows,
    published_step_slope,
    schedule_rows,
    step_rows,
    u_rows,
)
from batchwright.studies.conditional_gradient.scion_run import fit
from batchwright.studies.study import Place

CONTEXT = 16


def recorded(monkeypatch, **settings):
    """What `fit` asked for: sequences, and the step size of every step."""
    weight = nn.Parameter(torch.ones(2, 2))
    optimizer = Scion([{"params": [weight], "norm": "sign"}], lr=0.1)
    asked, lrs = [], []

    def gradient(first, number):
        asked.append((first, number))
        weight.grad = torch.ones(2, 2)
        return float(first)

    step = optimizer.step
    monkeypatch.setattr(optimizer, "step", lambda: (lrs.append(optimizer.param_groups[0]["lr"]), step())[1])
    return fit(optimizer, gradient, sequence_length=4, **settings), asked, lrs


def test_a_fixed_run_uses_its_tokens_and_its_step_size_falls_over_the_last_28_percent(monkeypatch):
    found, asked, lrs = recorded(monkeypatch, budgets=[800], batch_size=2, lr=0.01)
    assert asked == [(2 * step, 2) for step in range(100)]
    assert lrs == pytest.approx([0.01 * min(1, (1 - step / 100) / 0.28) for step in range(100)], rel=1e-12)
    assert (found["used"], found["num_steps"], found["batch_sizes"]) == (800, 100, [[0, 2]])
    # The losses are the first sequences; those of the last tenth of the tokens begin at 180.
    assert found["train_loss"] == pytest.approx(np.mean(range(180, 200, 2)))


def test_steps_that_would_use_more_than_the_budget_are_not_begun(monkeypatch):
    found, asked, _ = recorded(monkeypatch, budgets=[100], batch_size=6, lr=0.01)
    assert [number for _, number in asked] == [6] * 4
    assert found["used"] == 96


def test_the_restarted_run_takes_the_settings_of_the_total_once_the_first_budget_is_used(monkeypatch):
    found, asked, lrs = recorded(monkeypatch, budgets=[80, 640], batch_size=1, lr=0.01)
    assert found["batch_sizes"] == [[0, 1], [80, 4]]
    assert asked[:21] == [*((each, 1) for each in range(20)), (20, 4)]
    assert lrs[:20] == [0.01] * 20
    assert lrs[20] == pytest.approx(0.005)
    # What it comes to is what the fixed large batch has from the beginning.
    settings = {arm: arm_settings(SCHEDULES["middle"], arm) for arm in ("first", "second", "restarted")}
    assert settings["second"]["batch_size"] == 4 * settings["first"]["batch_size"]
    assert settings["second"]["lr"] == pytest.approx(settings["first"]["lr"] / 2)
    assert settings["restarted"]["budgets"] == [settings["first"]["budgets"][0] // 8, settings["first"]["budgets"][0]]


def test_a_run_in_parts_is_the_run(monkeypatch):
    _, whole, lrs = recorded(monkeypatch, budgets=[80, 640], batch_size=1, lr=0.01)
    asked, rates, used = [], [], 0
    for last in (50, 100, 333, 640):
        found, more, some = recorded(monkeypatch, budgets=[80, 640], batch_size=1, lr=0.01, first=used, last=last)
        used = found["used"]
        asked += more
        rates += some
    assert asked == whole
    assert rates == lrs


def synthetic(
    batch_exponent=2 / 3,
    step_exponent=1.0,
    noise=0.0,
    powers=(12, 15, 18, 21),
    sizes=range(13),
    steps=range(-36, 3),
    seeds=3,
):
    """Losses whose best batch is ``T^batch_exponent`` over 64, and whose best step size is ``K^-step_exponent``."""
    generator = np.random.default_rng(0)
    found = {}
    for power in powers:
        for size in sizes:
            num_steps = 2**power // (CONTEXT * 2**size)
            if num_steps < 1:
                continue
            for step in steps:
                for seed in range(seeds):
                    off_batch = size - (batch_exponent * power - 6)
                    off_step = step / 2 + step_exponent * math.log2(num_steps)
                    loss = 2 + 0.02 * off_batch**2 + 0.05 * off_step**2 + noise * generator.standard_normal()
                    found[f"language/{power}/{size}/{step}/{seed}"] = {
                        "arguments": {
                            "budgets": [2**power],
                            "batch_size": 2**size,
                            "lr": 2.0 ** (step / 2),
                            "seed": seed,
                        },
                        "loss": loss,
                        "num_steps": num_steps,
                    }
    return found


def rows_of(rows):
    return {row.what: row for row in rows}


def test_slopes_that_were_put_in_come_out():
    results = synthetic(noise=1e-4)
    steps = rows_of(step_rows(results))
    for power in (12, 15, 18, 21):
        row = steps[f"T=2^{power}: slope of the best step size over 1/K, across batches"]
        assert row.measured.value == pytest.approx(1.0, abs=0.03)
        assert row.verdict == "holds"
    assert steps["slope of the best step size over 1/K at one batch, across budgets"].verdict == "holds"
    at_best = steps["slope of the best step size in T, at the best batch"]
    assert at_best.measured.value == pytest.approx(-1 / 3, abs=0.05)
    batches = rows_of(batch_rows(results))
    assert len(batches) == 2
    for row in batches.values():
        assert row.measured.value == pytest.approx(2 / 3, abs=0.02)
        assert row.verdict == "holds"
        assert row.seeds == (0, 1, 2)
    for row in u_rows(results):
        assert row.verdict == "holds"


def test_other_slopes_do_not_hold_and_noise_is_not_resolved():
    results = synthetic(batch_exponent=0.4, step_exponent=0.25, noise=1e-4)
    steps = rows_of(step_rows(results))
    row = steps["T=2^18: slope of the best step size over 1/K, across batches"]
    assert row.measured.value == pytest.approx(0.25, abs=0.03)
    assert row.verdict == "does not hold"
    assert all(row.verdict == "does not hold" for row in batch_rows(results))
    noisy = rows_of(batch_rows(synthetic(noise=0.3, seeds=1)))
    assert noisy["slope of the best batch in T"].verdict == "not resolved"


def test_where_the_best_batch_is_an_end_there_is_no_u():
    results = synthetic(batch_exponent=1.0, powers=(12, 15), sizes=range(3))
    rows = rows_of(u_rows(results))
    row = rows["T=2^15: loss at the largest batch, 4, less that at 4"]
    assert row.measured.value == 0.0
    assert row.verdict == "does not hold"
    assert rows["T=2^15: loss at the smallest batch, 1, less that at 4"].verdict == "holds"


def test_the_slope_and_its_interval_are_those_of_least_squares():
    from scipy.stats import linregress, t

    generator = np.random.default_rng(1)
    x = generator.uniform(1, 100, 12)
    y = 3 * x**0.7 * np.exp(0.2 * generator.standard_normal(12))
    fitted = linregress(np.log(x), np.log(y))
    found = slope_interval(x.tolist(), y.tolist())
    assert found.value == pytest.approx(fitted.slope, rel=1e-10)
    assert found.high - found.value == pytest.approx(t.ppf(0.975, 10) * fitted.stderr, rel=1e-10)
    # Lines of one slope and intercepts of their own: a factor for each group changes nothing.
    groups = [0] * 5 + [1] * 7
    shifted = y * np.where(np.array(groups) == 1, 50.0, 1.0)
    one, other = (slope_interval(x.tolist(), each.tolist(), groups).value for each in (y, shifted))
    assert one == pytest.approx(other, rel=1e-10)
    assert one != pytest.approx(fitted.slope, rel=1e-3)
    assert slope_interval([1, 2], [1, 2]) is None
    assert slope_interval([3, 3, 3], [1, 2, 3]) is None
    assert slope_interval([1, 2, 4, 8], [1, 2, 4, math.nan]).value == pytest.approx(1.0)


def test_the_vertex_of_a_parabola_and_where_there_is_none():
    x = np.arange(7.0)
    assert vertex(x, ((x - 2.7) ** 2).tolist()) == pytest.approx(2.7)
    # Beyond the points it is kept at the last of them.
    assert vertex(x, [49.0, 36.0, 25.0, 16.0, 9.0, 4.0, 1.0]) == 6.0
    assert vertex([0.0, 1.0], [1.0, 0.0]) == 1.0
    assert best_step({1e-4: 3.0, 2e-4: 1.0, 4e-4: 3.0}) == (pytest.approx(2e-4), False)
    assert best_step({1e-4: 1.0, 2e-4: 2.0, 4e-4: 3.0}) == (pytest.approx(1e-4), True)
    assert best_step({1e-4: 2.0, 2e-4: 1.0, 4e-4: math.inf}) == (pytest.approx(2e-4), False)


def test_only_whole_seeds_count_and_diverged_runs_are_infinite():
    results = synthetic(powers=(12,), sizes=range(4), seeds=2)
    del results["language/12/3/0/1"]
    found = curves(results, "language/")
    assert [curve.seed for curve in found] == [0]
    results["language/12/3/0/0"]["loss"] = math.nan
    assert curves(results, "language/")[0].losses[3] < math.inf


def test_a_seed_that_lacks_a_planned_run_is_left_out():
    planned = [f"language/tokens-8/b-{size}/lr-1/seed-0" for size in (1, 2)] + ["language/tokens-9/b-1/lr-1/seed-0"]
    names = [*planned, "language/tokens-8/b-1/lr-1/seed-1", "language/tokens-9/b-1/lr-1/seed-5", "rule"]
    found = whole_seeds({name: {} for name in names}, "language/", planned)
    assert list(found) == [*planned, "language/tokens-9/b-1/lr-1/seed-5", "rule"]
    parts = [f"nanogpt/tokens-8/b-1/lr-1/seed-0/part-{part}" for part in range(2)]
    assert whole_seeds({parts[0]: {}}, "nanogpt/", parts) == {}
    assert list(whole_seeds({part: {} for part in parts}, "nanogpt/", parts)) == parts


def test_one_seed_resolves_nothing():
    rows = u_rows(synthetic(powers=(12,), sizes=range(5), seeds=1))
    assert [row.verdict for row in rows] == ["not resolved"] * 2


def test_the_largest_batch_that_costs_little_is_read_off_the_line_between_batches(monkeypatch):
    monkeypatch.setattr(curves_module, "FREE", 0.05)
    curve = curves_module.Curve(
        tokens=1,
        seed=0,
        batch_sizes=(1, 2, 4, 8),
        losses=(2.2, 2.0, 2.04, 2.08),
        lrs=(1.0,) * 4,
        at_edge=(False,) * 4,
        num_steps=(8, 4, 2, 1),
    )
    assert curve.free_batch() == pytest.approx(2**2.25)
    monkeypatch.setattr(curves_module, "FREE", 0.1)
    assert math.isnan(curve.free_batch())


def test_the_measured_constants_put_the_edge_beside_the_best_batch():
    results = synthetic(noise=1e-4)
    values = {"smoothness": 2.0, "mu": 0.5, "rho": 4.0, "sigma": 3.0}
    results["constants"] = {
        "arguments": {"seed": 0},
        **{name: [value, 0.9 * value, 1.1 * value] for name, value in values.items()},
    }
    rows = rows_of(constant_rows(results))
    for power in (12, 21):
        edge = (2**power * 0.5 * 4 * 3 / 2) ** (2 / 3) / CONTEXT
        row = rows[f"T=2^{power}: best batch over the rule's upper edge"]
        assert row.measured.value == pytest.approx(2 ** (2 * power / 3 - 6) / edge, rel=0.02)
        assert row.verdict == "holds"
    results["constants"]["mu"] = [0.1, -0.2, 0.4]
    assert [row.verdict for row in constant_rows(results)] == ["not resolved"]
    results["constants"]["mu"] = [-0.3, -0.4, -0.2]
    assert [row.verdict for row in constant_rows(results)] == ["does not hold"]
    assert constant_rows({}) == []


def test_schedules_are_compared_seed_by_seed():
    results = {
        f"schedule/{arm}/seed-{seed}": {"arguments": {"seed": seed}, "loss": 2 + 0.1 * seed + more}
        for arm, more in (("first", 0.05), ("second", 0.001), ("restarted", 0.0))
        for seed in range(3)
    }
    rows = list(rows_of(schedule_rows(results)).values())
    assert [row.measured.value for row in rows] == pytest.approx([-0.05, -0.049, -0.001])
    assert [row.verdict for row in rows] == ["holds"] * 3
    del results["schedule/second/seed-2"]
    assert rows_of(schedule_rows(results))[rows[2].what].seeds == (0, 1)


def test_the_published_best_step_size_rises_much_slower_than_one_over_the_steps():
    # 1.2, 2.4, 2.4, 3.6, 3.6, 3.6, 3.6 over seven octaves of batch.
    logs = np.log2([1.2, 2.4, 2.4, 3.6, 3.6, 3.6, 3.6])
    octaves = np.arange(7) - 3
    assert published_step_slope() == pytest.approx(float((logs * octaves).sum() / (octaves**2).sum()))


def test_figures_have_a_point_for_every_batch_and_budget():
    results = synthetic(powers=(12, 15), sizes=range(4), seeds=2)
    figure = language_figure(results)
    losses, steps, batches = figure.panels
    assert [len(series.x) for series in losses.series] == [4, 4]
    assert [series.name for series in steps.series] == ["T=2^12", "T=2^15", "proportional to 1/K"]
    line = batches.series[-1]
    assert line.y[1] / line.y[0] == pytest.approx((line.x[1] / line.x[0]) ** (2 / 3))
    assert len(grid_figure(results).panels) == 2
    assert language_figure({}) is None


def test_one_seed_sees_the_same_sequences_at_every_batch_size(tmp_path, monkeypatch):
    monkeypatch.delenv("BATCHWRIGHT_DATA", raising=False)
    place = Place(folder=tmp_path, device=torch.device("cpu"))

    def at(batch_size, seed=0, lr=4e-4):
        return run_language(place, budgets=[2**10], batch_size=batch_size, lr=lr, seed=seed, num_evaluation=64)

    # Without a step the network is that of the seed: the loss of the text is that of the alphabet, or a little more.
    still = [at(size, lr=1e-12)["loss"] for size in (1, 8)]
    assert still[0] == pytest.approx(still[1], abs=1e-5)
    assert still[0] == pytest.approx(math.log(96), rel=0.1)
    one = at(4)
    assert one["loss"] < still[0] - 0.5
    assert one["loss"] == at(4)["loss"]
    assert one["loss"] != at(4, seed=1)["loss"]
    assert one["num_steps"] == 2**10 // (4 * CONTEXT)


def test_cells_have_names_of_their_own_and_the_budgets_span_a_factor_of_sixteen_or_more():
    cells = language_cells("middle", 0)
    assert len({cell.name for cell in cells}) == len(cells)
    grid = [cell.arguments for cell in cells if cell.name.startswith("language/")]
    budgets = sorted({each["budgets"][0] for each in grid})
    assert budgets[-1] >= 16 * budgets[0]
    for tokens in budgets:
        own = [each for each in grid if each["budgets"] == [tokens]]
        assert len({each["batch_size"] for each in own}) >= 5
        assert len({each["lr"] for each in own}) >= 4
    weights = [cell.weight for cell in cells if "tokens-16384/b-1/lr-0.0001/" in cell.name]
    assert all(earlier > later for earlier, later in pairwise(weights))
    # The schedules were tuned on other seeds than those they are compared on.
    assert not {each["seed"] for each in grid} & {
        cell.arguments["seed"] for cell in cells if cell.name.startswith("schedule/")
    }


def test_the_command_runs_a_cell_on_a_text_under_the_data_root(capsys, tmp_path, monkeypatch):
    monkeypatch.delenv("BATCHWRIGHT_DATA", raising=False)
    command = ["study", "conditional-gradient", "--preset", "middle", "--out", str(tmp_path / "out")]
    assert run(command) == 2
    assert "--data-root" in capsys.readouterr().err
    (tmp_path / "tinyshakespeare").mkdir()
    text = "to be, or not to be: that is the question\n" * 400
    (tmp_path / "tinyshakespeare" / "input.txt").write_text(text)
    only = [
        "--only",
        "language/tokens-16384/b-32/lr-0.0001/seed-0",
        "--workers",
        "1",
        "--data-root",
        str(tmp_path),
        "--json",
    ]
    assert run([*command, *only]) == 0
    document = json.loads(capsys.readouterr().out)
    assert not document["result"]["studies"]["conditional-gradient"]["failures"]
    lines = [json.loads(line) for line in (tmp_path / "out" / "records.jsonl").read_text().splitlines()]
    found = [line for line in lines if line["kind"] == "cell"]
    assert [line["num_steps"] for line in found] == [32]
    assert 0 < found[0]["loss"] < math.log(len(set(text)))
