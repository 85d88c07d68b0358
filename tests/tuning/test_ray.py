"""The Ray engine on a local cluster recommends what local processes do, a killed actor costs nothing; and the searcher of Ray Tune."""

import os
import signal

import pytest
from tests import tuning_functions as functions

import batchwright as bw
from batchwright.core.errors import InputError

pytest.importorskip("ray", reason="ray is not installed; `make integrations` installs it")
# Ray opens sockets and files that it closes when its processes end.
pytestmark = [pytest.mark.filterwarnings("default"), pytest.mark.timeout(600)]
SPACE = "x=0:1,rate=log:1e-3:1"
OPTIONS = {"rounds": 3, "parallel": 4, "seed": 2}


@pytest.fixture(scope="module")
def cluster():
    import ray

    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join([os.path.join(root, "src"), root])}},
    )
    yield ray
    ray.shutdown()


@pytest.fixture(scope="module")
def local():
    return bw.tune(functions.bowl, SPACE, workers=1, **OPTIONS)


def test_ray_recommends_what_local_processes_recommend(cluster, local):
    found = bw.tune(functions.bowl, SPACE, engine="ray", workers=2, **OPTIONS)
    assert found.values == local.values
    assert [trial.values for trial in found.trials] == [trial.values for trial in local.trials]
    assert [trial.outcome.value for trial in found.trials] == [trial.outcome.value for trial in local.trials]
    assert cluster.is_initialized()  # it was there before


def test_a_task_trains_to_the_same_loss_on_both(cluster):
    options = {"rounds": 1, "parallel": 2, "max_examples": 600, "seed": 1, "device": "cpu"}
    space = "lr=log:1e-2:1,batch_size=log2:16:64"
    one = bw.tune("digits-mlp", space, workers=1, **options)
    two = bw.tune("digits-mlp", space, engine="ray", workers=2, **options)
    assert [trial.outcome.value for trial in one.trials] == [trial.outcome.value for trial in two.trials]
    assert one.values == two.values


def test_a_killed_actor_costs_no_finished_trial(cluster, local, tmp_path):
    ended = []

    def kill_once(trial, number, total):
        ended.append(trial.id)
        if number == 5:
            lane = next(iter(executor._open))
            os.kill(cluster.get(lane.actor.process.remote()), signal.SIGKILL)

    executor = bw.tuning.ray_executor(2)
    try:
        found = bw.tune(functions.bowl, SPACE, executor=executor, out=tmp_path, on_trial=kill_once, **OPTIONS)
    finally:
        executor.shutdown(cancel_futures=True)
    assert found.values == local.values
    assert sorted(ended) == list(range(12))
    assert found.counts == {"done": 12}


def test_an_actor_over_its_time_is_killed_and_told(cluster):
    executor = bw.tuning.ray_executor(1, limit_s=200.0)
    assert executor.submit(functions.double, 4).result() == 8
    executor.limit_s = 0.5
    with pytest.raises(TimeoutError, match=r"took longer than 0\.5 s"):
        executor.submit(functions.sleep, 60.0).result()
    executor.limit_s = 200.0
    assert executor.submit(functions.double, 5).result() == 10
    executor.shutdown(cancel_futures=True)


def test_the_searcher_asks_in_rounds_waits_between_them_and_goes_on_from_its_file(tmp_path):
    def searcher():
        found = bw.tuning.BPESearcher(SPACE, metric="loss", rounds=2, parallel=3, seed=2)
        found.set_search_properties("loss", "min", {"constant": 7})
        return found

    first = searcher()
    asked = {f"a{i}": first.suggest(f"a{i}") for i in range(3)}
    assert all(each["constant"] == 7 for each in asked.values())
    assert first.suggest("early") is None
    first.on_trial_complete("a0", {"loss": 0.5})
    with pytest.raises(InputError, match="metric must be one that trials report, got 'loss' and acc"):
        first.on_trial_complete("a1", {"acc": 0.5})
    first.on_trial_complete("a1", error=True)
    first.save(str(tmp_path / "state"))
    again = searcher()
    again.restore(str(tmp_path / "state"))
    for each in (first, again):
        each.on_trial_complete("a2", {"loss": 0.1})
    assert first.suggest("b0") == again.suggest("b0")
    for number in (1, 2):
        first.suggest(f"b{number}")
    for number in range(3):
        first.on_trial_complete(f"b{number}", {"loss": 0.2})
    assert first.suggest("late") == "FINISHED"
    assert set(first.recommend().values) == {"x", "rate"}


@pytest.mark.slow
def test_ray_tune_runs_with_the_searcher(cluster, tmp_path):
    from ray import tune

    def trainable(config):
        tune.report({"loss": functions.bowl(config, 1)})

    searcher = bw.tuning.BPESearcher(SPACE, metric="loss", rounds=2, parallel=4, seed=2)
    tuner = tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            search_alg=searcher, metric="loss", mode="min", num_samples=sum(searcher.plan), reuse_actors=True
        ),
        run_config=tune.RunConfig(storage_path=str(tmp_path), verbose=0),
    )
    found = tuner.fit()
    assert len(found) == 8
    assert not found.errors
    assert searcher.recommend().values["x"] == pytest.approx(0.3, abs=0.3)
