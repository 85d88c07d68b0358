"""The study of critical batch sizes: its search, its crossings, a closed form of SGD, and whole runs in seconds."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from batchwright.core.errors import InputError, TaskError
from batchwright.core.statistics import Interval
from batchwright.studies import run_study
from batchwright.studies.critical_batch import presets
from batchwright.studies.critical_batch.presets import FAR, NEAR, RACE, STRIDE, Preset
from batchwright.studies.critical_batch.results import OptimizerResult, SizeResult
from batchwright.studies.critical_batch.rows import compared_rows, critical_rows
from batchwright.studies.critical_batch.search import Tried, at_edge, best_of, next_lr
from batchwright.studies.critical_batch.specs import optimizer_names, spec_of
from batchwright.studies.critical_batch.study import CRITICAL_BATCH
from batchwright.studies.critical_batch.trial import crossing_of, evaluation_steps, judged_by, run_trial
from batchwright.studies.eoss.study import EOSS
from batchwright.studies.registry import REGISTRY
from batchwright.tasks.loading import load_task
from batchwright.tasks.noisy_quadratic import noisy_quadratic, noisy_quadratic_problem
from batchwright.tasks.task import OptimizerSpec, Target
from batchwright.training.sweep_fit import fit

TINY = Preset(factors=(0.5, 1.0, 2.0), num_seeds=2, strides=(1.0,), judges=64)
DIGITS = {"task": "digits-mlp", "optimizer": "sgd,muon"}


# --- the search for a learning rate


@pytest.mark.parametrize("strides", [(1.0,), (1.0, 0.5), (2.0, 1.0, 0.5)])
@pytest.mark.parametrize("offset", np.arange(-4, 4.5, 0.5))
def test_a_search_finds_the_best_of_its_grid(strides, offset):
    """With one valley the best has a worse neighbour on both sides, at the last stride, however far the start was off."""

    def score(lr: float) -> tuple[int, float]:
        return (0, (math.log2(lr / 0.1) - offset) ** 2)

    tried: list[Tried] = []
    while (lr := next_lr(tried, 0.1, strides=strides)) is not None:
        tried.append(Tried(lr=lr, score=score(lr)))
        assert len(tried) < 40
    assert len({each.lr for each in tried}) == len(tried)
    assert abs(math.log2(best_of(tried).lr / 0.1) - offset) <= strides[-1] / 2
    assert not at_edge(tried)
    if strides[0] == 2 and abs(offset) <= 4:
        assert len(tried) <= FAR + STRIDE
    if strides[0] == 1 and abs(offset) <= 1:
        assert len(tried) <= NEAR + STRIDE


def test_a_search_flees_from_lost_runs():
    tried = [Tried(lr=0.1, score=(2, 0.0)), Tried(lr=0.2, score=(2, 0.0))]
    assert next_lr(tried, 0.1) == 0.05
    assert at_edge([*tried, Tried(lr=0.05, score=(1, 3.0))])
    assert at_edge([])


# --- one run


def test_a_crossing_lies_on_the_line_it_is_on():
    """On a line over the logarithm of the steps the smoothed curve is that line, so the crossing is exact."""
    curve = [(step, 10 - math.log(step)) for step in (100, 110, 121, 133, 146, 161, 177, 195, 214)]
    found = crossing_of(curve, Target(value=10 - math.log(150)))
    assert found == pytest.approx(150, rel=1e-12)
    assert crossing_of(curve, Target(value=1.0)) is None
    assert crossing_of([(s, -v) for s, v in curve], Target(value=math.log(150) - 10, direction="above")) == found
    assert crossing_of(curve, Target(value=9.0)) == pytest.approx(100)  # past it at once


def test_one_lucky_evaluation_is_not_a_crossing():
    curve = [(step, 2.0) for step in range(100, 130, 5)] + [(130, 0.5), (135, 2.0), (140, 2.0)]
    assert crossing_of(curve, Target(value=1.0)) is None


def test_a_run_is_gradient_descent_where_there_is_no_noise():
    task = noisy_quadratic()
    problem = noisy_quadratic_problem()
    outcome = run_trial(
        judged_by(task, 10),
        OptimizerSpec(name="sgd", lr=0.5, momentum=0.0),
        batch_size=task.num_train,
        seed=0,
        device=torch.device("cpu"),
        steps=evaluation_steps(1, 8, gap=3),
        target=Target(value=1e-9),
    )
    assert [step for step, _ in outcome.curve] == [1, 4, 7, 8]
    for step, value in outcome.curve:
        expected = problem.expected_excess_loss(torch.zeros(32), lr=0.5, batch_size=10**9, num_steps=step)
        assert value == pytest.approx(expected, rel=1e-4)
    assert outcome.steps is None
    assert not outcome.lost


def test_a_lost_run_says_so_and_leaves_the_generator_alone():
    before = torch.get_rng_state()
    outcome = run_trial(
        noisy_quadratic(),
        OptimizerSpec(name="sgd", lr=1e8, momentum=0.0),
        batch_size=8,
        seed=0,
        device=torch.device("cpu"),
        steps=evaluation_steps(50, 100, gap=50),
        target=Target(value=0.1),
    )
    assert outcome.lost
    assert torch.equal(before, torch.get_rng_state())


def test_the_judges_are_a_part_of_the_evaluation_set():
    task = load_task("digits-mlp")
    few = judged_by(task, 50)
    assert len(few.evaluation) == 50
    assert torch.equal(few.evaluation[1][0], task.evaluation[len(task.evaluation) // 50][0])
    assert judged_by(task, 10**6).evaluation is task.evaluation


# --- the settings


def test_the_task_keeps_its_own_settings_and_shares_its_decays():
    task = load_task("char-gpt")
    assert spec_of("adamw", task) is task.optimizer
    assert spec_of("muon", task).weight_decay == task.optimizer.weight_decay
    assert spec_of("sgd", task).weight_decay == 0  # the decay of SGD is another thing
    assert spec_of("scion", task).weight_decay == 0  # its learning rate is its decay
    assert spec_of("muon", task).beta2 == task.optimizer.beta2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "muon,adagrad",
            "--optimizer must be names out of sgd, adam, adamw, muon, scion with commas, got 'muon,adagrad'",
        ),
        ("", "--optimizer must be names"),
        ("sgd,sgd", "each optimizer once"),
    ],
)
def test_wrong_optimizers_are_refused(text, words):
    with pytest.raises(InputError, match=words):
        optimizer_names(text)


def test_options_are_for_studies_that_have_them(tmp_path):
    with pytest.raises(
        InputError, match=r"--task must be an option of the study, got 'x' for eoss, which has none of its own"
    ):
        run_study(EOSS, preset="smoke", out=tmp_path, options={"task": "x"})
    with pytest.raises(
        InputError, match=r"--colour .* for critical-batch, which has --optimizer, --task; leave it out"
    ):
        run_study(CRITICAL_BATCH, preset="smoke", out=tmp_path, options={"colour": "x"})
    with pytest.raises(TaskError, match="did you mean digits-mlp"):
        run_study(CRITICAL_BATCH, preset="smoke", out=tmp_path, options={"task": "digits-mpl"})
    assert REGISTRY["critical-batch"] is CRITICAL_BATCH


def test_a_task_must_have_a_target_and_enough_examples(tmp_path):
    (tmp_path / "own.py").write_text(
        "from dataclasses import replace\n"
        "from batchwright.tasks.digits import digits_mlp\n"
        "def none(): return replace(digits_mlp(), target=None)\n"
        "def large(): return replace(digits_mlp(), batch_size=1000)\n"
    )
    for function, words in (
        ("none", "--task must have a target"),
        ("large", "--task must have examples for 3 batch sizes"),
    ):
        with pytest.raises(InputError, match=words):
            run_study(
                CRITICAL_BATCH,
                preset="smoke",
                out=tmp_path / function,
                options={"task": f"{tmp_path / 'own.py'}:{function}"},
            )


def test_a_search_is_long_where_the_lr_is_not_known():
    task = load_task("digits-mlp")  # made for SGD
    cells = {
        cell.name: cell
        for cell in presets.cells_of(TINY, 0, optimizers=("muon", "sgd"), task_name="digits-mlp", task=task)
    }
    assert len(cells) == FAR + NEAR + 2 * 2 * NEAR + 2 * 3 * 2
    assert cells["muon/batch-32/search-0"].arguments["strides"] == (2.0, 1.0)
    assert cells["sgd/batch-32/search-0"].arguments["strides"] == (1.0,)
    # The first one named is the reference, whoever the task was made for.
    assert cells["sgd/batch-32/search-0"].arguments["reference"][-1] == f"muon/batch-32/search-{FAR - 1}"
    assert "reference" not in cells["muon/batch-32/search-0"].arguments
    assert cells["muon/batch-64/search-0"].arguments["neighbour_size"] == 32
    assert set(cells["sgd/batch-16/seed-1"].after) == {f"sgd/batch-16/search-{number}" for number in range(NEAR)}
    assert {each.arguments["seed"] for each in cells.values()} == {0, 1, presets.APART}


# --- whole studies


def test_the_critical_size_of_sgd_is_that_of_its_closed_form(tmp_path, monkeypatch):
    """The mean loss of SGD on the noisy quadratic is known at each learning rate; the best one at each size gives the critical size."""
    monkeypatch.setitem(presets.PRESETS, "smoke", Preset(factors=(1.0, 4.0, 16.0)))
    record = run_study(
        CRITICAL_BATCH,
        preset="smoke",
        out=tmp_path,
        num_workers=1,
        options={"task": "noisy-quadratic", "optimizer": "sgd"},
    )
    problem, start = noisy_quadratic_problem(), torch.zeros(32)
    goal = 0.01 * problem.excess_loss(start)

    def steps(lr: float, size: int) -> float:
        low, high = 0, 4096
        if problem.expected_excess_loss(start, lr=lr, batch_size=size, num_steps=high) > goal:
            return math.inf
        while high - low > 1:
            middle = (low + high) // 2
            above = problem.expected_excess_loss(start, lr=lr, batch_size=size, num_steps=middle) > goal
            low, high = (middle, high) if above else (low, middle)
        return float(high)

    sizes = np.array([32.0, 128.0, 512.0])
    best = np.array([min(steps(float(lr), int(size)) for lr in 2.0 ** np.arange(-4, 1.1, 0.1)) for size in sizes])
    exact = fit(sizes, (best * sizes)[:, None, None])
    row = next(row for row in record.rows if row.what.startswith("sgd: critical"))
    assert not record.failures
    assert row.measured.low <= exact.critical_batch_size <= row.measured.high
    assert exact.critical_batch_size / 2 < row.measured.value < 2 * exact.critical_batch_size
    assert row.measured.high < 10 * row.measured.low


@pytest.fixture(scope="module")
def tiny():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(presets.PRESETS, "smoke", TINY)
        race = replace(TINY, factors=(1.0,), race_steps=60, race_search=20, race_every=5)
        patch.setitem(presets.PRESETS, RACE, race)
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory, tiny):
    return study(tmp_path_factory.mktemp("whole"))


def study(out, *, preset="smoke", **options):
    return run_study(CRITICAL_BATCH, preset=preset, out=out, num_workers=1, **{"options": DIGITS, **options})


def test_a_study_cut_into_parts_is_the_study(tmp_path, whole):
    assert not whole.failures
    study(tmp_path / "parts", only="sgd/batch-32/search-1", resume=True)
    assert (
        study(tmp_path / "parts", only="muon/batch-32/seed-0", resume=True).num_cells["finished"]
        < whole.num_cells["all"]
    )
    again = study(tmp_path / "parts", resume=True)
    assert again.rows == whole.rows
    assert again.figures == whole.figures
    with pytest.raises(InputError, match="--resume"):
        study(tmp_path / "parts")
    with pytest.raises(Exception, match="--out must hold the study to be resumed"):
        study(tmp_path / "parts", resume=True, options={**DIGITS, "optimizer": "sgd"})


def test_a_study_says_what_it_compared(whole):
    record = whole
    whats = [row.what for row in record.rows]
    assert sum(what.endswith("critical batch size, in examples") for what in whats) == 2
    assert sum("steps to loss below 0.15" in what for what in whats) == 6
    assert "target loss below 0.15 on 64 of" in record.notes[0]
    assert "the same for every optimizer" in record.notes[0]
    assert [figure.name for figure in record.figures] == ["critical-batch"]
    assert record.title.endswith("digits-mlp")


def test_a_race_ends_at_what_the_first_reaches(tmp_path, tiny):
    record = study(tmp_path, preset=RACE)
    assert not record.failures
    goal, row = record.rows
    assert goal.what == "sgd: loss after 60 steps"
    assert row.what == "muon: steps to that"
    lines = [json.loads(line) for line in (tmp_path / "records.jsonl").read_text().splitlines()]
    cells = {line["name"]: line for line in lines if line["kind"] == "cell"}
    ends = [cells[f"sgd/race/seed-{seed}"]["last"] for seed in (0, 1)]
    assert goal.measured.value == pytest.approx(sum(ends) / 2)
    assert all(cells[f"sgd/race/seed-{seed}"]["num_steps"] == 60 for seed in (0, 1))
    for seed in (0, 1):
        cell = cells[f"muon/race/seed-{seed}"]
        found = crossing_of([tuple(point) for point in cell["curve"]], Target(value=sum(ends) / 2))
        assert cell["steps"] == pytest.approx(found)
        assert cell["num_steps"] < 60  # it stopped there
    assert [figure.name for figure in record.figures] == ["race"]


def test_what_is_never_reached_is_said(tmp_path, tiny):
    (tmp_path / "own.py").write_text(
        "from dataclasses import replace\n"
        "import batchwright as bw\n"
        "from batchwright.tasks.digits import digits_mlp\n"
        "def make_task():\n"
        "    return replace(digits_mlp(), target=bw.Target(value=-1.0), max_examples=640)\n"
    )
    record = study(tmp_path / "out", options={"task": str(tmp_path / "own.py"), "optimizer": "sgd,adamw"})
    assert not record.failures
    critical = [row for row in record.rows if "critical batch size, in" in row.what]
    assert [row.verdict for row in critical] == ["does not hold"] * 2
    assert all(row.note == "the target was never reached" for row in critical)
    steps = [row for row in record.rows if "steps to" in row.what]
    assert all(row.verdict == "does not hold" and row.measured is None for row in steps)
    assert "not reached at any of" in next(row for row in steps if "size 32" in row.what).note


def test_a_task_without_matrices_is_told(tmp_path, tiny):
    study_ = CRITICAL_BATCH.configured({"task": "noisy-quadratic", "optimizer": "muon"}, None)
    assert any("No parameter of noisy-quadratic is a matrix" in note for note in study_.summarise("smoke", {}).notes)


def result(name: str, critical: float, spread: float) -> OptimizerResult:
    """Steps on the law with seeds whose critical sizes lie ``spread`` apart in the logarithm."""
    sizes = []
    for size in (8, 32, 128):
        steps = {seed: 100 * (1 + critical * math.exp(spread * (seed - 1)) / size) for seed in range(3)}
        tried = tuple(Tried(lr=lr, score=(0, abs(lr - 0.2))) for lr in (0.1, 0.2, 0.4))
        sizes.append(SizeResult(batch_size=size, tried=tried, steps=steps, planned=3))
    return OptimizerResult(name=name, sizes=tuple(sizes))


def test_what_overlaps_is_not_resolved_and_what_lies_apart_is():
    narrow = [result("sgd", 30.0, 0.02), result("muon", 120.0, 0.02)]
    assert [row.verdict for row in critical_rows(narrow)] == ["holds", "holds"]
    (row,) = compared_rows(narrow)
    assert row.what == "critical batch size of muon over that of sgd"
    assert row.verdict == "holds"
    assert row.measured.value == pytest.approx(4, rel=0.02)
    (row,) = compared_rows([result("muon", 30.0, 0.02), result("sgd", 120.0, 0.02)])
    assert row.verdict == "does not hold"  # Muon's is the smaller one: the paper's claim fails
    (row,) = compared_rows([result("adamw", 30.0, 0.02), result("sgd", 120.0, 0.02)])
    assert row.what.startswith(
        "critical batch size of sgd over"
    )  # without Muon the larger one is held against the smaller
    wide = [result("sgd", 30.0, 0.5), result("muon", 60.0, 0.5)]
    (row,) = compared_rows(wide)
    assert row.verdict == "not resolved"
    assert row.note == "their intervals overlap"


def test_a_seed_that_never_gets_there_takes_its_size_out_of_the_fit():
    found = result("sgd", 30.0, 0.02)
    broken = replace(found, sizes=(*found.sizes[:2], replace(found.sizes[2], steps={0: 5.0, 1: math.inf, 2: 5.0})))
    (row,) = critical_rows([broken])
    assert row.verdict == "not resolved"
    assert row.measured is None
    assert isinstance(found.critical(), Interval)
