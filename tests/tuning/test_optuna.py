"""The sampler and the export for Optuna, with Optuna."""

import math

import pytest
from tests import tuning_functions as functions

import batchwright as bw

optuna = pytest.importorskip("optuna", reason="optuna is not installed; `make integrations` installs it")
pytestmark = pytest.mark.filterwarnings("default")
SPACE = "x=0:1,rate=log:1e-3:1,size=log2:16:256,kind=a|b"


@pytest.fixture(autouse=True)
def quiet():
    optuna.logging.set_verbosity(optuna.logging.ERROR)


def objective(trial) -> float:
    values = {"x": trial.suggest_float("x", 0, 1), "rate": trial.suggest_float("rate", 1e-3, 1, log=True)}
    size = trial.suggest_int("size", 16, 256, log=True)
    kind = trial.suggest_categorical("kind", ["a", "b"])
    return functions.bowl(values, trial.number) + 0.1 * abs(math.log2(size / 64)) + 0.2 * (kind == "b")


def make(sampler, storage=None):
    return optuna.create_study(sampler=sampler, storage=storage, study_name="s", load_if_exists=True)


def test_a_study_finds_the_optimum_and_its_trials_lie_on_the_axes():
    sampler = bw.tuning.BPESampler(SPACE, rounds=4, parallel=10, seed=1)
    study = make(sampler)
    study.optimize(objective, n_trials=40)
    assert all(math.log2(trial.params["size"]) % 1 == 0 for trial in study.trials)
    found = sampler.recommend(study).values
    assert found["kind"] == "a"
    assert (found["x"] - 0.3) ** 2 + 0.1 * math.log10(found["rate"] / 0.1) ** 2 + 0.1 * abs(
        math.log2(found["size"] / 64)
    ) < 0.1


def test_several_workers_on_one_journal_ask_the_rounds_of_one(tmp_path):
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    alone = make(bw.tuning.BPESampler(SPACE, rounds=2, parallel=4, seed=3))
    alone.optimize(objective, n_trials=8)
    storage = JournalStorage(JournalFileBackend(str(tmp_path / "journal")))
    for _ in range(4):  # as many processes, each with a sampler of its own, two trials each
        study = make(bw.tuning.BPESampler(SPACE, rounds=2, parallel=4, seed=3), storage)
        study.optimize(objective, n_trials=2)
    assert [trial.params for trial in study.trials] == [trial.params for trial in alone.trials]


def test_failed_trials_and_trials_set_by_hand_are_taken_as_they_are():
    sampler = bw.tuning.BPESampler(SPACE, rounds=2, parallel=4, seed=3)
    study = make(sampler)
    study.enqueue_trial({"x": 0.31, "rate": 0.1, "size": 64, "kind": "a"})

    def moody(trial):
        value = objective(trial)
        if trial.number == 2:
            raise RuntimeError("broken")
        return value

    study.optimize(moody, n_trials=8, catch=RuntimeError)
    bandit = sampler._bandit(study, 2)
    told = [bandit.trials.row(number) for number in range(8)]
    assert told[0].point[:2] == (0.31, 0.1)
    assert [each.status for each in told] == ["done", "done", "failed", *["done"] * 5]
    assert told[0].value == pytest.approx(study.trials[0].value)


def test_trials_beyond_the_plan_repeat_the_recommended_setting():
    sampler = bw.tuning.BPESampler(SPACE, rounds=1, parallel=5, seed=3)
    study = make(sampler)
    study.optimize(objective, n_trials=5)
    wanted = dict(sampler.recommend(study).values)
    study.optimize(objective, n_trials=1)
    assert study.trials[-1].params == wanted


def test_an_export_holds_every_trial_once_and_can_be_read_back(tmp_path):
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    found = bw.tune(
        functions.bowl, "x=0:1,rate=log:1e-3:1", rounds=2, parallel=4, out=tmp_path / "a", executor=None, workers=1
    )
    for _ in range(2):
        name = bw.tuning.export_to_optuna(tmp_path / "a", tmp_path / "optuna.log")
    study = optuna.load_study(study_name=name, storage=JournalStorage(JournalFileBackend(str(tmp_path / "optuna.log"))))
    assert [trial.params for trial in study.trials] == [dict(trial.values) for trial in found.trials]
    assert [trial.value for trial in study.trials] == [trial.outcome.value for trial in found.trials]
    assert study.best_trial.value == min(trial.outcome.value for trial in found.trials)
