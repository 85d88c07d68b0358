"""The core of the integrations in a plain loop that divides by the accumulation count, as the frameworks do."""

import json
from collections.abc import Callable

import pytest
import torch
from torch import nn

from batchwright.adapt import Cabs, DiveBatch, Fixed, Geometric, NoiseScale, NormTest, Schedule, StabilityAware
from batchwright.core.errors import InputError
from batchwright.integrations import Accumulation, Options
from batchwright.measure import StabilityMonitor
from batchwright.measure.running_noise import MicroBatchNorms, RunningNoiseScale

INPUTS = torch.randn(200, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
TARGETS = INPUTS.sum(1, keepdim=True) + torch.randn(
    200, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64
)


def make_model() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 1)).double()


def mean_loss(model: nn.Module, rows: torch.Tensor) -> torch.Tensor:
    return (model(INPUTS[rows]) - TARGETS[rows]).square().mean()


class Framework:
    """Epochs over all rows in order; its loss is divided by the accumulation count, and an epoch's last step takes what is left."""

    def __init__(self, options: Options, *, micro_batch_size=8, num_micro_batches=2, lr=0.05, scale=1.0, schedule=None):
        self.model = make_model()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=lr)
        self.scheduler = schedule(self.optimizer) if schedule else None
        self.size, self.scale = micro_batch_size, scale
        self.accumulation = Accumulation(
            options,
            self.optimizer,
            micro_batch_size=micro_batch_size,
            num_micro_batches=num_micro_batches,
            model=self.model,
            micro_batches_per_epoch=-(-len(INPUTS) // micro_batch_size),
            num_train=len(INPUTS),
        )
        if self.scheduler is not None:
            self.accumulation.follow_schedulers([self.scheduler])
        self.accumulation.start()
        self.steps, self.reports = [], []

    def run(self, num_epochs: int, *, before_step: Callable[[], None] = lambda: None) -> None:
        for epoch in range(num_epochs):
            chunks = list(torch.arange(len(INPUTS)).split(self.size))
            while chunks:
                accumulation = self.accumulation
                count = accumulation.num_micro_batches
                parts, chunks = chunks[:count], chunks[count:]
                self.optimizer.zero_grad()
                accumulation.begin()
                for rows in parts:
                    loss = mean_loss(self.model, rows)
                    (loss / count * accumulation.weight(len(rows)) * self.scale).backward()
                    accumulation.after_backward(len(rows), loss)
                accumulation.finish_gradient(grad_scale=self.scale)
                for weight in self.model.parameters():
                    weight.grad /= self.scale
                self.steps.append(torch.cat(parts))
                before_step()
                self.optimizer.step()
                if self.scheduler is not None:
                    self.scheduler.step()
                self.reports.append(accumulation.after_step(epoch=epoch, end_of_epoch=not chunks))


def test_each_gradient_is_the_mean_over_its_step_also_when_the_count_changes_and_an_epoch_cuts_it_short():
    run = Framework(Options(policy=Schedule(schedule="0:24 100:48 300:56 500:8"), lr_rule="keep"))
    worst = []

    def compare() -> None:
        big = make_model()
        big.load_state_dict(run.model.state_dict())
        mean_loss(big, run.steps[-1]).backward()
        worst.append(
            max(
                float((mine.grad - plain.grad).abs().max())
                for mine, plain in zip(run.model.parameters(), big.parameters(), strict=True)
            )
        )

    run.run(3, before_step=compare)
    assert {len(rows) for rows in run.steps} >= {24, 48, 56, 8}
    assert any(len(rows) % 8 == 0 and len(rows) not in (24, 48, 56, 8) for rows in run.steps)  # an epoch's remainder
    assert max(worst) < 1e-14


def test_a_short_micro_batch_has_the_weight_of_its_examples():
    run = Framework(Options(policy=Schedule(schedule="0:64"), lr_rule="keep"), micro_batch_size=32)
    gradients = []
    run.run(1, before_step=lambda: gradients.append([w.grad.clone() for w in run.model.parameters()]))
    assert [len(rows) for rows in run.steps] == [64, 64, 64, 8]
    run = Framework(Options(policy=Fixed()), micro_batch_size=48, num_micro_batches=3)
    run.run(1, before_step=lambda: gradients.append([w.grad.clone() for w in run.model.parameters()]))
    assert [len(rows) for rows in run.steps] == [144, 56]  # 48 and a short one of 8
    big = make_model()
    for rows in run.steps:
        big.zero_grad()
        mean_loss(big, rows).backward()
        with torch.no_grad():
            for weight in big.parameters():
                weight -= 0.05 * weight.grad
    assert torch.allclose(
        torch.cat([w.flatten() for w in big.parameters()]),
        torch.cat([w.flatten() for w in run.model.parameters()]),
        atol=1e-14,
    )


def test_the_noise_is_that_of_the_plain_estimator_under_any_division_and_gradient_scale():
    found = {}
    for scale in (1.0, 1024.0):
        run = Framework(Options(policy=NoiseScale(cooldown=10_000), decay=0.5), micro_batch_size=24, scale=scale)
        run.run(2)
        found[scale] = run.accumulation.noise
    # By hand: the sums of each part over the examples of the whole step, as MicroBatchNorms asks for them.
    model = make_model()
    noise = RunningNoiseScale(0.5)
    for rows in run.steps:
        model.zero_grad()
        norms = MicroBatchNorms(list(model.parameters()))
        for part in rows.split(24):
            (mean_loss(model, part) * len(part) / len(rows)).backward()
            norms.after_micro_batch(len(part))
        one = norms.step_noise()
        noise = noise if one is None else noise.update(one)
        with torch.no_grad():
            for weight in model.parameters():
                weight -= 0.05 * weight.grad
    assert noise.num_effective > 1
    for scale in found:
        assert found[scale].sums == pytest.approx(noise.sums, rel=1e-9)


def test_noise_is_measured_only_as_often_as_asked():
    run = Framework(Options(policy=NoiseScale(cooldown=10_000), noise_every=3), micro_batch_size=10)
    updates = []
    run.run(1, before_step=lambda: updates.append(run.accumulation.gradient.noise is not None))
    assert updates == [step % 3 == 0 for step in range(10)]


def test_a_noise_policy_grows_the_batch_and_the_lr_with_it():
    run = Framework(Options(policy=NoiseScale(fraction=4.0, cooldown=3, max_batch_size=64), lr_rule="linear"))
    run.run(8)
    assert run.reports[-1].next_batch_size == 64
    changed = next(report for report in run.reports if report.changed)
    assert changed.batch_size == 16
    assert changed.next_batch_size == 32
    assert "noise scale" in changed.reason
    assert changed.noise_scale.low < changed.noise_scale.value < changed.noise_scale.high
    assert run.reports[0].lr == 0.05
    assert run.reports[-1].lr == pytest.approx(0.2)
    assert run.optimizer.param_groups[0]["lr"] == 0.05
    assert set(run.reports[-1].scalars()) >= {"batch_size", "lr", "noise_scale", "num_examples"}


def test_the_gain_rule_holds_the_noise_scale_of_the_change():
    run = Framework(Options(policy=NoiseScale(fraction=4.0, cooldown=3, max_batch_size=32)))
    run.run(4)
    noise = run.accumulation.in_force.noise_scale
    at_change = next(report for report in run.reports if report.changed).noise_scale.value
    assert noise == at_change
    assert run.reports[-1].lr == pytest.approx(0.05 * (1 + noise / 16) / (1 + noise / 32))


def test_the_lr_schedule_ends_where_it_would_have_ended():
    def cosine(optimizer):
        return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 39)

    options = {"policy": Schedule(schedule="0:16 150:40 400:8"), "lr_rule": "keep"}
    by_examples = Framework(Options(**options), schedule=cosine)
    by_examples.run(3)
    assert by_examples.scheduler.last_epoch == 39  # 13 steps of 16 examples in each of three epochs
    assert by_examples.optimizer.param_groups[0]["lr"] == pytest.approx(0.0, abs=1e-12)
    by_steps = Framework(Options(**options, schedule="steps"), schedule=cosine)
    by_steps.run(3)
    assert by_steps.scheduler.last_epoch == len(by_steps.steps) != 39


