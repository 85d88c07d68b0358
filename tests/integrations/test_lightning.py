"""The callback in real Lightning runs, against hand-written loops over the same batches."""

import csv
import math
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

pl = pytest.importorskip("lightning.pytorch", reason="the extra batchwright[lightning] is not installed")

from tests.integrations.processes import run_two_processes  # noqa: E402

from batchwright.adapt import Cabs, Fixed, NoiseScale, NormTest, Schedule  # noqa: E402
from batchwright.core.errors import InputError  # noqa: E402
from batchwright.integrations import BatchSizeCallback  # noqa: E402
from batchwright.integrations.step_report import StepReport  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")

GENERATOR = torch.Generator().manual_seed(0)
INPUTS = torch.randn(196, 6, generator=GENERATOR, dtype=torch.float64)
TARGETS = INPUTS.sum(1, keepdim=True) + torch.randn(196, 1, generator=GENERATOR, dtype=torch.float64)


def make_net() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 1)).double()


def mean_loss(net: nn.Module, rows: torch.Tensor) -> torch.Tensor:
    return (net(INPUTS[rows]) - TARGETS[rows]).square().mean()


class Module(pl.LightningModule):
    """Counts which rows each step was made of, and keeps the gradient that the optimizer saw."""

    def __init__(self, *, schedule=None, interval="step", lr=0.05, manual=False):
        super().__init__()
        self.net, self.schedule, self.interval, self.lr = make_net(), schedule, interval, lr
        self.automatic_optimization = not manual
        self.rows, self.steps, self.gradients, self.before = [], [], [], []
        self.lrs = []

    def training_step(self, batch, batch_idx):
        (rows,) = batch
        self.rows.append(rows)
        return mean_loss(self.net, rows)

    def on_before_optimizer_step(self, optimizer):
        self.steps.append(torch.cat(self.rows))
        self.rows = []
        self.gradients.append([p.grad.clone() for p in self.net.parameters()])
        self.before.append([p.detach().clone() for p in self.net.parameters()])

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.net.parameters(), lr=self.lr)
        optimizer.register_step_post_hook(
            lambda *_: self.lrs.append(self.trainer.callbacks[0]._accumulation.in_force.lr)
        )
        if self.schedule is None:
            return optimizer
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": self.schedule(optimizer), "interval": self.interval},
        }


