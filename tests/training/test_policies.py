"""What a controller decides is what the loop does: sizes from the first step on, lr factors, and nothing it cannot measure."""

import contextlib

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from batchwright.adapt import (
    REGISTRY,
    AdaScale,
    DiveBatch,
    Geometric,
    InnerProductTest,
    RestartedBudget,
    Schedule,
    Seesaw,
    StabilityAware,
    check_optimizer,
    parse_policy,
)
from batchwright.adapt.options import example
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
        (
            DiveBatch(),
            "policy dive-batch measures the gradients of single examples.*got 1, a BatchNorm1d.*or take noise-scale",
        ),
        (InnerProductTest(), "policy inner-product-test measures the gradients of single examples"),
        (RestartedBudget(budgets="1k 2k"), "restarted-budget must go with scion"),
        (Schedule(schedule="0:8", unit="tokens"), "counts tokens.*got task 'toy' without sequence_length"),
        (Seesaw(decay="1:0.5"), "seesaw must go with an optimizer that normalises"),
    ],
)
def test_what_the_loop_cannot_do_is_refused_before_it_starts(tmp_path, policy, message):
    with pytest.raises(InputError, match=message):
        train(make_task(), out=tmp_path / "run", policy=policy)
    assert not (tmp_path / "run").exists()


# Options that make a policy act within sixty steps or so, and an optimizer that it holds for; one that is not here is run as its
# example has it, with the first optimizer that it holds for, and may keep the batch size.
TOLD = {
    "adascale": ("adascale:4", [], OptimizerSpec(lr=0.05)),
    "cabs": ("cabs", ["cooldown=5"], OptimizerSpec(lr=0.05, momentum=0.0)),
    "dive-batch": ("dive-batch", ["max_batch_size=80"], OptimizerSpec(lr=0.05)),
    "fixed": ("fixed", [], OptimizerSpec(lr=0.05)),
    "geometric": ("geometric:320", [], OptimizerSpec(name="adamw", lr=0.01)),
    "inner-product-test": ("inner-product-test", ["theta=0.1", "cooldown=5"], OptimizerSpec(lr=0.05)),
    "noise-scale": ("noise-scale", ["cooldown=5", "fraction=4"], OptimizerSpec(name="adam", lr=0.01)),
    "norm-test": ("norm-test", ["theta=0.1", "cooldown=5"], OptimizerSpec(lr=0.05)),
    "restarted-budget": (
        "restarted-budget:2k 16k",
        [],
        OptimizerSpec(name="scion", lr=0.02, options={"radii": {"default": 5.0, "head": 5.0}}),
    ),
    "schedule": ("schedule:0:8 100:24", [], OptimizerSpec(lr=0.05)),
    "seesaw": ("seesaw:320:0.5", [], OptimizerSpec(name="adam", lr=0.01)),
    "simigrad": ("simigrad", ["target=0.9", "cooldown=5", "num_steps=5"], OptimizerSpec(lr=0.05)),
    "stability-aware": ("stability-aware:schedule", ["options.schedule=0:16 160:8"], OptimizerSpec(lr=0.05)),
}
QUIET = {"adascale", "fixed"}  # they keep the batch size


def settings_of(name: str) -> tuple[str, list[str], OptimizerSpec]:
    if name in TOLD:
        return TOLD[name]
    controller = parse_policy(example(name))
    specs = [OptimizerSpec(lr=0.05, momentum=0.0), OptimizerSpec(name="adamw", lr=0.01), TOLD["restarted-budget"][2]]
    for spec in specs:
        with contextlib.suppress(InputError):
            check_optimizer(controller, spec.name, momentum=spec.momentum)
            return example(name), [], spec
    raise AssertionError(f"{name} holds for none of {[spec.name for spec in specs]}")


def separate_task(**changes):
    """Without BatchNorm, so that an example has a gradient of its own."""

    def model() -> nn.Module:
        return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Dropout(0.2), nn.Linear(16, 2))

    return make_task(model=model, target=None, sequence_length=6, **changes)


def test_what_is_told_of_policies_is_of_policies_that_there_are():
    assert TOLD.keys() | QUIET <= REGISTRY.keys()


@pytest.mark.parametrize("name", sorted(REGISTRY))
def test_every_policy_decides_in_train_and_resumes_exactly(tmp_path, name):
    text, options, spec = settings_of(name)
    settings = {"policy": parse_policy(text, options), "max_examples": 960, "noise_every": 1, "checkpoint_every": 7}
    settings |= {"stability_every": 4, "stability_budget": None} if name == "stability-aware" else {}
    task = separate_task(optimizer=spec)
    whole = train(task, out=tmp_path / "whole", **settings)
    decisions = read_records(tmp_path / "whole").of_kind("decision")
    assert bool(decisions) == (name not in QUIET) or name not in TOLD
    sizes = [line["previous"] for line in decisions] + [line["batch_size"] for line in decisions[-1:]]
    assert [line["batch_size"] for line in decisions] == sizes[1:]
    assert whole.batch_size == (sizes[-1] if sizes else 16)

    def crash(progress) -> None:
        if progress.step == min(whole.num_steps - 1, 12):
            raise RuntimeError("crash")

    with pytest.raises(RuntimeError, match="crash"):
        train(task, out=tmp_path / "cut", on_progress=crash, **settings)
    cut = train(task, out=tmp_path / "cut", resume=True)
    states = zip(whole.model.state_dict().values(), cut.model.state_dict().values(), strict=True)
    assert all(torch.equal(left, right) for left, right in states)
    assert [line["batch_size"] for line in read_records(tmp_path / "cut").of_kind("decision")] == sizes[1:]


def test_stability_aware_turns_the_gauge_on_and_waits_for_its_first_reading(tmp_path):
    policy = StabilityAware(inner="schedule", options={"schedule": "0:16 160:8"}, limit=1e6)
    run = train(separate_task(), out=tmp_path / "run", policy=policy, max_examples=1600, stability_budget=None)
    assert any(
        "stability-aware reads the stability gauge, so it was turned on, every 50 steps" in note for note in run.notes
    )
    records = read_records(tmp_path / "run")
    # A smaller batch could be unstable, so it waits from step 10 for the reading at step 50.
    assert records.of_kind("stability")[0]["step"] == 50
    assert [line["step"] for line in records.of_kind("decision")] == [50]


def test_measuring_changes_no_bit_of_the_steps_beside_their_parts(tmp_path):
    # A policy that measures single examples but never moves, against the fixed one on the same parts.
    found = []
    for number, policy in enumerate([DiveBatch(max_batch_size=16, min_batch_size=16), None]):
        run = train(separate_task(), out=tmp_path / str(number), policy=policy, max_examples=640, noise_every=1)
        found.append(torch.cat([value.flatten() for value in run.model.state_dict().values()]))
    assert torch.equal(*found)