def test_a_fixed_policy_leaves_every_bit_of_the_training_as_it_was():
    def cosine(optimizer):
        return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 20)

    run = Framework(Options(policy=Fixed()), micro_batch_size=20, schedule=cosine)
    run.run(2)
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    scheduler = cosine(optimizer)
    for _ in range(2):
        for rows in torch.arange(200).split(40):
            optimizer.zero_grad()
            for part in rows.split(20):
                (mean_loss(model, part) / 2).backward()
            optimizer.step()
            scheduler.step()
    assert all(torch.equal(a, b) for a, b in zip(run.model.parameters(), model.parameters(), strict=True))


def test_a_resumed_run_is_the_same_to_the_last_bit():
    def cosine(optimizer):
        return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 60)

    options = Options(policy=NoiseScale(fraction=4.0, cooldown=3, max_batch_size=64))
    whole = Framework(options, schedule=cosine)
    whole.run(4)
    first = Framework(options, schedule=cosine)
    first.run(2)
    state = json.loads(json.dumps(first.accumulation.state_dict()))
    second = Framework(options, schedule=cosine)
    second.model.load_state_dict(first.model.state_dict())
    second.optimizer.load_state_dict(first.optimizer.state_dict())
    second.scheduler.load_state_dict(first.scheduler.state_dict())
    second.accumulation.load_state_dict(state)
    second.run(2)
    assert any(report.changed for report in first.reports)
    assert all(torch.equal(a, b) for a, b in zip(whole.model.parameters(), second.model.parameters(), strict=True))
    assert whole.accumulation.state_dict() == second.accumulation.state_dict()


