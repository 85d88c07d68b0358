import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
from scipy import stats

from batchwright.core.records import RecordWriter, write_json
from batchwright.core.serialization import to_plain
from batchwright.report import Collected, collect
from batchwright.report.figures import (
    Figure,
    batch_size_figure,
    calibration_figure,
    comparison_figure,
    knee_batch_size,
    pilot_noise_figure,
    prediction_figure,
    run_noise_figure,
    stability_figure,
    step_time_figure,
    training_figure,
    verification_figure,
)
from batchwright.report.figures.prediction import flat_part, usable_curve
from batchwright.report.figures.style import batch_axis, log_axis, mark_batch_size, new_plot
from batchwright.report.plan_records import PlanRecord, VerificationRecord, parse_plan, parse_verification

Maker = Callable[..., dict[str, Any]]
Writer = Callable[..., Path]


@pytest.fixture
def plan(tmp_path: Path, plan_maker: Maker) -> PlanRecord:
    write_json(tmp_path / "plan.json", plan_maker())
    return next(iter(collect(tmp_path).plans.values()))


@pytest.fixture
def verification(verification_maker: Maker) -> VerificationRecord:
    return parse_verification(verification_maker(), "verification.json")


@pytest.fixture
def found(realistic: Path) -> Collected:
    return collect(realistic)


def drawn(figure: Figure | None) -> Figure:
    assert figure is not None
    for view in figure.views:
        assert len(view.visible) == len(figure.plot.data)
    return figure


def trace(figure: Figure | None, name: str) -> go.Scatter:
    (only,) = [item for item in drawn(figure).plot.data if item.name == name]
    return only


def test_pilot_points_without_upper_bound_stand_at_their_lower_bound(plan: PlanRecord):
    arrows = trace(pilot_noise_figure(plan), "no upper bound")
    assert list(arrows.x) == [10, 30]
    assert list(arrows.y) == [14.0, 20.0]
    assert arrows.marker.symbol == "triangle-up-open"
    line = trace(pilot_noise_figure(plan), "noise scale")
    assert line.y[0] is None
    assert line.y[2] == 70.0


def test_step_times_are_drawn_in_milliseconds_with_their_intervals(plan: PlanRecord):
    points = trace(step_time_figure(plan), "measured")
    first = plan.evidence.step_times[0]
    assert points.y[0] == pytest.approx(1e3 * first.step_time_s.value)
    assert points.error_y.array[0] == pytest.approx(1e3 * (first.step_time_s.high - first.step_time_s.value))
    assert knee_batch_size(plan) == pytest.approx(2.1e-3 / 3.4e-5)


def test_piecewise_step_time_is_drawn_beside_the_line_it_leaves(plan: PlanRecord, plan_maker: Maker):
    assert not [item for item in drawn(step_time_figure(plan)).plot.data if item.name == "used by the plan"]
    piecewise = plan_maker()
    for point in piecewise["evidence"]["curve"]:
        point["step_time_s"] *= 2 if point["batch_size"] > 500 else 1
    assert trace(step_time_figure(parse_plan(write_and_read(piecewise), "plan.json")), "used by the plan")


def write_and_read(value: dict[str, Any]) -> dict[str, Any]:
    """Infinities as the strings that are on disk."""
    plain: dict[str, Any] = to_plain(value)
    return plain


def test_prediction_marks_the_plan_and_the_minimum_of_the_curve(plan: PlanRecord):
    curve = usable_curve(plan)
    figure = prediction_figure(plan)
    line = trace(figure, "time to target")
    assert list(line.y) == [point.time.value for point in curve]
    fastest = min(curve, key=lambda point: point.time.value)
    assert trace(figure, f"shortest time ({fastest.batch_size:,.0f})").x == (fastest.batch_size,)
    assert trace(figure, "plan (128)").x == (128.0,)
    assert trace(figure, "examples to target").y[0] == curve[0].examples


def test_flat_part_holds_exactly_the_sizes_within_tolerance(plan: PlanRecord):
    curve = usable_curve(plan)
    first, last = flat_part(curve, 1.1)
    best = min(point.time.value for point in curve)
    inside = [point.batch_size for point in curve if point.time.value <= 1.1 * best]
    assert (first, last) == (inside[0], inside[-1])


def test_calibration_bars_are_student_intervals(plan: PlanRecord):
    points = trace(calibration_figure(plan), "loss")
    assert list(points.y) == [0.401, 0.403, 0.409, 0.431, 0.482, 0.577]
    assert points.error_y.array[0] == pytest.approx(stats.t.ppf(0.975, 3) * 0.004)


def test_calibration_tells_the_largest_harmless_size_where_the_plan_has_it(plan: PlanRecord):
    assert "Up to 140 (96–210) the loss is not worse than that of 32" in calibration_figure(plan).caption
    found = replace(plan.evidence.calibration, largest_harmless=None)
    older = replace(plan, evidence=replace(plan.evidence, calibration=found))
    assert "Up to" not in calibration_figure(older).caption


