"""The loop keeps the global batch exactly, stops where it should, and writes what happened."""

import itertools
import signal
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from batchwright.adapt import REGISTRY, Decision, Measured, NoiseScale
from batchwright.core.errors import InputError, NonFiniteLossError, OutputError
from batchwright.core.records import read_records
from batchwright.data.access import fetch
from batchwright.data.samplers import EpochSampler
from batchwright.tasks.task import OptimizerSpec, Target
from batchwright.training.loop import train
from batchwright.training.run import Instant, crossing

from .conftest import make_task


@dataclass(frozen=True, kw_only=True)
class Sudden:
    """Sixty times the batch after thirty steps; without a noise scale the lr follows in proportion."""

    needs: frozenset[str] = frozenset()

    def init(self, *, batch_size: int) -> dict:
        return {}

    def update(self, state: dict, measured: Measured) -> tuple[dict, Decision]:
        size = 120 if measured.step >= 30 else measured.batch_size
        return state, Decision(batch_size=size, changed=size != measured.batch_size, reason="sudden")


def parameters(model: nn.Module) -> torch.Tensor:
    return torch.cat([value.detach().double().reshape(-1) for value in model.state_dict().values()])


def plain_task(**changes):
    """Without BatchNorm and dropout, so that accumulation changes nothing."""
    return make_task(model=lambda: nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 2)), **changes)


@pytest.mark.parametrize("micro_batch_size", [1, 3, 7, 10, 16])
def test_accumulation_equals_the_plain_loop_of_torch(tmp_path, micro_batch_size):
    task = plain_task(target=None)
    run = train(task, out=tmp_path / "run", batch_size=16, micro_batch_size=micro_batch_size, max_examples=50 * 16)
    model = task.make_model(0)
    optimizer, sampler = task.optimizer.build(model.parameters()), EpochSampler(task.num_train, 0)
    for _ in range(50):
        inputs, labels = fetch(task.train, sampler.take(16))
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
    assert run.num_steps == 50
    assert torch.allclose(parameters(run.model), parameters(model), atol=1e-5)


def test_run_stops_at_its_target_and_says_what_it_took(task, tmp_path):
    run = train(task, out=tmp_path / "run")
    assert run.reason == "target"
    assert run.values["loss"] <= 0.2
    assert run.to_target.examples <= run.num_examples
    records = read_records(tmp_path / "run")
    (end,) = records.of_kind("end")
    assert end["to_target"]["examples"] == run.to_target.examples
    assert records.of_kind("start")[0]["batch_size"] == 16
    steps = records.of_kind("step")
    assert steps[-1]["num_examples"] == steps[-1]["step"] * 16
    assert all(a["train_s"] <= b["train_s"] for a, b in itertools.pairwise(steps))


def test_run_gives_up_at_its_limit(tmp_path):
    run = train(make_task(target=Target(value=1e-9)), out=tmp_path / "run", max_examples=320)
    assert (run.reason, run.num_examples, run.to_target) == ("limit", 320, None)


def test_same_seed_same_run_and_other_seed_another(task, tmp_path):
    runs = [
        train(task, out=tmp_path / str(number), seed=seed, max_examples=800) for number, seed in enumerate([0, 0, 1])
    ]
    assert torch.equal(parameters(runs[0].model), parameters(runs[1].model))
    assert not torch.equal(parameters(runs[0].model), parameters(runs[2].model))


def test_crossing_is_interpolated_between_evaluations():
    target = Target(value=0.5, metric="loss")
    before = Instant(step=10, num_examples=100, train_s=1.0, value=0.9)
    after = Instant(step=20, num_examples=200, train_s=3.0, value=0.4)
    found = crossing(target, before, after)
    assert (found.steps, found.examples, found.seconds) == pytest.approx((18, 180, 2.6))
    assert crossing(target, before, Instant(step=20, num_examples=200, train_s=3.0, value=0.6)) is None
    assert crossing(Target(value=0.3, direction="above"), None, after).examples == 200


def test_controller_changes_batch_size_and_lr_and_gives_the_reason(tmp_path):
    task = make_task(target=None)
    policy = NoiseScale(max_batch_size=64, cooldown=4, fraction=1.0)
    run = train(task, out=tmp_path / "run", policy=policy, batch_size=4, max_examples=6000, noise_every=1)
    records = read_records(tmp_path / "run")
    decisions = records.of_kind("decision")
    assert decisions
    assert decisions[0]["previous"] == 4
    assert decisions[0]["lr"] > 0.05 * (decisions[0]["batch_size"] > 4)
    assert "noise scale" in decisions[0]["reason"]
    assert records.of_kind("noise")[0]["noise_scale"]["low"] >= 0
    assert run.batch_size == decisions[-1]["batch_size"]
    # Every example counts: the records of steps add up to what was used.
    assert records.of_kind("end")[0]["num_examples"] == run.num_examples


