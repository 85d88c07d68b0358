"""A user's own loop on the engine is the big batch's, whatever the batch is made of; and it says so when it is used otherwise."""

import random

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import batchwright as bw
from batchwright.adapt import Geometric, NoiseScale, Schedule, Seesaw, SimiGrad
from batchwright.core.batches import batch_length
from batchwright.core.errors import InputError, TaskError
from batchwright.planning.example_clock import ExampleClock
from batchwright.training.engine import BatchEngine

from .engine_helpers import (
    big_batch_gradient,
    gradient,
    loss,
    make_data,
    make_model,
    parameters,
    relative_error,
    run,
)


def make_engine(model: nn.Module | None = None, num_examples: int = 100, lr: float = 0.1, **options) -> BatchEngine:
    model = make_model() if model is None else model
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    return BatchEngine(model, optimizer, make_data(num_examples), **options)


@pytest.mark.parametrize("seed", range(40))
def test_the_gradient_is_that_of_the_big_batch(seed):
    rng = random.Random(seed)
    num_examples = rng.randint(20, 90)
    batch_size = rng.randint(2, num_examples)
    model = make_model(seed)
    engine = make_engine(
        model,
        num_examples,
        batch_size=batch_size,
        micro_batch_size=rng.randint(1, batch_size),
        seed=seed,
        policy=rng.choice([None, NoiseScale(cooldown=10**6)]),
        noise_every=1,
    )
    num_seen = 0
    for update in engine:  # the last update of the epoch is short unless the sizes divide
        batches = []
        for batch in update:
            batches.append(batch)
            update.backward(loss(model, batch))
            if len(batches) == 1:
                before = parameters(model).clone()  # the parameters move when the loop ends
        whole = tuple(torch.cat(tensors) for tensors in zip(*batches, strict=True))
        reference = make_model(seed)
        nn.utils.vector_to_parameters(before, reference.parameters())
        assert relative_error(gradient(model), big_batch_gradient(reference, whole)) < 1e-6
        assert update.loss == pytest.approx(float(loss(reference, whole).mean().detach()), rel=1e-5)
        assert update.batch_size == batch_length(whole)
        num_seen += update.batch_size
    assert num_seen == num_examples == engine.num_examples


@pytest.mark.parametrize("micro_batch_size", [None, 7, 64])
def test_fifty_updates_follow_a_hand_written_loop(micro_batch_size):
    data = make_data(300)
    model, reference = make_model(), make_model()
    engine = make_engine(model, 300, batch_size=40, micro_batch_size=micro_batch_size, shuffle=False)
    assert run(engine, 50)[:8] == [40] * 7 + [20]

    optimizer = torch.optim.SGD(reference.parameters(), lr=0.1, momentum=0.9)
    loader = torch.utils.data.DataLoader(data, batch_size=40)
    num_updates = 0
    while num_updates < 50:
        for batch in loader:
            optimizer.zero_grad()
            loss(reference, batch).mean().backward()
            optimizer.step()
            num_updates += 1
            if num_updates == 50:
                break
    assert relative_error(parameters(model), parameters(reference)) < 1e-5


def test_fifty_updates_do_not_depend_on_the_accumulation_while_the_batch_grows():
    found = []
    for micro_batch_size in (None, 16, 5):
        model = make_model()
        policy = Geometric(every=150)
        engine = make_engine(
            model, 300, lr=0.02, batch_size=16, micro_batch_size=micro_batch_size, policy=policy, last="wrap"
        )
        sizes = run(engine, 50)
        assert sizes[0] == 16
        assert max(sizes) > 64
        found.append(parameters(model))
    assert relative_error(found[1], found[0]) < 1e-5
    assert relative_error(found[2], found[0]) < 1e-5