def test_verification_colours_the_mean_over_seeds_and_crosses_out_what_failed(verification: VerificationRecord):
    figure = drawn(verification_figure(verification))
    assert [view.name for view in figure.views] == ["examples to target", "seconds to target"]
    discs = figure.plot.data[0]
    cell = [trial.examples for trial in verification.trials if trial.batch_size == 32][:2]
    assert discs.marker.color[0] == pytest.approx(math.log10(np.mean(cell)))
    crosses = next(item for item in figure.plot.data if item.name == "not reached")
    assert sorted(crosses.x) == [256.0, 512.0]


def test_setting_that_one_seed_failed_is_crossed_out(verification_maker: Maker):
    value = verification_maker()
    value["trials"][0].update(reached=False, examples=None, seconds=None, steps=None)
    crosses = trace_names(verification_figure(parse_verification(value, "v")), "not reached")[0]
    assert 32.0 in crosses.x
    assert any("1 of 2 seeds" in text for text in crosses.text)


def trace_names(figure: Figure | None, name: str) -> list[go.Scatter]:
    return [item for item in drawn(figure).plot.data if item.name == name]


def test_training_curves_show_the_evaluations_and_the_mean_over_seeds(tmp_path: Path, run_writer: Writer):
    for seed in range(3):
        run_writer(tmp_path / str(seed), seed=seed, to_target=30000.0)
    runs = collect(tmp_path).runs
    figure = drawn(training_figure(runs))
    assert [view.name for view in figure.views] == [
        "accuracy by examples",
        "accuracy by seconds",
        "loss by examples",
        "loss by seconds",
    ]
    thin = figure.plot.data[0]
    assert list(thin.y) == [point.values["accuracy"] for point in runs[0].evaluations]
    mean = figure.plot.data[4]
    last = [run.evaluations[-1].values["accuracy"] for run in runs]
    assert mean.y[-1] == pytest.approx(np.mean(last))
    band = figure.plot.data[3]
    half = stats.t.ppf(0.975, 2) * stats.sem(last)
    assert max(band.y[59:61]) == pytest.approx(np.mean(last) + half)
    assert trace_names(figure, "target 0.97")[0].y == (0.97, 0.97)


def test_mean_curve_ends_where_the_first_seed_ends(tmp_path: Path, run_writer: Writer):
    run_writer(tmp_path / "a", seed=0, to_target=20000.0)
    run_writer(tmp_path / "b", seed=1, to_target=30000.0)
    figure = drawn(training_figure(collect(tmp_path).runs))
    assert figure.plot.data[3].x[-1] == pytest.approx(20000.0)


def test_decisions_carry_their_reasons(found: Collected):
    figure = drawn(batch_size_figure(found.runs))
    texts = [text for item in figure.plot.data for text in item.text or ()]
    assert len(texts) == 12
    assert "32 → 64" in texts[0]
    assert "noise scale 120 (90 to 150)" in texts[0]


def test_noise_of_runs_draws_one_seed_of_each_label(found: Collected):
    figure = drawn(run_noise_figure(found.runs))
    assert figure.notes == ("One seed of each label is drawn, 1 of 4 runs.",)
    assert trace(figure, "noise-scale, seed 0").y[0] is not None


def test_comparison_holds_the_means_and_marks_incomplete_labels(found: Collected):
    figure = drawn(comparison_figure(found.runs))
    dots = trace(figure, "examples")
    names = list(figure.plot.layout.yaxis.ticktext)
    needs = [run.to_target.examples for run in found.runs if run.label == "batch-64" and run.to_target]
    assert dots.x[names.index("batch-64")] == pytest.approx(np.mean(needs))
    assert "batch-512 *" in names
    assert "3 of 4 runs" in dots.text[names.index("batch-512 *")]


def test_stability_levels_follow_the_learning_rate_and_eigenvalues_say_whether_they_converged(
    tmp_path: Path, run_writer: Writer
):
    run_writer(tmp_path / "run", adaptive=True, watched=True)
    (run,) = collect(tmp_path).runs
    figure = stability_figure([run])
    low, high = trace(figure, "level of small batches"), trace(figure, "level of large batches")
    assert (low.y[0], high.y[0]) == pytest.approx((1.0, 19.0))
    # The first decision raises lr from 0.2 to 0.3, and the levels fall there and not at the next reading.
    first = run.decisions[0].num_examples
    at = list(low.x).index(first)
    assert low.y[at - 1] == pytest.approx(1.0)
    assert (low.y[at], high.y[at]) == pytest.approx((0.2 / 0.3, 3.8 / 0.3))
    assert low.line.shape == "hv"
    readings = trace(figure, "batch sharpness")
    assert list(readings.y) == [point.batch_sharpness for point in run.stability]
    assert list(readings.error_y.array) == [point.standard_error for point in run.stability]
    # No bar reaches zero, where a logarithmic axis ends.
    assert all(y > minus for y, minus in zip(readings.y, readings.error_y.arrayminus, strict=True))
    top = trace(figure, "largest eigenvalue")
    assert list(top.marker.symbol) == [
        "diamond" if point.converged else "diamond-open" for point in run.stability if math.isfinite(point.sharpness)
    ]
    assert "diamond-open" in top.marker.symbol
    assert drawn(figure).plot.layout.yaxis.type == "log"
    warned = trace(figure, "warning before a change")
    assert list(warned.x) == [run.decisions[1].num_examples]


