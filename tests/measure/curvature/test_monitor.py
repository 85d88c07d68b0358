"""The monitor changes nothing, keeps its budget, resumes exactly, agrees with what it is made of, and warns before a spike."""

import json
import math
import warnings
from dataclasses import replace

import pytest
import torch
from torch import nn

from batchwright.core.errors import InputError, StabilityWarning
from batchwright.core.records import RecordWriter, read_records
from batchwright.core.serialization import to_plain
from batchwright.measure.curvature.account import MeasuringAccount
from batchwright.measure.curvature.batch_sharpness import batch_sharpness
from batchwright.measure.curvature.monitor import StabilityMonitor
from batchwright.measure.curvature.sinks import RecordSink, TensorBoardSink
from batchwright.tasks.noisy_quadratic import noisy_quadratic

BATCH = 8
GENERATOR = torch.Generator().manual_seed(0)
INPUTS = torch.randn(256, 6, generator=GENERATOR)
LABELS = (INPUTS[:, 0] * INPUTS[:, 1] > 0).long()


class Clock:
    """Seconds that only what calls it can add."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def loss(model: nn.Module, batch: tuple) -> torch.Tensor:
    return nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="none")


def draw(generator: torch.Generator, batch_size: int) -> tuple:
    indices = torch.randperm(len(INPUTS), generator=generator)[:batch_size]
    torch.rand(3)  # a careless loader draws from the global generator too
    return INPUTS[indices], LABELS[indices]


def make_model() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Dropout(0.2), nn.Linear(16, 2))


OPTIMIZERS = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.05, momentum=0.9),
    "nesterov": lambda parameters: torch.optim.SGD(parameters, lr=0.05, momentum=0.9, nesterov=True),
    "adam": lambda parameters: torch.optim.Adam(parameters, lr=0.003),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=0.003),
}


class Loop:
    """A plain training loop; ``options`` make a monitor, None none."""

    def __init__(self, optimizer: str = "sgd", options: dict | None = None, clock: Clock | None = None) -> None:
        self.model = make_model()
        self.optimizer = OPTIMIZERS[optimizer](self.model.parameters())
        self.clock = clock
        self.monitor = None
        if options is not None:
            self.monitor = StabilityMonitor(self.model, loss, self.optimizer, **options)

    def run(self, first: int, last: int, *, reseed: bool = False) -> "Loop":
        for step in range(first, last):
            if reseed:
                torch.manual_seed(step)
            indices = torch.randperm(len(INPUTS), generator=torch.Generator().manual_seed(step))[:BATCH]
            batch = INPUTS[indices], LABELS[indices]
            self.optimizer.zero_grad()
            loss(self.model, batch).mean().backward()
            self.optimizer.step()
            if self.clock is not None:
                self.clock.now += 1.0
            if self.monitor is not None:
                self.monitor.after_step(batch, training_s=None if self.clock is None else 1.0)
        return self


def everything(loop: Loop) -> list[torch.Tensor]:
    grads = [parameter.grad for parameter in loop.model.parameters()]
    moments = [value for state in loop.optimizer.state.values() for value in state.values() if value is not None]
    return [*loop.model.state_dict().values(), *grads, *moments, torch.get_rng_state()]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("draw_batch", [draw, None])
def test_a_run_with_the_monitor_is_bit_by_bit_the_run_without(optimizer, draw_batch):
    torch.manual_seed(5)
    plain = everything(Loop(optimizer).run(0, 40))
    torch.manual_seed(5)
    watched = Loop(optimizer, {"draw_batch": draw_batch, "every": 7, "budget": None, "slow_every": 2}).run(0, 40)
    assert len(watched.monitor.history) == 5
    assert watched.model.training
    assert all(torch.equal(a, b) for a, b in zip(plain, everything(watched), strict=True))


def test_a_reading_is_what_its_parts_say():
    options = {"draw_batch": draw, "every": 10, "budget": None, "slow_every": 1, "max_batches": 12}
    found = []
    loop = Loop("sgd", {**options, "sinks": [found.append]}).run(0, 10)
    reading = loop.monitor.last
    assert found == [reading]
    assert (reading.step, reading.num_examples, reading.batch_size, reading.form) == (10, 80, BATCH, "gradient")
    assert (reading.low, reading.high) == pytest.approx((2 * 0.1 / 0.05, 2 * 1.9 / 0.05))
    # Measured again on twelve times as many batches, it agrees within the errors of both.
    generator = torch.Generator().manual_seed(99)
    again = batch_sharpness(
        loop.model, loss, (draw(generator, BATCH) for _ in range(150)), relative_error=1e-9, max_batches=150
    )
    error = math.hypot(reading.standard_error, again.standard_error)
    assert abs(reading.batch_sharpness - again.value) < 4 * error
    assert reading.headroom <= 1 - reading.batch_sharpness / reading.threshold + 1e-12


def test_the_quadratic_s_hessian_and_levels_are_exact():
    task = noisy_quadratic()
    model = task.make_model(0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.25)
    noise = task.train.tensors[0]

    def fresh(generator: torch.Generator, batch_size: int) -> tuple:
        return (noise[torch.randint(len(noise), (batch_size,), generator=generator)],)

    monitor = StabilityMonitor(model, task.loss, optimizer, draw_batch=fresh, every=1, budget=None, slow_every=1)
    for _ in range(6):
        monitor.after_step(batch_size=16)
    last = monitor.last
    # Searches of eight products go on from one another, to the tolerance of two hundredths; from below.
    assert 0.98 * task.facts["sharpness"] <= last.sharpness <= (1 + 1e-5) * task.facts["sharpness"]
    assert last.sharpness_converged
    assert (last.low, last.high) == (8.0, 8.0)
    # Every batch has the same Hessian, with eigenvalues from 0.01 to 1, so all sharpnesses lie between.
    assert 0.01 < last.batch_sharpness < 1.0
    assert last.regime == "stable"


def test_readings_do_not_depend_on_the_readings_before_them():
    often = Loop("sgd", {"draw_batch": draw, "every": 5, "budget": None, "slow_every": 99}).run(0, 30)
    seldom = Loop("sgd", {"draw_batch": draw, "every": 30, "budget": None, "slow_every": 99}).run(0, 30)
    a, b = often.monitor.last, seldom.monitor.last
    assert (a.step, a.batch_sharpness, a.standard_error) == (b.step, b.batch_sharpness, b.standard_error)


def timed_options(clock: Clock, cost_of_a_batch: float, **options) -> dict:
    """Each measured batch takes ``cost_of_a_batch`` steps."""

    def slow_draw(generator: torch.Generator, batch_size: int) -> tuple:
        clock.now += cost_of_a_batch
        return draw(generator, batch_size)

    return {"draw_batch": slow_draw, "timer": clock, "every": 10, "max_batches": 8, **options}


@pytest.mark.parametrize("unit", [0.001, 1.0, 50.0])
def test_the_first_reading_waits_until_its_expected_cost_fits_whatever_a_step_takes(unit):
    clock = Clock()
    options = timed_options(clock, 5.2 * unit, budget=0.1)
    loop = Loop("sgd", options)
    loop.clock = None
    for step in range(500):
        loop.run(step, step + 1)
        clock.now += unit
    history = loop.monitor.history
    # Four batches at the five steps that each is expected to take are a tenth of two hundred steps.
    assert 200 <= history[0].step <= 202
    assert history[0].num_batches == 4
    assert history[0].share == pytest.approx(4 * 5.2 / history[0].step, rel=0.01)
    # The slow one that comes next does not fit yet.
    assert all(reading.sharpness is None for reading in history)


def test_quick_readings_go_on_while_a_slow_one_is_saved_for():
    clock = Clock()
    history = Loop("sgd", timed_options(clock, 1.0, budget=0.05), clock).run(0, 3000).monitor.history
    slow = [index for index, reading in enumerate(history) if reading.sharpness is not None]
    assert slow
    assert slow[0] > 1
    # Without the readings in between, the first slow one would be the second of all.
    assert history[slow[0] - 1].step > history[0].step
    assert all(reading.share <= 0.0501 for reading in history[1:])


def test_calls_that_measure_nothing_are_on_the_account():
    clock = Clock()

    def ticking() -> float:
        clock.now += 0.01
        return clock.now

    loop = Loop("sgd", {"draw_batch": draw, "every": 10**6, "timer": ticking})
    for step in range(100):
        loop.run(step, step + 1)
        clock.now += 1.0
    # Each call looks at the clock twice; a hundredth passes in it and one second and a hundredth between two.
    assert loop.monitor.share == pytest.approx(100 * 0.01 / (99 * 1.01))


@pytest.mark.parametrize("cost", [0.5, 2.7, 12.0])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_the_share_stays_within_the_budget(cost, optimizer):
    clock = Clock()
    loop = Loop(optimizer, timed_options(clock, cost, budget=0.1), clock)
    shares = []
    for step in range(800):
        loop.run(step, step + 1)
        shares.append(loop.monitor.share)
        last = loop.monitor.last
        # Used to the last bit, so up to rounding.
        assert last is None or last.share <= 0.1 * (1 + 1e-12) or len(loop.monitor.history) <= 2
    history = loop.monitor.history
    assert history
    # A first measurement whose cost could not be known may pass its budget by one batch beyond the fewest.
    assert max(shares) <= 0.1 + 5 * cost / history[0].step
    assert shares[-1] <= 0.1 * (1 + 1e-12)
    measured = clock.now - 800
    assert loop.monitor.share == pytest.approx(measured / 800)


def test_without_a_budget_readings_come_every_so_many_steps():
    clock = Clock()
    loop = Loop("sgd", timed_options(clock, 50.0, budget=None), clock).run(0, 45)
    assert [reading.step for reading in loop.monitor.history] == [10, 20, 30, 40]
    assert loop.monitor.share > 1


def test_a_slower_machine_lengthens_the_cadence():
    fast, slow = Clock(), Clock()
    a = Loop("sgd", timed_options(fast, 0.2, budget=0.2), fast).run(0, 350).monitor.history
    b = Loop("sgd", timed_options(slow, 3.0, budget=0.2), slow).run(0, 350).monitor.history
    assert len(a) > 2 * len(b) > 0


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_resumed_monitor_goes_on_exactly(optimizer):
    clock = Clock()
    whole = Loop(optimizer, timed_options(clock, 0.3, budget=0.2), clock).run(0, 400, reseed=True).monitor.history
    clock = Clock()
    loop = Loop(optimizer, timed_options(clock, 0.3, budget=0.2), clock).run(0, 230, reseed=True)
    state = loop.monitor.state_dict()
    vector = state["probe"].pop("vector")
    state = json.loads(json.dumps(to_plain(state), allow_nan=False))
    state["probe"]["vector"] = vector
    loop.monitor = StabilityMonitor(loop.model, loss, loop.optimizer, **timed_options(clock, 0.3, budget=0.2))
    loop.monitor.load_state_dict(state)
    resumed = loop.run(230, 400, reseed=True).monitor.history
    assert len(whole) > 3
    assert whole[-1].step > 230
    # Equal to the last bit but for the share: its seconds are sums of differences of the clock.
    assert [to_plain(replace(each, share=0.0)) for each in resumed] == [
        to_plain(replace(each, share=0.0)) for each in whole
    ]


def test_time_between_steps_is_training_where_nobody_says_otherwise():
    clock = Clock()
    loop = Loop("sgd", timed_options(clock, 0.5, budget=0.1))
    for step in range(300):
        loop.run(step, step + 1)
        clock.now += 1.0
    measured = clock.now - 300
    assert measured > 0
    assert loop.monitor.share == pytest.approx(measured / 299)


def test_check_warns_before_a_spike_and_not_before_relief():
    options = {"draw_batch": draw, "every": 5, "budget": None, "slow_every": 1, "num_train": len(INPUTS)}
    loop = Loop("sgd", options).run(0, 4)
    assert loop.monitor.check(lr=100.0) is None
    loop.run(4, 10)
    with pytest.warns(
        StabilityWarning, match=r"lr 50 is likely to make the loss spike: batch sharpness would be about"
    ):
        found = loop.monitor.check(lr=50.0)
    assert found.spike
    assert found.outcome == "catapult"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert loop.monitor.check(lr=0.02, batch_size=16).outcome == "safe"
    with pytest.raises(InputError, match="must be given lr, momentum or batch_size, got none"):
        loop.monitor.check()
    adam = Loop("adam", options).run(0, 10).monitor
    assert adam.last.form == "step"
    assert (adam.last.low, adam.last.high) == (2.0, 2.0)
    assert adam.check(lr=100.0) is None


def test_sinks_write_records_and_curves(tmp_path):
    class Writer:
        def __init__(self) -> None:
            self.points = []

        def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None:
            self.points.append((tag, scalar_value, global_step))

    writer = Writer()
    with RecordWriter(tmp_path) as records:
        sinks = [RecordSink(records), TensorBoardSink(writer)]
        options = {"draw_batch": draw, "every": 10, "budget": None, "slow_every": 2}
        history = Loop("sgd", {**options, "sinks": sinks}).run(0, 20).monitor.history
    lines = read_records(tmp_path).of_kind("stability")
    assert [line["batch_sharpness"] for line in lines] == [reading.batch_sharpness for reading in history]
    assert lines[0]["sharpness"] is None
    assert isinstance(lines[1]["sharpness_converged"], bool)
    assert ("stability/batch_sharpness", history[1].batch_sharpness, 20) in writer.points
    assert {tag for tag, _, step in writer.points if step == 10} == {
        f"stability/{name}" for name in ("batch_sharpness", "low", "high", "threshold", "headroom", "share")
    }


def test_a_loss_that_is_not_a_number_gives_a_reading_that_says_so():
    loop = Loop("sgd", {"draw_batch": draw, "every": 5, "budget": None, "slow_every": 1})
    loop.run(0, 4)
    with torch.no_grad():
        next(loop.model.parameters()).fill_(math.nan)
    reading = loop.run(4, 5).monitor.last
    assert reading.regime == "not a number"
    assert math.isnan(reading.headroom)
    assert reading.high == pytest.approx(76.0)
    assert loop.monitor.check(lr=1.0) is None


def test_settings_that_are_not_one_sgd_are_measured_along_the_step():
    model = make_model()
    groups = [{"params": list(model[0].parameters()), "lr": 0.1}, {"params": list(model[4].parameters()), "lr": 0.2}]
    loop = Loop("sgd", {"draw_batch": draw, "every": 1, "budget": None})
    loop.optimizer.param_groups[0]["dampening"] = 0.5
    assert loop.run(0, 1).monitor.last.lr == pytest.approx(0.025)
    groups[0]["params"] += list(model[1].parameters())
    monitor = StabilityMonitor(model, loss, torch.optim.SGD(groups), draw_batch=draw, every=1, budget=None)
    assert monitor.after_step(batch_size=BATCH).form == "step"


def test_bad_calls_are_named():
    loop = Loop("sgd", {"every": 5})
    with pytest.raises(InputError, match="must be given the batch or its batch_size"):
        loop.monitor.after_step()
    with pytest.raises(InputError, match="must be given the batch where there is no draw_batch"):
        loop.monitor.after_step(batch_size=8)
    with pytest.raises(InputError, match="every must be"):
        Loop("sgd", {"every": 0})
    with pytest.raises(InputError, match="budget must be a finite number and above 0"):
        Loop("sgd", {"budget": 0.0})
    with pytest.raises(InputError, match="max_batches must be"):
        Loop("sgd", {"max_batches": 2})


def test_account_adds_up():
    account = MeasuringAccount(budget=0.1).trained(8.0, 4).measured("a", 0.5, 10)
    assert (account.share, account.step_s) == (0.0625, 2.0)
    assert account.left_s == pytest.approx(0.3)
    assert account.allows(0.29)
    assert not account.allows(0.31)
    # The dearer of the last two, an example, times the examples.
    account = account.measured("a", 0.2, 10)
    assert account.expected_s("a", 20, 99.0) == pytest.approx(1.0)
    assert account.measured("a", 0.1, 10).expected_s("a", 20, 99.0) == pytest.approx(0.4)
    assert account.expected_s("b", 20, 3.0) == 3.0
    assert account.totals == {"a": 0.7}
    spent = account.spent(0.4)
    assert (spent.measuring_s, spent.totals) == (pytest.approx(1.1), {"a": 0.7})


def test_the_real_tensorboard_reads_back_what_the_sink_wrote(tmp_path):
    pytest.importorskip("tensorboard", reason="pip install tensorboard, an extra of its own, to read its event files")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its imports' own
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
        from torch.utils.tensorboard import SummaryWriter

        with SummaryWriter(str(tmp_path)) as writer:
            options = {"draw_batch": draw, "every": 10, "budget": None, "slow_every": 2}
            sinks = [TensorBoardSink(writer, prefix="gauge/")]
            history = Loop("sgd", {**options, "sinks": sinks}).run(0, 40).monitor.history
        events = EventAccumulator(str(tmp_path))
        events.Reload()
    points = events.Scalars("gauge/batch_sharpness")
    assert [point.step for point in points] == [10, 20, 30, 40]
    assert [point.value for point in points] == pytest.approx([reading.batch_sharpness for reading in history])
    assert [point.step for point in events.Scalars("gauge/sharpness")] == [20, 40]