def test_every_example_comes_exactly_once_an_epoch_while_the_batch_size_changes():
    model = nn.Linear(1, 1)
    data = TensorDataset(torch.arange(101.0)[:, None])
    policy = Schedule(schedule="0:3 40:16 150:7 230:50")
    engine = BatchEngine(
        model, torch.optim.SGD(model.parameters(), lr=0.0), data, policy=policy, batch_size=8, micro_batch_size=4
    )
    sizes = []
    for _ in range(4):
        seen = []
        for update in engine:
            for (x,) in update:
                seen += x[:, 0].tolist()
                update.backward(model(x).squeeze(1))
            sizes.append(update.batch_size)
        assert sorted(seen) == list(range(101))
    assert len(set(sizes)) >= 5
    assert engine.epoch == 4


@pytest.mark.parametrize(("last", "sizes"), [("short", [30, 30, 10]), ("wrap", [30, 30, 30]), ("drop", [30, 30])])
def test_the_last_batch_of_an_epoch(last, sizes):
    engine = make_engine(num_examples=70, batch_size=30, micro_batch_size=8, last=last)
    found = []
    for update in engine:
        for batch in update:
            update.backward(loss(engine.model, batch))
        found.append(update.batch_size)
    assert found == sizes
    assert engine.epoch == 1
    assert engine.num_examples == sum(sizes)
    next(iter(engine))
    assert engine.epoch == 1


def test_weights_make_the_mean_over_tokens_the_big_batch_mean():
    torch.manual_seed(0)
    length, vocabulary = 12, 5
    tokens = torch.randint(vocabulary, (64, length + 1))
    mask = (torch.arange(length) < torch.randint(0, length + 1, (64, 1))).float()  # some examples are padding alone
    model = nn.Sequential(nn.Embedding(vocabulary, 8), nn.Linear(8, vocabulary))

    def token_losses(model, tokens):
        logits = model(tokens[:, :-1])
        return nn.functional.cross_entropy(logits.transpose(1, 2), tokens[:, 1:], reduction="none")

    for batch_size, micro_batch_size in ((64, 5), (40, 40), (33, 32)):
        engine = BatchEngine(
            model,
            torch.optim.SGD(model.parameters(), lr=0.5),
            TensorDataset(tokens, mask),
            batch_size=batch_size,
            micro_batch_size=micro_batch_size,
        )
        for update in engine:
            batches = []
            before = [parameter.detach().clone() for parameter in model.parameters()]
            for batch in update:
                batches.append(batch)
                update.backward(token_losses(model, batch[0]), weights=batch[1])
            found = gradient(model)
            after = [parameter.detach().clone() for parameter in model.parameters()]
            with torch.no_grad():
                for parameter, value in zip(model.parameters(), before, strict=True):
                    parameter.copy_(value)
            x, w = (torch.cat(tensors) for tensors in zip(*batches, strict=True))
            mean = (token_losses(model, x) * w).sum() / w.sum()
            wanted = torch.cat([g.reshape(-1) for g in torch.autograd.grad(mean, list(model.parameters()))])
            assert relative_error(found, wanted) < 1e-6
            assert update.loss == pytest.approx(float(mean.detach()), rel=1e-5)
            with torch.no_grad():
                for parameter, value in zip(model.parameters(), after, strict=True):
                    parameter.copy_(value)


def test_weights_of_padding_alone_move_nothing():
    model = make_model()
    engine = make_engine(model, batch_size=20, micro_batch_size=10)
    before = parameters(model).clone()
    update = next(iter(engine))
    for batch in update:
        losses = loss(model, batch)
        update.backward(losses, weights=torch.zeros_like(losses))
    assert torch.equal(parameters(model), before)


def test_clipping_is_that_of_the_whole_gradient():
    model, reference = make_model(), make_model()
    engine = make_engine(model, batch_size=50, micro_batch_size=7, max_grad_norm=0.01, shuffle=False)
    update = next(iter(engine))
    for batch in update:
        update.backward(loss(model, batch))
    whole = tuple(tensor[:50] for tensor in make_data(100).tensors)
    wanted = big_batch_gradient(reference, whole)
    assert float(update.grad_norm) == pytest.approx(float(wanted.norm()), rel=1e-5)
    assert relative_error(gradient(model), wanted * (0.01 / wanted.norm())) < 1e-4


