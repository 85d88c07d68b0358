"""bf16 and fp16 with a scaler, overflow included, and compiled models."""

import pytest
import torch

from batchwright.adapt import NoiseScale
from batchwright.training.engine import BatchEngine

from .engine_helpers import gradient, loss, make_data, make_model, parameters, relative_error, run


def half_loss(dtype):
    def autocast_loss(model, batch):
        with torch.autocast("cpu", dtype=dtype):
            return loss(model, batch)

    return autocast_loss


def make_engine(model, **options) -> BatchEngine:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    return BatchEngine(model, optimizer, make_data(100), **{"batch_size": 40, "micro_batch_size": 9, **options})


def go(engine, loss, num_updates):
    updates = []
    while len(updates) < num_updates:
        update = engine.next_update()
        for batch in update:
            update.backward(loss(engine.model, batch))
        updates.append(update)
    return updates


def test_bf16_autocast_is_near_full_precision():
    half, full = make_model(), make_model()
    go(make_engine(half), half_loss(torch.bfloat16), 20)
    go(make_engine(full), loss, 20)
    assert relative_error(parameters(half), parameters(full)) < 0.02
    assert not torch.equal(parameters(half), parameters(full))


def test_half_precision_losses_are_summed_in_full_precision():
    model = make_model()
    engine = make_engine(model, batch_size=100, micro_batch_size=100)
    update = engine.next_update()
    for batch in update:
        losses = loss(model, batch).to(torch.float16) * 1000
        assert float(losses.detach().float().sum()) > 65504  # the largest number of fp16
        update.backward(losses)
    assert torch.isfinite(parameters(model)).all()
    assert update.loss == pytest.approx(float(losses.detach().double().mean()), rel=1e-3)


@pytest.mark.parametrize("max_grad_norm", [None, 0.05])
def test_a_scaler_changes_nothing_but_rounding(max_grad_norm):
    scaled, plain = make_model(), make_model()
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=7)
    engine = make_engine(scaled, scaler=scaler, max_grad_norm=max_grad_norm)
    updates = go(engine, loss, 20)
    go(make_engine(plain, max_grad_norm=max_grad_norm), loss, 20)
    assert scaler.get_scale() == 4096.0
    assert all(update.stepped for update in updates)
    assert relative_error(parameters(scaled), parameters(plain)) < 1e-5


def test_the_noise_statistics_do_not_depend_on_the_scale():
    traces = []
    for scale in (None, 2.0**10):
        scaler = None if scale is None else torch.amp.GradScaler("cpu", init_scale=scale)
        engine = make_engine(make_model(), scaler=scaler, policy=NoiseScale(cooldown=10**9), noise_every=1)
        go(engine, loss, 6)
        traces.append(engine.noise_scale.value)
    assert traces[0] == pytest.approx(traces[1], rel=1e-4)


def test_a_step_that_overflows_is_not_made_and_not_measured():
    model = make_model()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127, backoff_factor=2.0**-110)
    engine = make_engine(model, scaler=scaler, policy=NoiseScale(cooldown=10**9), noise_every=1)
    before = parameters(model).clone()
    update = go(engine, lambda model, batch: 1e4 * loss(model, batch), 1)[0]
    assert not torch.isfinite(gradient(model)).all()
    assert not update.stepped
    assert torch.equal(parameters(model), before)
    assert (engine.num_steps, engine.num_updates, engine.num_examples) == (0, 1, 40)
    assert engine.noise_scale is None
    update = go(engine, loss, 1)[0]
    assert update.stepped
    assert (engine.num_steps, engine.num_updates, engine.num_examples) == (1, 2, 80)
    assert not torch.equal(parameters(model), before)


def test_a_compiled_model_is_trained_as_the_plain_one():
    plain, model = make_model(), make_model()
    run(make_engine(plain, policy=NoiseScale(max_batch_size=64, cooldown=4), noise_every=1), 12)
    compiled = torch.compile(model, backend="aot_eager", dynamic=True)
    engine = make_engine(compiled, policy=NoiseScale(max_batch_size=64, cooldown=4), noise_every=1)
    run(engine, 12)
    assert relative_error(parameters(model), parameters(plain)) < 1e-5