def test_nan_from_step_three_ends_the_run_with_one_line_and_keeps_the_checkpoint(tmp_path):
    calls = 0

    def loss(model: nn.Module, batch: tuple) -> torch.Tensor:
        nonlocal calls
        calls += model.training
        return model(batch[0]).square().sum(1) * (float("nan") if calls >= 3 else 1.0)

    with pytest.raises(NonFiniteLossError, match=r"got nan at step 3 with lr 0\.05 and batch size 16.*step 0"):
        train(make_task(loss=loss, target=None, metrics={}), out=tmp_path / "run")
    (end,) = read_records(tmp_path / "run").of_kind("end")
    assert end["reason"] == "failed"
    assert "step 3" in end["message"]


def test_a_folder_with_a_run_is_not_overwritten(task, tmp_path):
    train(task, out=tmp_path / "run", max_examples=160)
    with pytest.raises(InputError, match=r"a folder without a run.*--resume"):
        train(task, out=tmp_path / "run")


def test_batch_larger_than_the_data_set_is_refused(task, tmp_path):
    with pytest.raises(InputError, match="at most the number of training examples, got 161 for 160"):
        train(task, out=tmp_path / "run", batch_size=161)


def test_unwritable_folder_is_named(task, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="must be a folder that can be written"):
        train(task, out=tmp_path / "file" / "run")


@pytest.mark.parametrize("name", [signal.SIGINT, signal.SIGTERM])
def test_first_signal_stops_at_the_next_step_and_resume_is_bit_identical(task, tmp_path, name):
    task = make_task(target=None)
    whole = train(task, out=tmp_path / "whole", max_examples=1600)

    def interrupt(progress) -> None:
        if progress.step == 37:
            signal.raise_signal(name)

    first = train(task, out=tmp_path / "cut", max_examples=1600, on_progress=interrupt)
    assert (first.reason, first.num_steps) == ("interrupted", 37)
    second = train(task, out=tmp_path / "cut", resume=True)
    assert (second.reason, second.num_steps) == ("limit", 100)
    assert torch.equal(parameters(second.model), parameters(whole.model))
    ends = read_records(tmp_path / "cut").of_kind("end")
    assert [end["reason"] for end in ends] == ["limit"]


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_every_optimizer_descends_and_resumes_exactly(tmp_path, optimizer):
    task = make_task(target=None, optimizer=OptimizerSpec(name=optimizer, lr=0.01, weight_decay=1e-3))
    whole = train(task, out=tmp_path / "whole", max_examples=1600)

    def crash(progress) -> None:
        if progress.step == 61:
            raise RuntimeError("crash")

    with pytest.raises(RuntimeError, match="crash"):
        train(task, out=tmp_path / "cut", max_examples=1600, checkpoint_every=20, on_progress=crash)
    resumed = train(task, out=tmp_path / "cut", resume=True)
    assert torch.equal(parameters(resumed.model), parameters(whole.model))
    first = read_records(tmp_path / "whole").of_kind("evaluation")[0]["values"]["loss"]
    assert resumed.values["loss"] < first


def test_resume_with_a_controller_is_bit_identical_across_a_change_of_batch_size(tmp_path):
    task = make_task(target=None)
    settings = {"policy": NoiseScale(max_batch_size=64, cooldown=4, fraction=1.0), "batch_size": 4, "noise_every": 1}
    whole = train(task, out=tmp_path / "whole", max_examples=6000, **settings)
    changes = [line["step"] for line in read_records(tmp_path / "whole").of_kind("decision")]
    for number, cut in enumerate((changes[0], changes[0] + 1, changes[-1] + 1)):
        folder = tmp_path / f"cut-{number}"

        def interrupt(progress, cut=cut) -> None:
            if progress.step == cut:
                signal.raise_signal(signal.SIGTERM)

        train(task, out=folder, max_examples=6000, on_progress=interrupt, **settings)
        resumed = train(task, out=folder, resume=True)
        assert torch.equal(parameters(resumed.model), parameters(whole.model))
        assert resumed.num_steps == whole.num_steps


def test_resuming_a_finished_run_changes_nothing(task, tmp_path):
    done = train(task, out=tmp_path / "run")
    again = train(task, out=tmp_path / "run", resume=True)
    assert again.reason == "target"
    assert again.to_target == done.to_target
    assert torch.equal(parameters(again.model), parameters(done.model))
    assert again.notes == ("the run had ended before (target): nothing was left to do",)