def fit(callback, module=None, *, epochs=2, accumulate=2, micro_batch_size=8, ckpt_path=None, **options):
    module = module or Module()
    trainer = pl.Trainer(
        max_epochs=epochs,
        accumulate_grad_batches=accumulate,
        callbacks=[callback, *options.pop("callbacks", [])],
        accelerator="cpu",
        devices=1,
        logger=options.pop("logger", False),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    trainer.fit(module, DataLoader(TensorDataset(torch.arange(196)), batch_size=micro_batch_size), ckpt_path=ckpt_path)
    return module, trainer


def worst_difference(module: Module) -> float:
    """Largest difference between a gradient and that of the same rows as one batch at the same parameters."""
    worst = 0.0
    for rows, gradient, before in zip(module.steps, module.gradients, module.before, strict=True):
        net = make_net()
        for parameter, value in zip(net.parameters(), before, strict=True):
            parameter.data.copy_(value)
        mean_loss(net, rows).backward()
        worst = max(
            worst,
            *(float((p.grad - g).abs().max()) for p, g in zip(net.parameters(), gradient, strict=True)),
        )
    return worst


def test_a_schedule_in_steps_counts_steps_of_the_optimizer():
    # Micro-batches of 8: in steps of the loader the sizes would change earlier, in examples elsewhere.
    policy = Schedule(schedule="0:16 3:32 5:8 9:24", unit="steps")
    module, trainer = fit(BatchSizeCallback(policy, lr_rule="keep"), epochs=1)
    sizes = [len(rows) for rows in module.steps]
    assert sizes[:11] == [16, 16, 16, 32, 32, 8, 8, 8, 8, 24, 24]
    assert trainer.global_step == len(sizes)
    assert sorted(torch.cat(module.steps).tolist()) == list(range(196))
    assert worst_difference(module) < 1e-12


def test_each_gradient_is_that_of_the_big_batch_while_the_count_changes_inside_epochs():
    # 24 whole micro-batches of 8 and a short one of 4 an epoch; the counts have no common factor.
    policy = Schedule(schedule="0:16 50:24 150:40 250:8 330:56")
    module, _ = fit(BatchSizeCallback(policy, lr_rule="keep"), epochs=3)
    sizes = [len(rows) for rows in module.steps]
    assert {16, 24, 40, 8, 56} <= set(sizes)
    assert any(size % 8 for size in sizes)  # the short micro-batch
    assert sum(sizes) == 3 * 196
    assert worst_difference(module) < 1e-14


def test_plain_lightning_gets_the_gradient_of_a_cut_step_wrong_and_the_callback_mends_it():
    # What the callback is held against: divided by the planned count, the last step of an epoch comes out too small.
    module, _ = fit(BatchSizeCallback(Fixed()), accumulate=6, epochs=1)
    assert [len(rows) for rows in module.steps] == [48, 48, 48, 48, 4]
    assert worst_difference(module) < 1e-14

    class Alone(pl.Callback):
        _accumulation = None

    class Plain(Module):
        def configure_optimizers(self):
            return torch.optim.SGD(self.net.parameters(), lr=self.lr)

    plain, _ = fit(Alone(), Plain(), accumulate=6, epochs=1)
    assert worst_difference(plain) > 0.1


def test_a_fixed_policy_on_whole_steps_leaves_every_bit_as_it_was():
    class Alone(pl.Callback):
        pass

    class Plain(Module):
        def configure_optimizers(self):
            return torch.optim.SGD(self.net.parameters(), lr=self.lr)

    found = []
    for callback, kind in ((BatchSizeCallback(Fixed()), Module), (Alone(), Plain)):
        module, _ = fit(callback, kind(), micro_batch_size=14, accumulate=7)  # 14 micro-batches an epoch
        found.append([p.detach().clone() for p in module.net.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_a_noise_policy_grows_the_batch_and_the_trainer_gets_its_count_back():
    reports: list[StepReport] = []
    policy = NoiseScale(fraction=20.0, cooldown=3, max_batch_size=64)
    _, trainer = fit(BatchSizeCallback(policy, sinks=[reports.append]), epochs=6, gradient_clip_val=0.1)
    assert reports[-1].next_batch_size == 64
    assert all("noise scale" in report.reason for report in reports if report.changed)
    assert [report.next_batch_size for report in reports if report.changed] == [32, 64]
    assert trainer.accumulate_grad_batches == 2
    assert type(trainer.accumulate_grad_batches) is int


def test_clipping_does_not_touch_what_is_measured():
    found = []
    for clip in (None, 1e-3):
        reports: list[StepReport] = []
        callback = BatchSizeCallback(NoiseScale(cooldown=10_000), sinks=[reports.append])
        fit(callback, Module(lr=0.0), epochs=1, gradient_clip_val=clip)
        found.append([report.noise_scale for report in reports])
    assert found[0] == found[1]
    assert found[0][-1] is not None


SCHEDULES = {
    "cosine": lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 39),
    "lambda": lambda optimizer: torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + 0.1 * step)),
    "one-cycle": lambda optimizer: torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 0.05, total_steps=40, cycle_momentum=False
    ),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_lr_of_the_new_batch_size_survives_the_scheduler_and_the_schedule_ends_where_it_would_have(name):
    plain = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.05)
    scheduler = SCHEDULES[name](plain)
    by_step = []
    for _ in range(40):
        by_step.append(plain.param_groups[0]["lr"])
        plain.step()
        if len(by_step) < 40:
            scheduler.step()
    policy = Schedule(schedule="0:16 64:32")
    module, trainer = fit(BatchSizeCallback(policy, lr_rule="linear"), Module(schedule=SCHEDULES[name]), epochs=3)
    assert trainer.lr_scheduler_configs[0].scheduler.last_epoch == 3 * math.ceil(25 / 2)
    position = 0
    for number, rows in enumerate(module.steps[:6]):
        factor = 1 if number < 4 else 2
        assert module.lrs[number] == pytest.approx(by_step[position] * factor)
        position += factor
        assert len(rows) == 16 * factor


