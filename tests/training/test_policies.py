"""What a controller decides is what the loop does: sizes from the first step on, lr factors, and nothing it cannot measure."""

import pytest

from batchwright.adapt import AdaScale, Geometric, Schedule, Seesaw, SimiGrad
from batchwright.core.errors import InputError
from batchwright.core.records import read_records
from batchwright.tasks.task import OptimizerSpec
from batchwright.training.loop import train

from .conftest import make_task


def test_a_schedule_chooses_the_size_of_the_first_step_too(tmp_path):
    run = train(make_task(target=None), out=tmp_path / "run", policy=Schedule(schedule="0:8 80:32"), max_examples=240)
    records = read_records(tmp_path / "run")
    sizes = {line["step"]: line["batch_size"] for line in records.of_kind("step")}
    assert [sizes[step] for step in range(1, run.num_steps + 1)] == [8] * 10 + [32] * 5
    assert [line["step"] for line in records.of_kind("decision")] == [0, 10]


def test_the_lr_factor_of_a_decision_is_the_lr_of_the_next_step(tmp_path):
    task = make_task(target=None, optimizer=OptimizerSpec(name="adam", lr=0.01))
    train(task, out=tmp_path / "run", policy=Seesaw(decay="160:0.25"), max_examples=480)
    lrs = {line["step"]: (line["batch_size"], line["lr"]) for line in read_records(tmp_path / "run").of_kind("step")}
    assert lrs[10] == (16, 0.01)
    assert lrs[11] == (64, pytest.approx(0.01 * 0.5))


def test_growth_in_place_of_lr_decay_keeps_the_lr(tmp_path):
    policy = Geometric(every=160, keep_lr=True)
    train(make_task(target=None), out=tmp_path / "run", policy=policy, max_examples=480)
    steps = read_records(tmp_path / "run").of_kind("step")
    assert {line["lr"] for line in steps} == {0.05}
    assert steps[-1]["batch_size"] > 16


def test_adascale_moves_the_lr_between_one_and_its_scale(tmp_path):
    policy = AdaScale(base_batch_size=4)
    train(make_task(target=None), out=tmp_path / "run", policy=policy, noise_every=1, max_examples=1600)
    lrs = [line["lr"] for line in read_records(tmp_path / "run").of_kind("step")]
    assert all(0.05 <= lr <= 0.2 * (1 + 1e-12) for lr in lrs)
    assert max(lrs) > 0.055


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (SimiGrad(), "policy must need no more than training measures.*got simigrad, which needs cosine too"),
        (Schedule(schedule="0:8", unit="tokens"), "needs num_tokens too"),
        (Seesaw(decay="1:0.5"), "seesaw must go with an optimizer that normalises"),
    ],
)
def test_what_the_loop_cannot_do_is_refused_before_it_starts(tmp_path, policy, message):
    with pytest.raises(InputError, match=message):
        train(make_task(), out=tmp_path / "run", policy=policy)
    assert not (tmp_path / "run").exists()