def test_before_step_sees_the_gradient_of_the_mean():
    model, seen = make_model(), []
    engine = make_engine(
        model, batch_size=50, micro_batch_size=7, shuffle=False, before_step=lambda update: seen.append(gradient(model))
    )
    wanted = big_batch_gradient(model, tuple(tensor[:50] for tensor in make_data(100).tensors))
    update = next(iter(engine))
    for batch in update:
        update.backward(loss(model, batch))
    assert len(seen) == 1
    assert relative_error(seen[0], wanted) < 1e-6


def test_a_policy_that_follows_the_noise_grows_the_batch_and_the_settings_follow():
    model = make_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.99), weight_decay=0.1)
    policy = NoiseScale(max_batch_size=64, cooldown=5)
    engine = bw.BatchEngine(model, optimizer, make_data(200), policy=policy, micro_batch_size=8, noise_every=1)
    run(engine, 120)
    assert engine.batch_size == 64  # labels are random, so the noise scale is without bound
    assert "asks for" in engine.decision.reason
    assert engine.noise_scale.low > 64
    group = optimizer.param_groups[0]
    assert group["betas"] == (0.9, pytest.approx(0.99**8))
    ratio = group["lr"] / 1e-3
    assert ratio == pytest.approx(8**0.5)
    assert group["weight_decay"] == pytest.approx(0.1 * 8 / ratio)


def test_a_size_met_again_has_its_settings_to_the_last_bit():
    policy = Schedule(schedule="0:8 100:24 200:8")
    engine = make_engine(batch_size=8, lr=0.1, policy=policy, last="wrap")
    lrs = {}
    for size in run(engine, 60):
        lrs.setdefault(size, set())
    lrs = {8: [], 24: []}
    engine = make_engine(batch_size=8, lr=0.1, policy=policy, last="wrap")
    for _ in range(60):
        update = engine.next_update()
        lrs[update.batch_size].append(engine.optimizer.param_groups[0]["lr"])
        for batch in update:
            update.backward(loss(engine.model, batch))
    assert set(lrs[8]) == {0.1}
    assert {lr == pytest.approx(0.3) for lr in lrs[24]} == {True}
    assert len(lrs[8]) > 20


def test_the_users_own_scheduler_and_the_batch_rule_go_together():
    engine = make_engine(batch_size=8, lr=0.1, policy=Schedule(schedule="0:8 80:32"), last="wrap")
    scheduler = torch.optim.lr_scheduler.ExponentialLR(engine.optimizer, 0.9)
    for _ in range(15):
        update = engine.next_update()
        for batch in update:
            update.backward(loss(engine.model, batch))
        scheduler.step()
    assert engine.optimizer.param_groups[0]["lr"] == pytest.approx(0.1 * 0.9**15 * 4)


def test_a_clock_is_advanced_by_the_examples_and_keeps_the_factor():
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    clock = ExampleClock(torch.optim.lr_scheduler.StepLR(optimizer, 10, 0.5), examples_per_step=8)
    policy = Schedule(schedule="0:8 40:16")
    engine = BatchEngine(model, optimizer, make_data(100), policy=policy, batch_size=8, clock=clock, last="wrap")
    run(engine, 5)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.2)
    run(engine, 3)
    assert clock.num_examples == 5 * 8 + 3 * 16
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.5 * 0.2)


def test_a_policy_that_names_the_lr_moves_nothing_else():
    model = make_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, betas=(0.9, 0.99))
    engine = BatchEngine(
        model, optimizer, make_data(400), policy=Seesaw(decay="160:0.25"), batch_size=16, micro_batch_size=16
    )
    sizes = run(engine, 12)
    assert sizes[-1] == 64
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.01 * 0.5)
    assert optimizer.param_groups[0]["betas"] == (0.9, 0.99)