def test_a_state_of_another_policy_is_refused_and_another_micro_batch_size_keeps_the_batch_size():
    state = Framework(Options(policy=Fixed()), micro_batch_size=8, num_micro_batches=6).accumulation.state_dict()
    with pytest.raises(InputError, match="policy Geometric, got Fixed"):
        Framework(Options(policy=Geometric(every=100))).accumulation.load_state_dict(state)
    other = Framework(Options(policy=Fixed()), micro_batch_size=16).accumulation
    other.load_state_dict(state)
    assert (other.batch_size, other.num_micro_batches) == (48, 3)


def test_a_step_that_the_optimizer_left_out_is_not_counted():
    run = Framework(Options(policy=NoiseScale(cooldown=10_000)))
    accumulation = run.accumulation
    accumulation.begin()
    for _ in range(2):
        loss = mean_loss(run.model, torch.arange(8)) * float("inf")
        loss.backward()
        accumulation.after_backward(8)
    accumulation.finish_gradient()
    assert accumulation.after_step() is None
    assert (accumulation.step, accumulation.noise) == (0, RunningNoiseScale(0.95))
    assert (accumulation.num_examples, accumulation.schedule.num_steps) == (16, 1)  # the data went by nevertheless


def test_policies_that_look_at_the_loss_get_the_mean_loss_of_the_step():
    run = Framework(Options(policy=Cabs(max_batch_size=64)), micro_batch_size=20)
    seen = []
    update = type(run.accumulation.policy).update

    class Spy(Cabs):
        def update(self, state, measured):
            seen.append(measured.loss)
            return update(self, state, measured)

    run = Framework(Options(policy=Spy(max_batch_size=40)), micro_batch_size=20)
    expected = []
    run.run(1, before_step=lambda: expected.append(float(mean_loss(run.model, run.steps[-1]).detach())))
    assert seen[0] is None
    assert seen[1:] == pytest.approx(expected, rel=1e-9)