def test_stability_of_several_labels_is_one_view_each(tmp_path: Path, run_writer: Writer):
    for label in ("a", "b"):
        for seed in range(2):
            run_writer(tmp_path / f"{label}{seed}", label=label, seed=seed, watched=True)
    figure = drawn(stability_figure(collect(tmp_path).runs))
    assert [view.name for view in figure.views] == ["a, seed 0", "b, seed 0"]
    assert figure.notes == ("One seed of each label is drawn, 2 of 4 watched runs.",)
    for view in figure.views:
        assert 0 < sum(view.visible) < len(view.visible)


def test_sharpness_along_the_step_has_one_edge_that_no_learning_rate_moves(tmp_path: Path):
    folder = tmp_path / "run"
    with RecordWriter(folder) as records:
        records.write("start", task="t", label="adam", seed=0, batch_size=8)
        for step, value in enumerate((0.5, 1.9)):
            records.write(
                "stability", step=step, num_examples=8 * step, lr=0.1, low=2.0, high=2.0, regime="stable", form="step",
                batch_sharpness=value, standard_error=0.1, sharpness=None, sharpness_converged=None,
            )  # fmt: skip
        records.write("decision", step=1, num_examples=8, previous=8, batch_size=16, lr=0.4, reason="r")
    figure = drawn(stability_figure(collect(tmp_path).runs))
    assert [item.name for item in figure.plot.data] == ["edge", "sharpness along the step"]
    assert set(trace(figure, "edge").y) == {2.0}
    assert figure.plot.layout.yaxis.title.text == "lr × curvature along the step"
    assert figure.caption.startswith("For optimizers other than SGD")


def test_readings_that_are_no_positive_number_are_left_out_of_the_axis(tmp_path: Path):
    folder = tmp_path / "run"
    with RecordWriter(folder) as records:
        records.write("start", task="t", label="l", seed=0, batch_size=8)
        for step, value in enumerate((-1.0, math.nan, 2.0, math.inf)):
            records.write(
                "stability", step=step, num_examples=8 * step, lr=0.1, low=2.0, high=38.0, regime="not a number",
                batch_sharpness=value, standard_error=math.inf, sharpness=None, sharpness_converged=None,
            )  # fmt: skip
    figure = drawn(stability_figure(collect(tmp_path).runs))
    assert list(trace(figure, "batch sharpness").y) == [2.0]
    assert figure.notes == ("3 readings are not positive numbers, so a logarithmic axis cannot show them.",)


def test_figures_without_records_are_left_out():
    bare = parse_plan({"task": "t", "batch_size": 8, "micro_batch_size": 8, "lr": 0.1}, "plan.json")
    for make in (pilot_noise_figure, step_time_figure, prediction_figure, calibration_figure):
        assert make(bare) is None
    for make_of_runs in (training_figure, batch_size_figure, run_noise_figure, comparison_figure):
        assert make_of_runs(()) is None
    assert verification_figure(VerificationRecord(task="t", plan_batch_size=8.0, plan_lr=0.1)) is None


@pytest.mark.parametrize("power", [0, 3, 12, 25])
def test_axes_have_few_ticks_at_any_width(power: int):
    ticks = batch_axis([1.0, 2.0**power])["tickvals"]
    assert 1 <= len(ticks) <= 10
    assert ticks[0] == 1.0
    assert len(log_axis([1.0, 2.0**power], "x")["tickvals"] or []) <= 10


def test_axes_of_impossible_values_do_not_raise():
    for values in ([], [0.0, -1.0], [math.inf, math.nan], [1e-320, 1e308]):
        assert batch_axis(values)["type"] == log_axis(values, "x")["type"] == "log"


@pytest.mark.parametrize(("first", "second"), [(256.0, 256.0), (200.0, 256.0), (256.0, 200.0)])
def test_names_of_marks_that_are_near_stand_on_two_sides(first: float, second: float):
    plot = new_plot()
    mark_batch_size(plot, first, "knee")
    mark_batch_size(plot, second, "plan")
    sides = {note.text: note.xanchor for note in plot.layout.annotations}
    assert sorted(sides.values()) == ["left", "right"]
    assert sides["knee" if first > second else "plan"] == "left"  # the right one's, away from the other line
    far = new_plot()
    mark_batch_size(far, 8.0, "knee")
    mark_batch_size(far, 256.0, "plan")
    assert [note.xanchor for note in far.layout.annotations] == ["right", "right"]