def test_rules_may_be_named():
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    policy = Schedule(schedule="0:8 8:32")
    engine = BatchEngine(model, optimizer, make_data(100), policy=policy, batch_size=8, rules={"rule": "square-root"})
    run(engine, 2)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.2)
    with pytest.raises(InputError, match="rules must be named"):
        BatchEngine(model, optimizer, make_data(100), batch_size=8, rules={"lr": "linear"})
    adam = torch.optim.Adam(model.parameters())
    with pytest.raises(InputError, match="rule linear of lr must go with sgd"):
        BatchEngine(model, adam, make_data(100), batch_size=8, rules={"rule": "linear"})


def test_simigrad_gets_the_cosine_of_two_halves():
    model = make_model()
    engine = make_engine(
        model, 60, batch_size=60, micro_batch_size=30, noise_every=1, shuffle=False, policy=SimiGrad(cooldown=10**6)
    )
    data = make_data(60).tensors
    halves = [big_batch_gradient(model, tuple(tensor[part] for tensor in data)) for part in (slice(30), slice(30, 60))]
    wanted = float(torch.nn.functional.cosine_similarity(*halves, dim=0))
    seen = []
    end = engine.gatherer.end
    engine.gatherer.end = lambda **given: seen.append(end(**given)) or seen[-1]
    run(engine, 1)
    assert seen[0].cosine == pytest.approx(wanted, abs=1e-6)


def test_skip_leaves_an_update_out():
    model = make_model()
    engine = make_engine(model, 60, batch_size=20, micro_batch_size=5)
    before = parameters(model).clone()
    for update in engine:
        for number, batch in enumerate(update):
            update.backward(loss(model, batch))
            if number == 1:
                update.skip()
                if engine.num_updates == 1:
                    break
    assert torch.equal(parameters(model), before)
    assert (engine.num_steps, engine.num_updates, engine.num_examples, engine.epoch) == (0, 3, 60, 1)
    run(engine, 1)
    assert not torch.equal(parameters(model), before)


def test_the_inner_loop_must_be_gone_through():
    engine = make_engine(batch_size=20, micro_batch_size=5)
    for update in engine:
        for batch in update:
            update.backward(loss(engine.model, batch))
            break
        break
    with pytest.raises(InputError, match=r"must be gone through to its end before the next.*call its skip"):
        next(iter(engine))
    with pytest.raises(InputError, match=r"state_dict\(\) must be called between two updates"):
        engine.state_dict()
    update.skip()
    assert next(iter(engine)).batch_size == 20
    engine = make_engine(batch_size=20)
    updates = iter(engine)
    next(updates)
    with pytest.raises(InputError, match="left or never begun"):
        next(updates)


def test_an_iterable_is_left_out_and_dropped_like_any_other():
    loader = torch.utils.data.DataLoader(make_data(70), batch_size=9)
    for last, sizes in (("short", [30, 30, 10]), ("drop", [30, 30])):
        model = make_model()
        engine = BatchEngine(
            model, torch.optim.SGD(model.parameters(), lr=0.1), loader, batch_size=30, micro_batch_size=8, last=last
        )
        found = []
        for update in engine:
            for batch in update:
                update.backward(loss(model, batch))
            if update.stepped:
                found.append(update.batch_size)
        assert found == sizes
        assert (engine.epoch, engine.num_examples) == (1, 70)
    engine = BatchEngine(model, torch.optim.SGD(model.parameters(), lr=0.1), loader, batch_size=30, micro_batch_size=8)
    for update in engine:
        for batch in update:
            update.backward(loss(model, batch))
            update.skip()
    assert (engine.num_steps, engine.num_updates, engine.num_examples, engine.epoch) == (0, 3, 70, 1)