def test_an_epoch_scheduler_is_left_alone():
    module = Module(schedule=lambda o: torch.optim.lr_scheduler.StepLR(o, 1, 0.5), interval="epoch")
    module, trainer = fit(BatchSizeCallback(Schedule(schedule="0:16 64:32"), lr_rule="linear"), module, epochs=3)
    assert trainer.lr_scheduler_configs[0].scheduler.last_epoch == 3
    assert module.lrs[0] == pytest.approx(0.05)
    assert module.lrs[-1] == pytest.approx(0.05 * 0.25 * 2)


def test_a_run_resumed_at_an_epoch_is_the_same_to_the_last_bit(tmp_path):
    def cosine(optimizer):
        return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 60)

    def callback():
        return BatchSizeCallback(NoiseScale(fraction=20.0, cooldown=3, max_batch_size=64))

    whole, _ = fit(callback(), Module(schedule=cosine), epochs=4)
    first, trainer = fit(callback(), Module(schedule=cosine), epochs=2)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    assert trainer.callbacks[0].last.changed or any(len(rows) > 16 for rows in first.steps)
    second, trainer = fit(callback(), Module(schedule=cosine), epochs=4, ckpt_path=tmp_path / "half.ckpt")
    assert trainer.current_epoch == 4
    assert len(first.steps) + len(second.steps) == len(whole.steps)
    assert all(torch.equal(a, b) for a, b in zip(whole.net.parameters(), second.net.parameters(), strict=True))
    assert whole.lrs == first.lrs + second.lrs


def test_a_checkpoint_in_the_middle_of_an_epoch_keeps_the_batch_size_and_gradients_stay_right(tmp_path):
    class Stop(pl.Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            if batch_idx == 8:
                trainer.save_checkpoint(tmp_path / "middle.ckpt")
                trainer.should_stop = True

    policy = Schedule(
        schedule="0:24 20:40"
    )  # 3 micro-batches, then 5: in the middle of the second step of 5 at the ninth
    fit(BatchSizeCallback(policy, lr_rule="keep"), epochs=1, callbacks=[Stop()])
    callback = BatchSizeCallback(policy, lr_rule="keep")
    module, _ = fit(callback, epochs=2, ckpt_path=tmp_path / "middle.ckpt")
    assert callback.batch_size == 40
    assert {len(rows) for rows in module.steps[:3]} == {40}
    assert worst_difference(module) < 1e-14


def test_the_numbers_reach_the_logger(tmp_path):
    from lightning.pytorch.loggers import CSVLogger

    logger = CSVLogger(tmp_path)
    policy = NoiseScale(fraction=20.0, cooldown=3, max_batch_size=64)
    fit(BatchSizeCallback(policy), logger=logger, log_every_n_steps=1, epochs=3)
    with open(f"{logger.log_dir}/metrics.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {"batchwright/batch_size", "batchwright/lr", "batchwright/noise_scale_low"} <= set(rows[0])
    assert max(float(row["batchwright/batch_size"] or 0) for row in rows) > 16


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "64-true"])
def test_other_precisions_train(precision):
    class Single(Module):
        def training_step(self, batch, batch_idx):
            (rows,) = batch
            self.rows.append(rows)
            dtype = next(self.net.parameters()).dtype
            return (self.net(INPUTS[rows].to(dtype)) - TARGETS[rows].to(dtype)).square().mean()

    module = Single()
    if precision == "bf16-mixed":
        module.net.float()
    callback = BatchSizeCallback(NoiseScale(fraction=20.0, cooldown=3, max_batch_size=64))
    fit(callback, module, precision=precision, epochs=3)
    assert callback.last.noise_scale is not None


def test_the_loss_reaches_a_policy_that_looks_at_it():
    reports: list[StepReport] = []
    fit(BatchSizeCallback(Cabs(max_batch_size=64, cooldown=0), sinks=[reports.append]), epochs=3)
    assert any("not measured yet" not in report.reason for report in reports)


def test_what_cannot_work_is_refused_before_training():
    with pytest.raises(InputError, match="automatic_optimization=False"):
        fit(BatchSizeCallback(Fixed()), Module(manual=True), accumulate=1)
    with pytest.raises(InputError, match="GradientAccumulationScheduler"):
        fit(BatchSizeCallback(Fixed()), callbacks=[pl.callbacks.GradientAccumulationScheduler({0: 2})], accumulate=1)
    with pytest.raises(InputError, match="halve the batch size of the data loader and accumulate 2"):
        fit(BatchSizeCallback(NormTest()), accumulate=1)
    with pytest.raises(InputError, match=r"call trainer\.fit first"):
        BatchSizeCallback(Fixed()).batch_size  # noqa: B018


