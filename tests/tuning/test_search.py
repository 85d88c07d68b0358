"""A search in this process: its plan, what it does with failures and duplicates, and that nothing but the values decides it."""

import json
import math
from concurrent.futures import Executor, Future, ThreadPoolExecutor

import pytest
import torch
from tests import tuning_functions as functions

import batchwright as bw
from batchwright.core.errors import CheckpointError, InputError
from batchwright.core.records import read_records
from batchwright.tuning import plan_of, radius_of
from batchwright.tuning.journal import Written
from batchwright.tuning.settings import untouched

SPACE = "x=0:1,rate=log:1e-3:1"


class Backwards(Executor):
    """Runs what it was given in the opposite order, when it is first waited for: no timing decides a search."""

    def __init__(self):
        self.waiting = []

    def submit(self, fn, /, *args, **kwargs):
        future = Future()
        self.waiting.append((future, fn, args))
        if len(self.waiting) == 6:
            for each, function, arguments in reversed(self.waiting):
                each.set_result(function(*arguments))
            self.waiting = []
        return future


def search(function=functions.bowl, space=SPACE, **options):
    options = {"rounds": 3, "parallel": 6, "seed": 1, **options}
    if "executor" not in options:
        with ThreadPoolExecutor(1) as executor:
            return bw.tune(function, space, executor=executor, **options)
    return bw.tune(function, space, **options)


def test_the_optimum_is_found_and_its_certificate_holds():
    found = search()
    assert [trial.round for trial in found.trials] == [0] * 6 + [1] * 6 + [2] * 6
    point = found.values
    regret = (point["x"] - 0.3) ** 2 + 0.1 * math.log10(point["rate"] / 0.1) ** 2
    assert regret < 0.01
    assert regret <= found.recommendation.regret_bound
    assert found.best == found.plain
    assert "not what is recommended" in found.lines[-1]


def test_the_order_in_which_trials_end_changes_nothing():
    first, second = search(), search(executor=Backwards())
    assert first.values == second.values
    assert [trial.values for trial in first.trials] == [trial.values for trial in second.trials]


def test_a_robust_search_leaves_the_narrow_valley():
    plain = search(functions.narrow_valley, "x=0:1", rounds=4, parallel=10)
    robust = search(functions.narrow_valley, "x=0:1", rounds=4, parallel=10, robust="10%")
    assert plain.values["x"] == pytest.approx(0.8, abs=0.02)
    assert robust.values["x"] == pytest.approx(0.3, abs=0.05)
    # A tenth away from 0.3 the function is exp(-4/9) high.
    assert robust.best.worst == pytest.approx(-math.exp(-4 / 9), abs=0.1)
    assert robust.plain.worst > robust.best.worst - 1e-3


def test_trials_that_fail_are_told_and_do_not_end_the_search(tmp_path):
    found = search(functions.moody, "x=0:1", out=tmp_path, parallel=8)
    assert found.counts["failed"] >= 2
    notes = {trial.outcome.note for trial in found.trials if trial.outcome.status == "failed"}
    assert notes == {"RuntimeError: no memory left", "the function returned nan"}
    assert found.values["x"] < 0.2
    assert any("trials failed" in line for line in found.lines)


def test_a_search_without_a_single_value_says_why():
    with pytest.raises(
        InputError, match=r"at least one trial of the first round, got 6 failures; the first: ZeroDivisionError"
    ):
        search(lambda values: 1 / 0)


def test_a_trial_that_comes_to_the_same_is_not_run_again():
    calls = []

    def counted(values):
        calls.append(values["n"])
        return functions.steps(values)

    found = search(counted, "n=int:1:4", rounds=3, parallel=6)
    assert len(found.trials) == 18
    assert sorted(calls) == sorted(set(calls))
    assert found.counts["copied"] == 18 - len(calls)
    first = {trial.id: trial for trial in found.trials}
    for trial in found.trials:
        if trial.copied_from is not None:
            assert first[trial.copied_from].values == trial.values
    again = search(counted, "n=int:1:4", rounds=3, parallel=6, reuse=False)
    assert "copied" not in again.counts


def test_trials_have_seeds_of_their_own_unless_asked_otherwise():
    assert len({trial.seed for trial in search().trials}) == 18
    assert {trial.seed for trial in search(same_seed=True).trials} == {1}


def test_early_stopping_in_a_function_tells_what_is_foreseen():
    def trains(values, trial):
        level = 1.0 if values["x"] < 0.2 else 5.0
        for number in range(1, 13):
            trial.report(100 * number, level * number**-0.5)
        return level * 12**-0.5

    found = search(trains, "x=0:1", scale="log", max_examples=1200)
    stopped = [trial for trial in found.trials if trial.outcome.status == "stopped"]
    assert stopped
    assert all(trial.round > 0 for trial in stopped)
    for trial in stopped:
        assert trial.outcome.value == pytest.approx(5.0 * 12**-0.5, rel=1e-6)
        assert trial.outcome.num_examples < 1200
    without = search(trains, "x=0:1", scale="log", max_examples=1200, early_stop=False)
    assert "stopped" not in without.counts
    assert without.values["x"] == pytest.approx(found.values["x"], abs=0.05)


