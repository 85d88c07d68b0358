"""Loops with Accelerate whose batch size changes, against hand-written big batches; one of them on two processes."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

accelerate = pytest.importorskip("accelerate", reason="the extra batchwright[transformers] is not installed")

from accelerate import Accelerator  # noqa: E402
from accelerate.state import AcceleratorState, GradientState  # noqa: E402
from tests.integrations.processes import run_two_processes  # noqa: E402

from batchwright.adapt import Cabs, Fixed, NoiseScale, NormTest, Schedule  # noqa: E402
from batchwright.core.errors import InputError  # noqa: E402
from batchwright.integrations import AccelerateBatchSize  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")

GENERATOR = torch.Generator().manual_seed(0)
INPUTS = torch.randn(92, 6, generator=GENERATOR, dtype=torch.float64)
TARGETS = INPUTS.sum(1, keepdim=True) + torch.randn(92, 1, generator=GENERATOR, dtype=torch.float64)


@pytest.fixture(autouse=True)
def fresh_state():
    yield
    AcceleratorState._reset_state(True)
    GradientState._reset_state()


def make_net() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 1)).double()


def mean_loss(net, rows):
    return (net(INPUTS[rows]) - TARGETS[rows]).square().mean()


def cosine(optimizer):
    return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 36)


class Loop:
    """A user's loop, with what it saw."""

    def __init__(self, policy, *, accumulate=2, micro_batch_size=4, lr=0.05, scheduler=cosine, **options):
        self.accelerator = Accelerator(cpu=True, gradient_accumulation_steps=accumulate)
        net = make_net()
        optimizer = torch.optim.SGD(net.parameters(), lr=lr)
        self.net, self.optimizer, self.loader, self.scheduler = self.accelerator.prepare(
            net,
            optimizer,
            DataLoader(TensorDataset(torch.arange(92)), batch_size=micro_batch_size),
            scheduler(optimizer),
        )
        self.reports = []
        self.sizes = policy and AccelerateBatchSize(
            self.accelerator,
            self.net,
            self.optimizer,
            self.loader,
            policy,
            schedulers=[self.scheduler],
            sinks=[self.reports.append],
            **options,
        )
        self.steps, self.gradients, self.before, self.lrs = [], [], [], []

    def run(self, epochs, clip=None):
        rows_of_step = []
        for _ in range(epochs):
            for batch in self.loader:
                (rows,) = batch
                rows_of_step.append(rows)
                context = self.sizes.accumulate(batch) if self.sizes else self.accelerator.accumulate(self.net)
                with context:
                    loss = mean_loss(self.net, rows)
                    (self.sizes or self.accelerator).backward(loss)
                    if self.accelerator.sync_gradients:
                        self.steps.append(torch.cat(rows_of_step))
                        rows_of_step = []
                        self.gradients.append([p.grad.clone() for p in self.net.parameters()])
                        self.before.append([p.detach().clone() for p in self.net.parameters()])
                        if clip:
                            self.accelerator.clip_grad_norm_(self.net.parameters(), clip)
                    self.optimizer.step()
                    self.scheduler.step()
                    self.optimizer.zero_grad()
        return self

    def worst_difference(self) -> float:
        worst = 0.0
        for rows, gradient, before in zip(self.steps, self.gradients, self.before, strict=True):
            net = make_net()
            for parameter, value in zip(net.parameters(), before, strict=True):
                parameter.data.copy_(value)
            mean_loss(net, rows).backward()
            worst = max(
                worst, *(float((p.grad - g).abs().max()) for p, g in zip(net.parameters(), gradient, strict=True))
            )
        return worst


def test_each_gradient_is_that_of_the_big_batch_while_the_count_changes_inside_epochs():
    loop = Loop(Schedule(schedule="0:8 30:12 60:20 110:4 140:28"), lr_rule="keep").run(3)
    sizes = [len(rows) for rows in loop.steps]
    assert {8, 12, 20, 4, 28} <= set(sizes)
    assert sum(sizes) == 3 * 92
    assert loop.worst_difference() < 1e-14


