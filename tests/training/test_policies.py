"""What a controller decides is what the loop does: sizes from the first step on, lr factors, and nothing it cannot measure."""

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from batchwright.adapt import AdaScale, Geometric, Schedule, Seesaw, SimiGrad
from batchwright.core.errors import InputError
from batchwright.core.records import read_records
from batchwright.tasks.task import OptimizerSpec
from batchwright.training.engine import BatchEngine
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


@pytest.mark.parametrize("unit", ["tokens", "epochs"])
def test_growth_by_tokens_and_by_epochs(tmp_path, unit):
    # 160 examples of 6 tokens are an epoch; ten steps of 16, then five of 32.
    task = make_task(target=None, sequence_length=6)
    policy = Geometric(every=960 if unit == "tokens" else 1, unit=unit, max_batch_size=32)
    train(task, out=tmp_path / "run", policy=policy, max_examples=320)
    (decision,) = read_records(tmp_path / "run").of_kind("decision")
    assert (decision["num_examples"], decision["previous"], decision["batch_size"]) == (160, 16, 32)


def test_beta2_and_weight_decay_follow_the_batch_as_in_the_engine(tmp_path):
    spec = OptimizerSpec(name="adamw", lr=0.01, momentum=0.9, beta2=0.99, weight_decay=0.1)
    task, policy = make_task(target=None, optimizer=spec), Schedule(schedule="0:16 160:64 480:16")
    run = train(task, out=tmp_path / "run", policy=policy, max_examples=640, checkpoint_every=1)
    up, down = read_records(tmp_path / "run").of_kind("decision")
    # Four times the batch: the root for the lr, the half-life in examples, and lr * decay an example stays.
    assert (up["lr"], up["beta2"], up["weight_decay"]) == pytest.approx((0.02, 0.99**4, 0.2))
    assert (down["lr"], down["beta2"], down["weight_decay"]) == (0.01, 0.99, 0.1)
    assert "momentum" not in up
    model = nn.Linear(1, 1)
    optimizer = spec.build(model.parameters())
    engine = BatchEngine(model, optimizer, TensorDataset(torch.zeros(640, 1)), policy=policy, batch_size=16)
    for _ in range(11):
        update = engine.next_update()
        for (inputs,) in update:
            update.backward(model(inputs).squeeze(1))
    (group,) = optimizer.param_groups
    assert (group["lr"], group["betas"][1], group["weight_decay"]) == (up["lr"], up["beta2"], up["weight_decay"])
    assert run.batch_size == 16


def test_all_settings_survive_a_kill_at_another_batch_size(tmp_path):
    spec = OptimizerSpec(name="adamw", lr=0.01, beta2=0.99, weight_decay=0.1)
    task, policy = make_task(target=None, optimizer=spec), Schedule(schedule="0:16 160:50 480:16")
    whole = train(task, out=tmp_path / "whole", policy=policy, max_examples=640)

    def crash(progress) -> None:
        if progress.step == 14:
            raise RuntimeError("crash")

    with pytest.raises(RuntimeError, match="crash"):
        train(task, out=tmp_path / "cut", policy=policy, max_examples=640, checkpoint_every=3, on_progress=crash)
    cut = train(task, out=tmp_path / "cut", resume=True)
    states = zip(whole.model.state_dict().values(), cut.model.state_dict().values(), strict=True)
    assert all(torch.equal(left, right) for left, right in states)
    found = [read_records(tmp_path / name).of_kind("decision") for name in ("whole", "cut")]
    for line in (*found[0], *found[1]):
        line.pop("time", None)
    assert found[0] == found[1]


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
        (Schedule(schedule="0:8", unit="tokens"), "counts tokens.*got task 'toy' without sequence_length"),
        (Seesaw(decay="1:0.5"), "seesaw must go with an optimizer that normalises"),
    ],
)
def test_what_the_loop_cannot_do_is_refused_before_it_starts(tmp_path, policy, message):
    with pytest.raises(InputError, match=message):
        train(make_task(), out=tmp_path / "run", policy=policy)
    assert not (tmp_path / "run").exists()