# Journal


def test_a_journal_holds_what_the_search_returned(tmp_path):
    found = search(out=tmp_path)
    written = Written(tmp_path)
    assert written.ended
    assert written.settings == found.settings
    assert tuple(written.trials[number] for number in range(18)) == found.trials
    records = read_records(tmp_path)
    assert [line["kind"] for line in records.lines].count("round") == 3
    last = records.of_kind("recommendation")[-1]
    assert last["values"] == found.values
    assert json.loads(json.dumps(found.to_record()["values"])) == found.values


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return search(out=tmp_path_factory.mktemp("whole"))


# In order: start, round, 6 trials, recommendation, picture; the same for each round; end.
@pytest.mark.parametrize("kept", [1, 2, 5, 8, 10, 18, 27])
def test_a_search_cut_after_any_record_goes_on_to_the_same_end(tmp_path, whole, kept):
    cut = tmp_path / "cut"
    cut.mkdir()
    lines = (whole.folder / "records.jsonl").read_text().splitlines()
    (cut / "records.jsonl").write_text("\n".join(lines[:kept]) + "\n" + lines[kept][:20])
    (cut / "states").mkdir()
    for path in (whole.folder / "states").iterdir():
        (cut / "states" / path.name).write_bytes(path.read_bytes())
    calls = []

    def bowl(values, seed):
        calls.append(seed)
        return functions.bowl(values, seed)

    found = search(bowl, out=cut, resume=True)
    assert found.values == whole.values
    assert [trial.values for trial in found.trials] == [trial.values for trial in whole.trials]
    before = sum(json.loads(line)["kind"] == "trial" for line in lines[:kept])
    assert len(calls) == 18 - before
    again = search(bowl, out=cut, resume=True)
    assert again.values == whole.values
    assert len(calls) == 18 - before


def test_what_cannot_be_gone_on_with_is_refused(tmp_path):
    with pytest.raises(InputError, match="--resume needs a folder that holds a search"):
        search(out=tmp_path, resume=True)
    search(out=tmp_path)
    with pytest.raises(InputError, match="without a search"):
        search(out=tmp_path)
    with pytest.raises(InputError, match="needs the task of the search, 'bowl', got 'steps'"):
        search(functions.steps, out=tmp_path, resume=True)
    for path in (tmp_path / "states").iterdir():
        path.write_bytes(path.read_bytes()[:50])
    lines = (tmp_path / "records.jsonl").read_text().splitlines()
    (tmp_path / "records.jsonl").write_text("\n".join(lines[:-4]) + "\n")
    with pytest.raises(CheckpointError, match="must hold the state of round 3"):
        search(out=tmp_path, resume=True)


# Arguments


def test_the_plan_is_rounds_of_equal_length_or_a_schedule():
    assert plan_of(None, None, None) == (8, 8, 8, 8)
    assert plan_of(2, 5, None) == (5, 5)
    assert plan_of(None, None, 64) == (8, 23, 33)
    assert sum(plan_of(3, None, 64, dim=2)) == 64
    with pytest.raises(InputError, match="trials must go without parallel"):
        plan_of(None, 4, 64)


def test_a_perturbation_is_read_as_it_is_written():
    space = bw.bandits.Space.parse("lr=log:1e-4:1,batch_size=log2:16:512,momentum=0.5:0.99,opt=sgd|adam")
    shares = radius_of(space, "10%")
    assert shares == pytest.approx({"lr": math.log(1.1), "batch_size": math.log(1.1), "momentum": 0.049})
    assert radius_of(space, 0.1) == shares
    assert radius_of(space, "lr=100%,momentum=0.02") == pytest.approx({"lr": math.log(2), "momentum": 0.0098})
    assert untouched(space, shares) == ["batch_size"]
    assert untouched(space, radius_of(space, "100%")) == []
    for wrong, words in (("much", "a share above 0"), ("wd=10%", "settings of the space"), ("opt=10%", "is a choice")):
        with pytest.raises(InputError, match=words):
            radius_of(space, wrong)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"engine": "slurm"}, "engine must be one of local, ray"),
        ({"method": "robust-bpe"}, "method must be one of robust-bpe, robust-gp-bucb for a robust search"),
        ({"on_failure": "ignore"}, "on_failure must be one of"),
        ({"timeout_s": 0.0}, "timeout_s must be a finite number and above 0"),
        ({"resume": True}, "resume needs the folder"),
        ({"space": None}, "space must say what is searched"),
    ],
)
def test_a_wrong_argument_is_named_with_its_rule(options, words):
    with pytest.raises(InputError, match=words):
        search(**options)


def test_a_report_without_a_budget_is_a_failure_that_says_what_to_give():
    with pytest.raises(InputError, match=r"bw.tune\(max_examples=...\)"):
        search(lambda values, trial: trial.report(1, 0.5))


def test_a_search_leaves_the_global_generators_alone():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    search(rounds=2, parallel=4)
    assert torch.equal(torch.get_rng_state(), before)