def test_the_gradient_of_a_short_last_batch_of_a_loader_is_that_of_what_it_holds():
    loader = torch.utils.data.DataLoader(make_data(35), batch_size=9)
    model, seen = make_model(), []
    engine = BatchEngine(
        model,
        torch.optim.SGD(model.parameters(), lr=0.1),
        loader,
        batch_size=30,
        micro_batch_size=8,
        max_grad_norm=1e6,
        before_step=lambda update: seen.append((gradient(model), parameters(model))),
    )
    for update in engine:
        for batch in update:
            update.backward(loss(model, batch))
    reference = make_model()
    nn.utils.vector_to_parameters(seen[1][1], reference.parameters())
    wanted = big_batch_gradient(reference, tuple(tensor[30:] for tensor in make_data(35).tensors))
    assert relative_error(seen[1][0], wanted) < 1e-6
    assert float(update.grad_norm) == pytest.approx(float(wanted.norm()), rel=1e-5)


def test_a_policy_may_count_weights_as_tokens():
    model = make_model()
    policy = Schedule(schedule="0:8 40:16", unit="tokens")
    engine = make_engine(model, batch_size=8, policy=policy)
    sizes = []
    for update in engine:
        for batch in update:
            losses = loss(model, batch)
            update.backward(losses, weights=torch.full_like(losses, 2.5))
        sizes.append(update.batch_size)
    assert sizes == [8, 8, 16, 16, 16, 16, 16, 4]
    engine = make_engine(model, batch_size=8, policy=policy)
    with pytest.raises(InputError, match="policy counts tokens, got none"):
        run(engine, 1)


def test_misuse_of_backward_is_named():
    engine = make_engine(batch_size=20, micro_batch_size=5)
    update = next(iter(engine))
    batches = iter(update)
    batch = next(batches)
    with pytest.raises(TaskError, match=r"shape \(5,\), got shape \(\).*reduction='none'"):
        update.backward(loss(engine.model, batch).mean())
    with pytest.raises(TaskError, match=r"weights must have the shape of the losses, got \(3,\) for \(5,\)"):
        update.backward(loss(engine.model, batch), weights=torch.ones(3))
    with pytest.raises(InputError, match="got none for number 1 of 4"):
        next(batches)
    engine = make_engine(batch_size=20, micro_batch_size=5)
    update = next(iter(engine))
    batches = iter(update)
    batch = next(batches)
    update.backward(loss(engine.model, batch))
    with pytest.raises(InputError, match="got a call without one that waits"):
        update.backward(loss(engine.model, batch))
    batch = next(batches)
    with pytest.raises(InputError, match="for all micro-batches of an update or for none"):
        update.backward(loss(engine.model, batch), weights=torch.ones(5))
    with pytest.raises(InputError, match="gone through once"):
        next(iter(update))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "batch_size must be given"),
        ({"batch_size": 0}, "batch_size must be an integer of at least 1"),
        ({"batch_size": 8, "micro_batch_size": 0}, "micro_batch_size must be an integer of at least 1"),
        ({"batch_size": 101}, "batch_size must be at most the number of training examples, got 101 for 100"),
        ({"batch_size": 8, "last": "other"}, "last must be one of drop, short, wrap"),
        ({"batch_size": 8, "max_grad_norm": 0.0}, "max_grad_norm must be"),
        ({"batch_size": 8, "policy": Seesaw(decay="1:0.5")}, "seesaw must go with an optimizer that normalises"),
        ({"batch_size": 8, "policy": bw.adapt.InnerProductTest()}, "which needs inner_product_variance too"),
    ],
)
def test_bad_arguments_raise(options, message):
    with pytest.raises(InputError, match=message):
        make_engine(**options)


def test_any_optimizer_does_where_the_batch_stays():
    model = make_model()
    optimizer = torch.optim.Adagrad(model.parameters(), lr=0.01)
    engine = BatchEngine(model, optimizer, make_data(40), batch_size=8)
    assert run(engine, 3) == [8, 8, 8]
    with pytest.raises(InputError, match="optimizer must be one of"):
        BatchEngine(model, optimizer, make_data(40), batch_size=8, policy=NoiseScale())
    BatchEngine(model, optimizer, make_data(40), batch_size=8, policy=NoiseScale(), optimizer_rules="adam")
