"""A sweep finds what is better than a plan and says how much; it stops when its user does."""

import math
import signal

import pytest

from batchwright.core.errors import InputError
from batchwright.core.records import read_json
from batchwright.core.serialization import from_plain
from batchwright.planning.planner import plan
from batchwright.training.sweep import Setting, Trial, sweep
from batchwright.training.verify import Verification, grid, regret, verify

from .conftest import make_task


def trial(batch_size: int, seed: int, examples: float | None) -> Trial:
    return Trial(
        batch_size=batch_size,
        lr=0.1,
        seed=seed,
        reached=examples is not None,
        steps=None if examples is None else examples / batch_size,
        examples=examples,
        seconds=None if examples is None else examples / 1000,
    )


def test_regret_is_the_ratio_of_means_with_an_interval_over_seeds():
    trials = [trial(8, 0, 100.0), trial(8, 1, 110.0), trial(16, 0, 150.0), trial(16, 1, 165.0)]
    found, best = regret(trials, Setting(batch_size=16, lr=0.1), "examples")
    assert best == Setting(batch_size=8, lr=0.1)
    assert found.value == pytest.approx(1.5)
    assert found.low == pytest.approx(1.5)  # both seeds agree on the ratio
    none, best = regret(trials, Setting(batch_size=8, lr=0.1), "examples")
    assert none.value == 1.0


def test_regret_of_a_plan_that_did_not_get_there_is_infinite():
    trials = [trial(8, 0, 100.0), trial(16, 0, None)]
    assert regret(trials, Setting(batch_size=16, lr=0.1), "seconds")[0].value == math.inf
    assert regret([trial(8, 0, None)], Setting(batch_size=8, lr=0.1), "seconds") == (None, None)


def test_sweep_gives_up_on_the_hopeless_and_on_what_diverges(tmp_path):
    task = make_task()
    settings = [Setting(batch_size=16, lr=0.05), Setting(batch_size=16, lr=1e-6), Setting(batch_size=16, lr=1e30)]
    trials = sweep(task, settings, out=tmp_path, num_seeds=1, device="cpu")
    assert [each.reached for each in trials] == [True, False, False]
    assert trials[1].examples is None


def test_an_interrupt_stops_the_whole_sweep(tmp_path):
    settings = [Setting(batch_size=16, lr=0.05)]

    def interrupt(*_: object) -> None:
        raise AssertionError("no trial was to end")

    task = make_task(target=make_task().target, max_examples=10**7)
    original = task.loss

    def loss(model, batch):
        signal.raise_signal(signal.SIGINT)
        return original(model, batch)

    with pytest.raises(KeyboardInterrupt):
        sweep(make_task(loss=loss), settings, out=tmp_path, num_seeds=2, device="cpu", on_trial=interrupt)


def test_verify_sweeps_around_the_plan_and_writes_what_it_found(tmp_path):
    task = make_task()
    found = plan(task, device="cpu")
    settings = grid(task, found, (0.25, 0.5, 1, 2, 4), (0.5, 1, 2))
    assert len({each.batch_size for each in settings}) >= 4  # the smallest sizes may meet at 1
    assert settings[0] == Setting(batch_size=found.batch_size, lr=found.lr)
    result = verify(task, found, out=tmp_path, batch_factors=(0.5, 1.0), lr_factors=(1.0,), num_seeds=2, device="cpu")
    assert len(result.trials) == 4
    assert result.regret_examples.value >= 1.0
    assert from_plain(Verification, read_json(tmp_path / "verification.json")) == result
    with pytest.raises(InputError, match="needs a task with a target"):
        verify(make_task(target=None), found, out=tmp_path / "b")
