"""A plain loop's own step or zero_grad, left beside the engine's, is named; what a loop may do between updates is not."""

import copy
import gc

import pytest
import torch

import batchwright as bw
from batchwright.core.errors import InputError

from .engine_helpers import loss, make_data, make_model, parameters


def make_engine(**options) -> bw.BatchEngine:
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    return bw.BatchEngine(model, optimizer, make_data(100), batch_size=20, **options)


def ported(engine: bw.BatchEngine, *, clear: bool = False, step_in: bool = False, step_after: bool = False) -> None:
    """An epoch of a plain loop in which one of its old lines was left."""
    for update in engine:
        for batch in update:
            if clear:
                engine.optimizer.zero_grad()
            update.backward(loss(engine.model, batch))
            if step_in:
                engine.optimizer.step()
        if step_after:
            engine.optimizer.step()


def test_a_step_inside_the_loop_over_an_update_is_refused_before_it_moves_anything():
    engine = make_engine(micro_batch_size=5)
    before = parameters(engine.model).clone()
    with pytest.raises(InputError, match=r"optimizer\.step\(\) must be left to the engine, got a call inside the loop"):
        ported(engine, step_in=True)
    assert torch.equal(parameters(engine.model), before)


def test_a_second_step_on_the_gradient_of_an_update_is_refused():
    engine, whole = make_engine(micro_batch_size=5), make_engine(micro_batch_size=5)
    with pytest.raises(InputError, match="gradient of a step that was made already"):
        ported(engine, step_after=True)
    for batch in (update := next(iter(whole))):
        update.backward(loss(whole.model, batch))
    assert torch.equal(parameters(engine.model), parameters(whole.model))  # one step was made, and no second


def test_gradients_cleared_between_micro_batches_are_noticed():
    with pytest.raises(InputError, match=r"take optimizer\.zero_grad\(\) out of the loop"):
        ported(make_engine(micro_batch_size=5), clear=True)


def test_clearing_and_a_step_of_ones_own_between_updates_are_the_users():
    engine = make_engine(micro_batch_size=20)
    other = make_data(8, seed=1).tensors
    for update in engine:
        for batch in update:
            engine.optimizer.zero_grad()  # before the first micro-batch there is nothing to lose
            update.backward(loss(engine.model, batch))
        engine.optimizer.zero_grad()
        engine.optimizer.step()  # no gradient: nothing is moved
        loss(engine.model, other).mean().backward()
        engine.optimizer.step()  # a gradient of the user's own
    assert engine.num_steps == 5


def test_skipped_updates_measured_steps_and_a_later_engine_stay_usable():
    engine = make_engine(micro_batch_size=5, policy=bw.adapt.NoiseScale(max_batch_size=64), noise_every=1)
    for number, update in enumerate(engine):
        for batch in update:
            if number == 1:
                update.skip()
                break
            update.backward(loss(engine.model, batch))
    optimizer, model = engine.optimizer, engine.model
    assert copy.deepcopy(optimizer).state_dict().keys() == optimizer.state_dict().keys()
    hooks = len(optimizer._optimizer_step_pre_hooks)
    del engine, update
    gc.collect()
    assert len(optimizer._optimizer_step_pre_hooks) == hooks - 1
    optimizer.step()  # nobody watches any more
    later = bw.BatchEngine(model, optimizer, make_data(100), batch_size=50)
    for update in later:
        for batch in update:
            update.backward(loss(model, batch))
    assert later.num_steps == 2


def test_an_engine_that_was_given_up_in_an_update_stops_nobody():
    given_up = make_engine(micro_batch_size=5)
    model, optimizer = given_up.model, given_up.optimizer
    open_loop = iter(next(iter(given_up)))  # as the traceback of an error in the loop would hold it
    next(open_loop)
    after = bw.BatchEngine(model, optimizer, make_data(100), batch_size=50, micro_batch_size=10)
    for update in after:
        for batch in update:
            update.backward(loss(model, batch))
    assert after.num_steps == 2
    with pytest.raises(InputError, match=r"an update that is given up ends with its skip\(\)"):
        optimizer.step()
    assert given_up.update is not None
    given_up.update.skip()
    optimizer.zero_grad()
    optimizer.step()
    open_loop.close()


def test_a_loop_that_was_left_leaves_the_optimizer_to_its_user():
    engine = make_engine(micro_batch_size=5)
    update = next(iter(engine))
    for batch in update:
        update.backward(loss(engine.model, batch))
        break
    engine.optimizer.zero_grad()
    engine.optimizer.step()  # none of the engine's business, which names the update that was left when it goes on
    with pytest.raises(InputError, match="an update must be gone through to its end"):
        engine.next_update()