def test_a_policy_may_be_named_as_on_the_command_line():
    assert Options(policy="schedule:0:16 1k:32").controller == Schedule(schedule="0:16 1k:32")


def test_what_cannot_work_is_refused_with_the_way_out():
    with pytest.raises(InputError, match="halve the batch size of the data loader and accumulate 2"):
        Framework(Options(policy=NormTest()), num_micro_batches=1)
    with pytest.raises(InputError, match="needs diversity too"):
        Options(policy=DiveBatch())
    with pytest.raises(InputError, match=r"--policy must be one of .*noise-scale"):
        Options(policy="noise")
    with pytest.raises(InputError, match="schedule must be one of examples, steps"):
        Options(policy=Fixed(), schedule="epochs")
    model = make_model()
    with pytest.raises(InputError, match="cabs must go with"):
        Accumulation(
            Options(policy=Cabs()), torch.optim.Adam(model.parameters()), micro_batch_size=4, num_micro_batches=2
        )
    with pytest.raises(InputError, match="rank_noise must be given on 4 ranks"):
        Accumulation(
            Options(policy=NormTest()),
            torch.optim.SGD(model.parameters()),
            micro_batch_size=4,
            num_micro_batches=2,
            world_size=4,
        )


def losses(model, batch):
    inputs, targets = batch
    return (model(inputs) - targets).square().mean(1)


def monitor(model, optimizer, **options):
    def draw(generator, batch_size):
        rows = torch.randperm(200, generator=generator)[:batch_size]
        return INPUTS[rows], TARGETS[rows]

    return StabilityMonitor(model, losses, optimizer, draw_batch=draw, every=2, budget=None, **options)


def test_a_stability_gauge_reads_the_settings_in_force_and_a_policy_looks_at_it():
    made, seen = [], []

    def make(model, optimizer):
        made.append(monitor(model, optimizer))
        return made[-1]

    class Spy(StabilityAware):
        def update(self, state, measured):
            seen.append((measured.batch_sharpness, measured.stability_low))
            return StabilityAware.update(self, state, measured)

    # The wrapped schedule asks for four times the batch and so, by lr_rule, four times the lr.
    policy = Spy(inner="schedule", options={"schedule": "0:16 100:64"}, lr_rule="linear")
    run = Framework(Options(policy=policy, stability=make))
    run.run(3)
    readings = made[0].history
    assert len(readings) > 5
    by_step = {report.step: report for report in run.reports}
    for reading in readings:
        assert reading.lr == pytest.approx(by_step[reading.step].lr)
        assert reading.batch_size == by_step[reading.step].batch_size
    assert {reading.lr for reading in readings} > {0.05}
    assert seen[-1] == (readings[-1].batch_sharpness, readings[-1].low)
    assert run.optimizer.param_groups[0]["lr"] == 0.05


def test_a_gauge_without_a_second_derivative_ends_with_a_warning_and_training_goes_on():
    class NoSecond(torch.autograd.Function):
        @staticmethod
        def forward(context, value):
            context.save_for_backward(value)
            return value.square()

        @staticmethod
        def backward(context, gradient):
            if torch.is_grad_enabled():  # as it is in a backward pass that is to be differentiated
                raise NotImplementedError("no second derivative")
            return 2 * context.saved_tensors[0] * gradient

    def broken(model, batch):
        return NoSecond.apply(model(batch[0]) - batch[1]).mean(1)

    def make(model, optimizer):
        return StabilityMonitor(
            model, broken, optimizer, draw_batch=lambda g, n: (INPUTS[:n], TARGETS[:n]), every=2, budget=None
        )

    run = Framework(Options(policy=Fixed(), stability=make))
    with pytest.warns(
        UserWarning, match="no stability readings from here on: NotImplementedError: no second derivative"
    ):
        run.run(1)
    assert run.reports[-1].step == 13


def test_a_policy_that_needs_the_gauge_says_so():
    with pytest.raises(InputError, match="give stability"):
        Options(policy=StabilityAware())