def test_a_short_last_batch_has_the_weight_of_its_examples_which_accelerate_alone_gets_wrong():
    loop = Loop(Fixed(), micro_batch_size=16, accumulate=4).run(1)
    assert [len(rows) for rows in loop.steps] == [64, 28]
    assert loop.worst_difference() < 1e-14
    AcceleratorState._reset_state(True)
    GradientState._reset_state()
    assert Loop(None, micro_batch_size=16, accumulate=4).run(1).worst_difference() > 0.1


def test_a_fixed_policy_on_whole_steps_leaves_every_bit_as_it_was():
    found = []
    for policy in (Fixed(), None):
        loop = Loop(policy, micro_batch_size=23).run(3, clip=0.5)
        found.append(list(loop.net.parameters()))
        AcceleratorState._reset_state(True)
        GradientState._reset_state()
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_a_noise_policy_grows_the_batch_and_clipping_does_not_touch_what_it_measures():
    found = []
    for clip in (None, 1e-3):
        loop = Loop(NoiseScale(cooldown=10_000), lr=0.0).run(1, clip=clip)
        found.append([report.noise_scale for report in loop.reports])
        AcceleratorState._reset_state(True)
        GradientState._reset_state()
    assert found[0] == found[1]
    assert found[0][-1] is not None
    loop = Loop(NoiseScale(fraction=20.0, cooldown=3, max_batch_size=32)).run(5)
    assert loop.sizes.batch_size == 32


def test_the_schedule_ends_where_it_would_have_and_the_lr_in_force_follows():
    plain = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.05)
    scheduler = cosine(plain)
    by_step = []
    for _ in range(36):
        by_step.append(plain.param_groups[0]["lr"])
        plain.step()
        scheduler.step()
    loop = Loop(Schedule(schedule="0:8 16:16"), lr_rule="linear").run(3)
    assert loop.scheduler.scheduler.last_epoch == 36
    position = 0
    for number, report in enumerate(loop.reports[:6]):
        factor = 1 if number < 2 else 2
        assert report.lr == pytest.approx(by_step[position] * factor)
        position += factor


def test_a_run_resumed_from_accelerates_own_checkpoint_is_the_same_to_the_last_bit(tmp_path):
    policy = NoiseScale(fraction=20.0, cooldown=3, max_batch_size=32)
    whole = Loop(policy).run(4)
    expected = [p.detach().clone() for p in whole.net.parameters()]
    for half in (False, True):
        AcceleratorState._reset_state(True)
        GradientState._reset_state()
        loop = Loop(policy)
        loop.accelerator.register_for_checkpointing(loop.sizes)
        if not half:
            loop.run(2)
            loop.accelerator.save_state(str(tmp_path / "half"))
        else:
            loop.accelerator.load_state(str(tmp_path / "half"))
            loop.run(2)
    assert all(torch.equal(a, b) for a, b in zip(expected, loop.net.parameters(), strict=True))
    assert loop.sizes.state_dict() == whole.sizes.state_dict()


def test_the_loss_reaches_a_policy_that_looks_at_it():
    loop = Loop(Cabs(max_batch_size=32, cooldown=0)).run(2)
    assert any("not measured yet" not in report.reason for report in loop.reports)


def test_what_cannot_work_is_refused():
    with pytest.raises(InputError, match="halve the batch size of the data loader and accumulate 2"):
        Loop(NormTest(), accumulate=1)
    loop = Loop(Fixed())
    with pytest.raises(InputError, match=r"schedulers must be what accelerator\.prepare gave"):
        AccelerateBatchSize(
            loop.accelerator, loop.net, loop.optimizer, loop.loader, Fixed(), schedulers=[loop.scheduler.scheduler]
        )


def test_two_processes_decide_alike_and_make_the_gradient_of_the_whole_batch():
    told = run_two_processes("two_processes_accelerate.py")
    assert told[0] == told[1]
    assert "largest batch 64" in told[0]
