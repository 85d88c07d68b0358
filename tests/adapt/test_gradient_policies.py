"""The controllers that read gradients, on Gaussian gradients whose answers are known in closed form."""

import math

import pytest
import torch

from batchwright.adapt import AdaScale, Cabs, DiveBatch, InnerProductTest, Measured, NormTest, SimiGrad, check_optimizer
from batchwright.adapt.adascale import gain
from batchwright.core.errors import InputError
from batchwright.measure import GradientStatistics, inner_product_test, norm_test, orthogonality_test

FREE = {"cooldown": 0, "hysteresis": 1.0, "max_change": None, "rounding": "exact", "max_batch_size": 10**7}


def gaussian(num_rows: int, mean: list[float], deviations: list[float], seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(num_rows, len(mean), generator=generator, dtype=torch.float64)
    return torch.tensor(mean, dtype=torch.float64) + noise * torch.tensor(deviations, dtype=torch.float64)


def measured_from(rows: torch.Tensor) -> Measured:
    """What a loop would report of a batch: unbiased trace and squared norm, and the variance of the inner products."""
    statistics = GradientStatistics.of(rows)
    return Measured(
        step=100,
        num_examples=100 * len(rows),
        batch_size=len(rows),
        trace=statistics.trace,
        grad_sq_norm=statistics.grad_sq_norm - statistics.trace / len(rows),
        inner_product_variance=float((rows @ rows.mean(dim=0)).var(correction=1)),
    )


def wish(controller, measured):
    return controller.wish(controller.first_memory(), measured)[1].value


def test_norm_test_asks_for_what_the_measured_test_asks_for():
    rows = gaussian(64, [1.0, 0.5, 0.0], [2.0, 1.0, 3.0])
    assert wish(NormTest(theta=0.4), measured_from(rows)) == pytest.approx(
        norm_test(GradientStatistics.of(rows), theta=0.4).batch_size
    )


@pytest.mark.parametrize("unbiased", [False, True])
@pytest.mark.parametrize("theta", [0.2, 0.5])
def test_norm_test_settles_at_its_closed_form(theta, unbiased):
    trace, sq_norm = 400.0, 2.0
    expected = trace / (theta**2 * sq_norm) * (1 if unbiased else 1 - theta**2)
    controller, size = NormTest(theta=theta, unbiased=unbiased, **FREE), 4
    state = controller.init(batch_size=size)
    for step in range(1, 200):
        now = Measured(step=step, num_examples=0, batch_size=size, trace=trace, grad_sq_norm=sq_norm)
        state, decision = controller.update(state, now)
        size = decision.batch_size
    assert size == pytest.approx(expected, abs=1)


def test_norm_test_on_gaussian_gradients_comes_near_the_closed_form():
    # ||G||^2 = 1 and trace = 14, so at theta 1/2 it asks for 4 * 14 / (1 + 14/B) at B = 20000.
    rows = gaussian(20000, [1.0, 0.0, 0.0], [1.0, 2.0, 3.0])
    found = wish(NormTest(theta=0.5), measured_from(rows))
    assert found == pytest.approx(56 / (1 + 14 / 20000), rel=0.05)


def test_norm_test_with_a_tolerance_of_one_is_content_with_any_batch():
    now = Measured(step=100, num_examples=0, batch_size=8, trace=1e6, grad_sq_norm=1e-3)
    assert not NormTest(theta=1.0).update({"last_change": 0}, now)[1].changed


def test_norm_test_goes_on_growing_where_no_gradient_is_left():
    now = Measured(step=100, num_examples=0, batch_size=8, trace=3.0, grad_sq_norm=-1.0)
    assert NormTest(unbiased=True).update({"last_change": 0}, now)[1].batch_size == 16


@pytest.mark.parametrize("nu", [5.84, 0.3, None])
def test_inner_product_test_asks_for_the_larger_of_the_two_measured_tests(nu):
    rows = gaussian(48, [1.0, 0.2, -0.3], [1.0, 2.0, 3.0], seed=2)
    statistics = GradientStatistics.of(rows)
    expected = inner_product_test(statistics, theta=0.5).batch_size
    if nu is not None:
        expected = max(expected, orthogonality_test(statistics, nu=nu).batch_size)
    assert wish(InnerProductTest(theta=0.5, nu=nu), measured_from(rows)) == pytest.approx(expected)


def test_inner_product_test_on_gaussian_gradients_sees_only_the_scatter_along_the_gradient():
    # Along G = (2, 0) the deviation is 3, so Var(<g_i, G>) = 36 and ||G||^4 = 16.
    rows = gaussian(40000, [2.0, 0.0], [3.0, 6.0])
    assert wish(InnerProductTest(theta=1.0, nu=None), measured_from(rows)) == pytest.approx(36 / 16, rel=0.05)


def test_cabs_is_lr_times_trace_over_loss():
    now = Measured(step=100, num_examples=0, batch_size=16, lr=0.1, loss=2.5, trace=1000.0)
    found = Cabs(lowest_loss=0.5, **FREE)
    state, decision = found.update(found.init(batch_size=16), now)
    assert decision.batch_size == 50
    assert decision.lr_factor == 1.0
    assert found.update(state, now)[1].batch_size == 50  # averages of equal values are that value


def test_cabs_averages_loss_and_trace_without_bias():
    controller = Cabs(averaging=0.5, **FREE)
    memory = controller.first_memory()
    for loss, trace in ((1.0, 10.0), (4.0, 40.0)):
        now = Measured(step=9, num_examples=0, batch_size=16, lr=1.0, loss=loss, trace=trace)
        memory, found = controller.wish(memory, now)
    # Weights 1/3 and 2/3: loss 3, trace 30.
    assert memory["loss"] / memory["weight"] == pytest.approx(3.0)
    assert found.value == pytest.approx(10.0)


def test_cabs_holds_still_where_the_loss_is_at_its_floor():
    now = Measured(step=100, num_examples=0, batch_size=16, lr=0.1, loss=0.2, trace=10.0)
    controller = Cabs(lowest_loss=0.2)
    assert not controller.update(controller.init(batch_size=16), now)[1].changed


@pytest.mark.parametrize("target", [1 / 3, 0.5, 0.8])
def test_simigrad_settles_where_the_cosine_is_the_target(target):
    noise_scale = 600.0
    controller, size = SimiGrad(target=target, num_steps=2, **FREE), 8
    state = controller.init(batch_size=size)
    for step in range(1, 60):
        cosine = 1 / (1 + noise_scale / (size / 2))
        now = Measured(step=step, num_examples=0, batch_size=size, cosine=cosine)
        state, decision = controller.update(state, now)
        size = decision.batch_size
    assert size == pytest.approx(2 * noise_scale / (1 / target - 1), rel=0.01)


def test_simigrad_relation_holds_for_gaussian_gradients():
    # Many dimensions, so that the cosine is near its expectation: ||G||^2 = 1, trace 250, halves of 32.
    generator = torch.Generator().manual_seed(0)
    mean = torch.zeros(5000, dtype=torch.float64)
    mean[0] = 1.0
    halves = [
        mean + torch.randn(5000, generator=generator, dtype=torch.float64) * (250 / 5000 / 32) ** 0.5 for _ in range(2)
    ]
    cosine = float(torch.nn.functional.cosine_similarity(*halves, dim=0))
    assert cosine == pytest.approx(1 / (1 + 250 / 32), abs=4 / 5000**0.5)


def test_simigrad_forgets_its_average_when_the_size_changes():
    controller = SimiGrad(num_steps=1, cooldown=0)
    now = Measured(step=1, num_examples=0, batch_size=8, cosine=-0.5)
    state, decision = controller.update(controller.init(batch_size=8), now)
    assert decision.batch_size == 16
    assert state == {"last_change": 1, **controller.first_memory()}


def test_dive_batch_takes_the_share_of_the_bound_once_an_epoch():
    controller = DiveBatch(delta=0.1, max_batch_size=2048)
    now = {"num_examples": 0, "batch_size": 32, "num_train": 50_000}
    state = controller.init(batch_size=32)
    state, decision = controller.update(state, Measured(step=1, diversity=0.02, **now))
    assert decision.batch_size == 100
    state, decision = controller.update(state, Measured(step=2, diversity=None, **now))
    assert not decision.changed
    assert controller.update(state, Measured(step=3, diversity=math.inf, **now))[1].batch_size == 2048


def test_adascale_gain_has_its_closed_form_and_limits():
    trace, sq_norm, base = 640.0, 2.0, 16
    for size in (16, 32, 256, 4096):
        scale = size / base
        expected = (trace / base + sq_norm) / (trace / base / scale + sq_norm)
        found = gain(trace, sq_norm, base_batch_size=base, batch_size=size)
        assert found == pytest.approx(expected)
        assert 1 <= found <= scale
    assert gain(1.0, 0.0, base_batch_size=8, batch_size=64) == 8.0
    assert gain(0.0, 1.0, base_batch_size=8, batch_size=64) == 1.0
    assert gain(0.0, -1.0, base_batch_size=8, batch_size=64) == 1.0


def test_adascale_gain_is_the_ratio_of_mean_squared_norms():
    # E||g_b0||^2 / E||g_B||^2 by simulation: the definition of the paper.
    rows = gaussian(2**17, [1.0, 1.0], [4.0, 6.0])
    small, large = (rows.view(-1, size, 2).mean(dim=1).square().sum(dim=1).mean() for size in (4, 32))
    assert gain(52.0, 2.0, base_batch_size=4, batch_size=32) == pytest.approx(float(small / large), rel=0.03)


def test_adascale_counts_the_steps_at_the_base_size_that_the_run_is_worth():
    controller = AdaScale(base_batch_size=8)
    state = controller.init(batch_size=64)
    for step in range(1, 11):
        now = Measured(step=step, num_examples=64 * step, batch_size=64, trace=100.0, grad_sq_norm=0.0)
        state, decision = controller.update(state, now)
        assert decision.lr_factor == pytest.approx(8.0)
        assert decision.batch_size == 64
    assert state["progress"] == pytest.approx(1 + 9 * 8)  # the first step was taken before anything was measured


@pytest.mark.parametrize(
    ("controller", "optimizer", "momentum", "reason"),
    [
        (AdaScale(), "adam", 0.9, "adascale must go with SGD, got adam.*normalised"),
        (AdaScale(), "adamw", 0.9, "square-root rule"),
        (Cabs(), "sgd", 0.9, "plain SGD, got sgd with momentum 0.9.*set momentum to 0"),
        (Cabs(), "adam", 0.0, "plain SGD, got adam"),
    ],
)
def test_a_wrong_pairing_is_refused_with_the_reason(controller, optimizer, momentum, reason):
    with pytest.raises(InputError, match=reason):
        check_optimizer(controller, optimizer, momentum=momentum)


def test_a_right_pairing_is_not_refused():
    check_optimizer(AdaScale(), "sgd", momentum=0.9)
    check_optimizer(Cabs(), "sgd", momentum=0.0)
    check_optimizer(NormTest(), "adamw")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NormTest(theta=0.0), "theta must be"),
        (lambda: InnerProductTest(nu=-1.0), "nu must be"),
        (lambda: Cabs(averaging=1.0), "averaging must be"),
        (lambda: SimiGrad(target=1.0), "target must be"),
        (lambda: DiveBatch(delta=0.0), "delta must be"),
        (lambda: AdaScale(base_batch_size=0), "base_batch_size must be"),
        (lambda: NormTest(rounding="up"), "rounding must be one of"),
        (lambda: NormTest(max_change=1.5), "max_change must be"),
    ],
)
def test_options_are_checked(make, message):
    with pytest.raises(InputError, match=message):
        make()
