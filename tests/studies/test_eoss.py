"""The study itself: its parts against closed forms, and a whole run in seconds."""

import math

import pytest
import torch

from batchwright.core.serialization import to_plain
from batchwright.core.study_record import StudyRecord
from batchwright.report import write_report
from batchwright.studies import run_study, runner
from batchwright.studies.eoss.boundary import run_boundary
from batchwright.studies.eoss.cifar import NUM_TRAIN, cifar_cells, make_network, num_steps, runs
from batchwright.studies.eoss.cifar_summary import cifar_rows
from batchwright.studies.eoss.interventions import BASE, PUBLISHED, drawn_interventions
from batchwright.studies.eoss.linear import SCALES, simulate
from batchwright.studies.eoss.linear_summary import TABLE, marchenko_pastur_level
from batchwright.studies.eoss.presets import LINEAR_OPTIMIZERS, cells, linear_edges
from batchwright.studies.eoss.problem import digits_problem
from batchwright.studies.eoss.settings import Setting
from batchwright.studies.eoss.study import EOSS
from batchwright.studies.registry import REGISTRY
from batchwright.studies.streams import stream
from batchwright.studies.study import PRESETS, Place


@pytest.fixture
def place(tmp_path) -> Place:
    return Place(folder=tmp_path, device=torch.device("cpu"))


def test_the_problem_is_the_one_specified():
    problem = digits_problem()
    assert problem.inputs.shape == (512, 64)
    assert problem.targets.sum(1).eq(1).all()
    assert problem.inputs.mean(0).abs().max() < 1e-5
    assert (problem.inputs.std(0) < 1).all()


@pytest.mark.parametrize("nesterov", [False, True])
def test_the_boundary_meets_its_closed_form(place, nesterov):
    assert run_boundary(place, momenta=(0.0, 0.5, 0.99), nesterov=nesterov)["error"] < 1e-3


def test_settings_know_their_thresholds_and_their_warm_up():
    heavy = Setting(lr=0.1, momentum=0.5, batch_size=4)
    assert (heavy.low, heavy.high) == (10.0, 30.0)
    ahead = Setting(lr=0.1, momentum=0.8, batch_size=512, nesterov=True)
    assert ahead.high == pytest.approx(13.846, abs=1e-3)
    assert heavy.warmup(512).lr == pytest.approx(0.2)
    assert ahead.warmup(512).lr == pytest.approx(0.1 / 1.8)
    assert heavy.warmup(512).momentum == 0.0


def test_the_linear_model_meets_the_table_at_one_batch_size(place):
    found = simulate(
        place,
        batch_size=64,
        edges=linear_edges(64),
        momenta=[momentum for momentum, _ in LINEAR_OPTIMIZERS],
        nesterov=[nesterov for _, nesterov in LINEAR_OPTIMIZERS],
        num_replicas=16,
        num_steps=400,
        seed=0,
    )
    for level, printed, edge, growth in zip(found["level"], TABLE[64], linear_edges(64), found["growth"], strict=True):
        assert level.value == pytest.approx(printed, rel=0.03)
        assert level.value == pytest.approx(marchenko_pastur_level(64, edge), rel=0.05)
        assert growth[SCALES.index(0.93)].value < growth[1].value < growth[SCALES.index(1.07)].value


def test_a_scalar_curvature_grows_beyond_its_edge_alone(place):
    """At one example a step and no momentum the norm of the error is conserved at the edge, step by step.

    What is left of the rate is the last step's share of the state, under a quarter of the log, over the number of steps.
    """
    found = simulate(
        place, batch_size=1, edges=[2 / 64], momenta=[0.0], nesterov=[False], num_replicas=4, num_steps=600, seed=1
    )
    assert found["growth"][0][SCALES.index(1.0)].value == pytest.approx(0.0, abs=5e-4)
    assert found["level"][0].value == pytest.approx(1.0, abs=1e-6)


def test_interventions_are_drawn_once_and_for_all():
    drawn = drawn_interventions(0, 12)
    assert drawn == drawn_interventions(0, 12)
    assert drawn != drawn_interventions(1, 12)
    settings = {each.setting for each in drawn}
    assert len(settings) == 12
    assert not settings & {BASE, *(each.setting for each in PUBLISHED)}
    assert {each.kind for each in PUBLISHED} == {"destabilising", "stabilising"}


def test_every_preset_has_cells_with_names_of_their_own():
    for preset in PRESETS:
        names = [cell.name for cell in cells(preset, 0)]
        assert len(names) == len(set(names)) > 0
        assert all(set(cell.after) <= set(names) for cell in cells(preset, 0))


def test_the_published_networks_and_runs():
    assert sum(parameter.numel() for parameter in make_network("mlp", stream(0)).parameters()) == 1_841_162
    assert make_network("cnn", stream(0))(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    assert len(runs()) == 24
    assert len([cell for cell in cifar_cells(0) if cell.name.startswith("mlp/sgd-b-8/")]) == num_steps(8) // 5000
    assert {row.verdict for row in cifar_rows({})} == {"not there yet"}
    assert max(setting.batch_size for _, setting in runs()) == NUM_TRAIN


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> tuple[StudyRecord, object]:
    """The whole study on 64 images and some hundred steps: the machinery, not the numbers."""
    before = runner.PRESETS
    runner.PRESETS = (*before, "tiny")
    folder = tmp_path_factory.mktemp("tiny")
    try:
        return run_study(EOSS, preset="tiny", out=folder, num_workers=1), folder
    finally:
        runner.PRESETS = before


def test_a_whole_run_has_every_part(tiny):
    record, _ = tiny
    assert record.failures == ()
    groups = {row.group for row in record.rows}
    assert groups == {
        "Exact mean-square boundary",
        "Linear regression at the edge",
        "Plateaus of batch sharpness",
        "Catapult",
        "Prediction",
    }
    assert {figure.name for figure in record.figures} == {
        "plateaus",
        "catapults",
        "linear-model",
        "trajectories",
        "predictions",
    }
    # Too few steps for anything to settle, and the study says so.
    levels = [row for row in record.rows if row.group == "Plateaus of batch sharpness" and "eigenvalue" not in row.what]
    assert {row.verdict for row in levels} <= {"not there yet", "holds", "not resolved"}
    assert any(row.verdict == "not there yet" and "of 12,000 steps" in row.note for row in levels)


def test_a_run_is_shown_by_the_report(tiny):
    record, folder = tiny
    text = write_report(folder).read_text()
    for words in (
        record.title,
        "not there yet",
        "lr 0.15: largest loss over the unchanged run",
        "Plateaus of batch sharpness",
    ):
        assert words in text
    assert "cannot be read" not in text


def test_the_record_is_strict_json_with_every_number(tiny):
    record, _ = tiny
    plain = to_plain(record)
    assert plain["rows"][0]["verdict"] == "holds"
    assert all(math.isfinite(row.low) for row in record.rows)


def test_the_registry_names_its_studies():
    assert REGISTRY["eoss"] is EOSS
    assert all(name == study.name for name, study in REGISTRY.items())
