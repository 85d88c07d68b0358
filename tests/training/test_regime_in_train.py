"""The regime of a plan in `train` and `BatchEngine`: limit, clipping, noise, learning rate, and the distances of a run."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import batchwright as bw
from batchwright.adapt import NoiseScale
from batchwright.core.errors import InputError
from batchwright.core.records import read_records
from batchwright.core.statistics import Interval
from batchwright.planning.plan import Cost, Evidence
from batchwright.planning.regime import Regime
from batchwright.report import write_report
from batchwright.training.gradient_noise import step_weights


def squared(model, batch):
    x, y = batch
    return (model(x).squeeze(1) - y).square()


def make_task(**changes) -> bw.Task:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(96, 4, generator=generator)
    settings = {
        "name": "line",
        "model": lambda: nn.Linear(4, 1),
        "loss": squared,
        "train": TensorDataset(inputs, inputs.sum(1) + 0.5 * torch.randn(96, generator=generator)),
        "optimizer": bw.OptimizerSpec(lr=0.01, momentum=0.0),
        "batch_size": 8,
        "max_examples": 480,
    }
    return bw.Task(**{**settings, **changes})


def make_plan(**regime) -> bw.Plan:
    one = Interval(value=1.0, low=1.0, high=1.0)
    evidence = Evidence(
        noise=(),
        pilot_losses=(),
        step_times=(),
        overhead_s=one,
        per_example_s=one,
        bytes_per_example=None,
        memory_budget_bytes=None,
        kappa=one,
        kappa_source="",
        calibration=None,
        curve=(),
        warnings=(),
    )
    return bw.Plan(
        task="line",
        objective="time",
        batch_size=32,
        micro_batch_size=32,
        lr=0.02,
        momentum=0.0,
        beta2=0.999,
        base_batch_size=8,
        base_lr=0.01,
        seed=0,
        intervals={},
        reasons={},
        cost=Cost(plain_steps=0.0, num_examples=0, seconds=0.0, parts={}),
        evidence=evidence,
        environment={},
        regime=Regime(
            **{"name": "keep-updates", "base_max_examples": 480, "base_batch_size": 8, "batch_size": 32, **regime}
        ),
    )


def run(tmp_path, plan=None, *, task=None, **options):
    return bw.train(task or make_task(), plan, out=tmp_path / "run", device="cpu", **options)


def test_a_plan_that_keeps_updates_trains_as_many(tmp_path):
    assert run(tmp_path, make_plan()).num_steps == 60
    assert run(tmp_path / "epochs", make_plan(name="keep-epochs")).num_steps == 15
    # The number of updates is kept at a batch size that comes before the plan's, too.
    assert run(tmp_path / "other", make_plan(), batch_size=16).num_steps == 60
    assert run(tmp_path / "limit", make_plan(), max_examples=64).num_steps == 2
    assert run(tmp_path / "older", replace(make_plan(), regime=None)).num_steps == 15


def test_gradients_are_clipped_to_the_norm_of_the_plan(tmp_path):
    """Plain SGD moves by lr times the clipped gradient: never more than lr times the norm, and here exactly that."""
    start = torch.cat([each.detach().flatten() for each in make_task().make_model(0).parameters()])
    found = run(tmp_path, make_plan(max_grad_norm=0.25), max_examples=32)
    end = torch.cat([each.detach().flatten() for each in found.model.parameters()])
    assert float((end - start).norm()) == pytest.approx(0.02 * 0.25, rel=1e-4)


@pytest.mark.parametrize("micro_batch_size", [32, 12])
def test_noise_weighs_the_examples_of_a_step(tmp_path, micro_batch_size):
    """One step against the weighted gradient written out; the recorded loss is that of the examples as they are."""
    task = make_task(batch_size=32)
    found = run(tmp_path, task=task, noise_batch_size=4, max_examples=32, micro_batch_size=micro_batch_size, seed=3)
    from batchwright.data.samplers import EpochSampler

    indices = EpochSampler(96, 3).take(32)
    model = task.make_model(3)
    x, y = task.train.tensors[0][indices], task.train.tensors[1][indices]
    losses = squared(model, (x, y))
    weights = step_weights(32, 4, seed=3, step=1)
    (losses * weights).mean().backward()
    for after, before in zip(found.model.parameters(), model.parameters(), strict=True):
        assert torch.allclose(after, before - 0.01 * before.grad, atol=1e-6)
    line = read_records(tmp_path / "run").of_kind("step")[0]
    assert line["loss"] == pytest.approx(losses.mean().item(), rel=1e-5)
    assert weights.std() > 1


def test_a_run_with_noise_phases_and_distances_goes_on_bit_by_bit(tmp_path):
    options = {"noise_batch_size": 2, "max_grad_norm": 1.0, "lr_milestones": (0.5, 0.75), "diffusion": True}
    whole = run(tmp_path / "whole", checkpoint_every=10, **options)
    steps = []

    def stop(now):
        steps.append(now.step)
        if now.step == 37:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "parts", checkpoint_every=10, on_progress=stop, **options)
    again = bw.train(make_task(), out=tmp_path / "parts" / "run", device="cpu", resume=True)
    for one, other in zip(whole.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(one, other)
    lines = [read_records(tmp_path / name / "run") for name in ("whole", "parts")]
    for kind in ("diffusion", "potential"):
        first, second = (each.of_kind(kind)[-1] for each in lines)
        assert {**first, "elapsed": 0} == {**second, "elapsed": 0}


def test_the_lr_falls_at_shares_of_the_run_under_either_regime(tmp_path):
    for name, num_steps in (("keep-updates", 60), ("keep-epochs", 15)):
        run(tmp_path / name, make_plan(name=name), lr_milestones=(0.5,), lr_decay=0.25)
        lines = read_records(tmp_path / name / "run").of_kind("step")
        # A record is written after its step, so it tells the lr of the next one.
        for line in lines:
            expected = 0.02 * (0.25 if line["step"] >= num_steps / 2 else 1.0)
            assert line["lr"] == pytest.approx(expected)
        assert lines[-1]["step"] >= num_steps / 2


def test_distances_are_recorded_fitted_and_drawn(tmp_path):
    task = make_task(max_examples=8 * 400)
    found = run(tmp_path, task=task, diffusion=True, stop_at_target=False)
    records = read_records(tmp_path / "run")
    points = records.of_kind("distance")
    start = task.make_model(0)
    moved = sum(
        float((a - b).detach().square().sum())
        for a, b in zip(found.model.parameters(), start.parameters(), strict=True)
    )
    assert points[-1]["step"] > 350
    assert points[-1]["distance"] == pytest.approx(moved**0.5, rel=0.05)
    (fit,) = records.of_kind("diffusion")
    assert set(fit["laws"]) == {"log", "square-root", "power", "log-power"}
    assert "exponent" in fit["told"]
    (potential,) = records.of_kind("potential")
    assert len(potential["radii"]) == 7
    text = write_report(tmp_path / "run").read_text()
    assert "How far the weights have come" in text
    assert fit["told"].split(" (")[0] in text


def test_a_short_run_says_why_it_has_no_law(tmp_path):
    run(tmp_path, diffusion=True, max_examples=32)
    (fit,) = read_records(tmp_path / "run").of_kind("diffusion")
    assert "8 or more pairs" in fit["told"]
    assert write_report(tmp_path / "run").exists()


def test_a_policy_that_measures_gradients_is_refused_with_noise(tmp_path):
    with pytest.raises(InputError, match="would measure the noise that is put in"):
        run(tmp_path, policy=NoiseScale(max_batch_size=32), noise_batch_size=4)
    model = nn.Linear(4, 1)
    with pytest.raises(InputError, match="got NoiseScale, which would measure the noise"):
        bw.BatchEngine(
            model,
            torch.optim.SGD(model.parameters(), lr=0.1),
            make_task().train,
            policy=NoiseScale(max_batch_size=32),
            batch_size=16,
            noise_batch_size=4,
        )
    with pytest.raises(InputError, match="lr_milestones must rise"):
        run(tmp_path, lr_milestones=(0.75, 0.5))


@pytest.mark.parametrize("weighted", [False, True])
def test_the_engine_puts_in_the_same_noise(weighted):
    torch.manual_seed(0)
    model = nn.Linear(4, 1)
    before = [each.detach().clone() for each in model.parameters()]
    task = make_task()
    engine = bw.BatchEngine(
        model,
        torch.optim.SGD(model.parameters(), lr=0.1),
        task.train,
        batch_size=32,
        micro_batch_size=10,
        noise_batch_size=4,
        shuffle=False,
        seed=5,
    )
    for update in engine:
        for batch in update:
            losses = squared(model, batch)
            update.backward(losses, torch.full_like(losses, 2.0) if weighted else None)
        break
    reference = nn.Linear(4, 1)
    with torch.no_grad():
        for each, value in zip(reference.parameters(), before, strict=True):
            each.copy_(value)
    losses = squared(reference, (task.train.tensors[0][:32], task.train.tensors[1][:32]))
    (losses * step_weights(32, 4, seed=5, step=0)).mean().backward()
    for after, start in zip(model.parameters(), reference.parameters(), strict=True):
        assert torch.allclose(after, start - 0.1 * start.grad, atol=1e-6)
    assert update.loss == pytest.approx(losses.mean().item(), rel=1e-5)