def test_a_resume_says_what_it_was_given_and_does_not_use(task, tmp_path):
    train(task, out=tmp_path / "run", batch_size=16, max_examples=160)
    same = train(task, out=tmp_path / "run", batch_size=16, max_examples=160, resume=True)
    assert len(same.notes) == 1  # that it had ended
    other = train(task, out=tmp_path / "run", batch_size=32, lr=0.3, max_examples=320, policy=NoiseScale(), resume=True)
    assert other.num_examples == 160
    told = " ".join(other.notes)
    for words in (
        "policy noise-scale was given",
        "with fixed",
        "batch_size 32",
        "with 16",
        "lr 0.3",
        "max_examples 320",
    ):
        assert words in told


def test_resume_refuses_what_it_cannot_do(task, tmp_path):
    with pytest.raises(InputError, match="--resume needs a folder that holds a run"):
        train(task, out=tmp_path / "none", resume=True)
    train(task, out=tmp_path / "run", max_examples=160)
    with pytest.raises(InputError, match="needs the task of the run, 'toy', got 'other'"):
        train(make_task(name="other"), out=tmp_path / "run", resume=True)


def test_stability_readings_are_recorded_and_change_nothing(tmp_path):
    task = make_task(target=None)
    plain = train(task, out=tmp_path / "plain", max_examples=1600)
    watched = train(task, out=tmp_path / "watched", max_examples=1600, stability_every=20, stability_budget=None)
    assert torch.equal(parameters(watched.model), parameters(plain.model))
    lines = read_records(tmp_path / "watched").of_kind("stability")
    assert [line["step"] for line in lines] == [20, 40, 60, 80, 100]
    assert lines[0]["low"] == pytest.approx(2 * (1 - 0.9) / 0.05)
    assert all(line["standard_error"] > 0 for line in lines)
    losses = [[line["loss"] for line in read_records(tmp_path / name).of_kind("step")] for name in ("plain", "watched")]
    assert losses[0] == losses[1]
    assert read_records(tmp_path / "plain").of_kind("stability") == []


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_resumed_run_goes_on_with_its_readings_exactly(tmp_path, optimizer):
    task = make_task(target=None, optimizer=OptimizerSpec(name=optimizer, lr=0.01))
    settings = {"max_examples": 1600, "stability_every": 10, "stability_budget": None, "checkpoint_every": 15}
    train(task, out=tmp_path / "whole", **settings)

    def interrupt(progress) -> None:
        if progress.step == 47:
            raise RuntimeError("crash")

    with pytest.raises(RuntimeError, match="crash"):
        train(task, out=tmp_path / "cut", on_progress=interrupt, **settings)
    train(task, out=tmp_path / "cut", resume=True)
    whole, cut = (read_records(tmp_path / name).of_kind("stability") for name in ("whole", "cut"))
    for line in (*whole, *cut):
        line.pop("share")  # seconds
    assert len(whole) == 10
    assert cut == whole


def test_the_gauge_is_asked_before_a_change_of_batch_size(tmp_path):
    task = plain_task(target=None, optimizer=OptimizerSpec(lr=0.2, momentum=0.9))
    policy = Sudden()
    REGISTRY["sudden"] = Sudden
    try:
        run = train(
            task,
            out=tmp_path / "run",
            policy=policy,
            batch_size=2,
            max_examples=420,
            stability_every=10,
            stability_budget=None,
        )
    finally:
        del REGISTRY["sudden"]
    (decision,) = read_records(tmp_path / "run").of_kind("decision")
    assert decision["batch_size"] == 120
    assert "is likely to make the loss spike" in decision["warning"]
    assert any("is likely to make the loss spike" in note for note in run.notes)


def test_a_model_without_a_second_derivative_trains_on_and_says_so(tmp_path):
    class Square(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x * x

        @staticmethod
        def backward(ctx, grad):
            if torch.is_grad_enabled():  # as it is in a backward pass that is to be differentiated
                raise NotImplementedError("the derivative of square's backward is not implemented")
            return 2 * ctx.saved_tensors[0] * grad

    def loss(model: nn.Module, batch: tuple) -> torch.Tensor:
        return Square.apply(model(batch[0]) - 1.0).sum(1)

    task = plain_task(loss=loss, target=None, metrics={})
    run = train(task, out=tmp_path / "run", max_examples=800, stability_every=5, stability_budget=None)
    assert run.num_steps == 50
    assert len(run.notes) == 1
    assert "no stability readings from step 5 on: NotImplementedError: the derivative" in run.notes[0]