def test_a_loader_without_a_batch_size_needs_one():
    class Module2(Module):
        pass

    callback = BatchSizeCallback(Fixed())
    trainer = pl.Trainer(
        max_epochs=1, callbacks=[callback], logger=False, enable_checkpointing=False, accelerator="cpu"
    )
    with pytest.raises(InputError, match="give micro_batch_size"):
        trainer.fit(Module2(), [(torch.arange(4),)])


def test_an_exception_in_training_leaves_the_optimizer_as_it_was():
    class Fails(Module):
        def training_step(self, batch, batch_idx):
            if batch_idx == 9:
                raise KeyError("stop")
            return super().training_step(batch, batch_idx)

    module = Fails()
    callback = BatchSizeCallback(Schedule(schedule="0:32"), lr_rule="linear")
    with pytest.raises(KeyError):
        fit(callback, module)
    assert callback._accumulation.in_force._optimizer.param_groups[0]["lr"] == 0.05


class Half(Module):
    """Single precision, for autocast to half."""

    def __init__(self, **options):
        super().__init__(**options)
        self.net.float()

    def training_step(self, batch, batch_idx):
        (rows,) = batch
        self.rows.append(rows)
        return (self.net(INPUTS[rows].float()).float() - TARGETS[rows].float()).square().mean()


def half_precision(init_scale: float):
    scaler = torch.amp.GradScaler("cpu", init_scale=init_scale, growth_interval=10**6)
    return pl.plugins.MixedPrecision("16-mixed", "cpu", scaler=scaler)


def test_a_gradient_scaler_changes_nothing_of_what_is_measured():
    found = []
    for scale in (1.0, 256.0):
        reports: list[StepReport] = []
        callback = BatchSizeCallback(NoiseScale(cooldown=10_000), sinks=[reports.append])
        fit(callback, Half(lr=0.0), epochs=1, plugins=[half_precision(scale)], gradient_clip_val=1e-3)
        found.append([report.noise_scale.value for report in reports if report.noise_scale is not None])
    assert len(found[0]) > 5
    assert found[0] == pytest.approx(found[1], rel=0.02)  # half precision rounds otherwise at another scale


def test_steps_that_overflow_are_left_out_and_the_schedule_keeps_its_pace():
    reports: list[StepReport] = []
    callback = BatchSizeCallback(Schedule(schedule="0:16"), sinks=[reports.append])

    def cosine(optimizer):
        return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 60)

    module, trainer = fit(callback, Half(schedule=cosine), epochs=2, plugins=[half_precision(2.0**24)])
    left_out = len(module.steps) - len(reports)
    assert 0 < left_out < 20
    assert reports[-1].step == len(reports)
    assert reports[-1].num_examples == 2 * 196
    assert trainer.lr_scheduler_configs[0].scheduler.last_epoch == 2 * math.ceil(25 / 2)


def test_two_processes_with_ddp_decide_alike_and_make_the_gradient_of_the_whole_batch():
    told = run_two_processes("two_processes_lightning.py")
    assert told[0] == told[1]
    assert "largest batch 64" in told[0]


def test_it_works_with_pytorch_lightning_where_lightning_is_not_installed():
    pytest.importorskip("pytorch_lightning", reason="pytorch_lightning is not installed")
    code = """
import sys
sys.modules["lightning"] = None
import pytorch_lightning as pl, torch
from torch.utils.data import DataLoader, TensorDataset
import batchwright as bw
class Module(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Linear(3, 1)
    def training_step(self, batch, batch_idx):
        return self.net(batch[0]).square().mean()
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)
sizes = bw.integrations.BatchSizeCallback("schedule:0:8 16:24")
assert isinstance(sizes, pl.Callback)
quiet = dict(logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
trainer = pl.Trainer(max_epochs=1, accumulate_grad_batches=2, callbacks=[sizes], accelerator="cpu", **quiet)
trainer.fit(Module(), DataLoader(TensorDataset(torch.randn(64, 3)), batch_size=4))
assert sizes.last.step == trainer.global_step == 4, sizes.last
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
