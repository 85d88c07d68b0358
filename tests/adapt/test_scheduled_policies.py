"""The controllers that follow a clock: schedules, geometric growth, Seesaw and the restarted token budget."""

import math

import numpy as np
import pytest
import torch

from batchwright.adapt import Geometric, Measured, RestartedBudget, Schedule, Seesaw, check_optimizer, parse_policy
from batchwright.adapt.amounts import parse_count, parse_schedule
from batchwright.core.errors import InputError


def run(controller, clocks, batch_size=32, **fields):
    """Decisions at each count of examples, the batch size carried along."""
    state, decisions = controller.init(batch_size=batch_size), []
    for step, num_examples in enumerate(clocks):
        now = Measured(step=step, num_examples=num_examples, batch_size=batch_size, **fields)
        state, decision = controller.update(state, now)
        decisions.append(decision)
        batch_size = decision.batch_size
    return decisions


def test_counts_are_read_as_people_write_them():
    words = {
        "64": 64,
        "50k": 50_000,
        "1.5M": 1_500_000,
        "10.8B": 10_800_000_000,
        "2g": 2 * 10**9,
        "1e3": 1000,
        "1T": 10**12,
    }
    assert {word: parse_count("start", word) for word in words} == words


@pytest.mark.parametrize("word", ["", "k", "-5", "1.5", "ten", "1_000", "nan", "inf", "5kk"])
def test_what_is_no_count_is_refused_in_one_line(word):
    with pytest.raises(InputError, match="start must be a whole number") as found:
        parse_count("start", word)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "at least one start:batch_size"),
        ("64", "made of start:batch_size, got '64'"),
        ("0:", "made of start:batch_size"),
        ("0:64 50k", "got '50k'"),
        ("0:64 0:128", "increasing starts, got '0:128' after '0:64'"),
        ("50k:64 10k:128", "increasing starts"),
        ("0:0", "batch sizes of at least 1"),
        ("0:x", "schedule batch size must be a whole number"),
        ("a:8", "schedule start must be a whole number"),
    ],
)
def test_a_wrong_schedule_is_refused_in_one_line(text, message):
    with pytest.raises(InputError, match=message) as found:
        parse_schedule("schedule", text)
    assert "\n" not in str(found.value)


def test_a_schedule_is_in_force_from_its_starts_on():
    found = run(Schedule(schedule="0:64 50k:128 1M:256"), [0, 49_999, 50_000, 999_999, 10**6, 10**9])
    assert [decision.batch_size for decision in found] == [64, 64, 128, 128, 256, 256]
    assert [decision.changed for decision in found] == [True, False, True, False, True, False]


def test_a_schedule_has_its_own_clock():
    at = {"num_examples": 10**6, "batch_size": 8}
    steps = Schedule(schedule="10:64", unit="steps")
    assert not steps.update({}, Measured(step=9, **at))[1].changed
    assert steps.update({}, Measured(step=10, **at))[1].batch_size == 64
    tokens = Schedule(schedule="1k:64", unit="tokens")
    assert tokens.needs == {"num_tokens"}
    assert not tokens.update({}, Measured(step=9, num_tokens=999, **at))[1].changed
    assert tokens.update({}, Measured(step=9, num_tokens=1000, **at))[1].changed


def test_geometric_growth_multiplies_at_equal_intervals_up_to_its_bound():
    found = run(Geometric(every=1000, factor=2.0, max_batch_size=200), [0, 999, 1000, 2500, 3000, 10**12])
    assert [decision.batch_size for decision in found] == [32, 32, 64, 128, 200, 200]
    assert {decision.lr_factor for decision in found} == {None}
    assert {decision.lr_factor for decision in run(Geometric(every=10, keep_lr=True), [0, 50])} == {1.0}


def test_growth_that_starts_above_its_bound_is_refused():
    for controller in (Geometric(every=10, max_batch_size=16), Seesaw(end=10, max_batch_size=16)):
        with pytest.raises(InputError, match="at least the first batch size, got 16 and 32"):
            controller.init(batch_size=32)


def test_seesaw_turns_a_halved_lr_into_a_root_and_a_doubled_batch():
    found = run(Seesaw(decay="1k:0.5 2k:0.25"), [0, 999, 1000, 2000])
    assert [decision.batch_size for decision in found] == [32, 32, 64, 128]
    assert [decision.lr_factor for decision in found] == pytest.approx([1, 1, 0.5**0.5, 0.5])


@pytest.mark.parametrize("decay", ["cosine", "linear", "10k:0.3 40k:0.11 70k:0.02"])
@pytest.mark.parametrize("cut", [0.5, 0.8])
def test_seesaw_keeps_squared_lr_over_batch_size_of_the_decay_it_stands_for(decay, cut):
    controller = Seesaw(decay=decay, end=100_000 if "k" not in decay else None, cut=cut, max_batch_size=300)
    clocks = np.arange(0, 99_000, 777)
    sizes = []
    for now, decision in zip(clocks, run(controller, clocks.tolist()), strict=True):
        f = controller.decayed(int(now))
        assert decision.lr_factor**2 / decision.batch_size == pytest.approx(f**2 / 32)
        sizes.append(decision.batch_size)
    assert sizes == sorted(sizes)
    assert sizes[-1] == 300


def test_seesaw_cuts_a_cosine_where_torch_says_it_passes_the_cut():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 1000)
    controller = Seesaw(decay="cosine", end=1000, cut=0.5)
    for now in range(1000):
        curve = optimizer.param_groups[0]["lr"]
        assert curve <= controller.decayed(now) * (1 + 1e-6)
        assert controller.decayed(now) * 0.5 < curve * (1 + 1e-6)
        optimizer.step()
        scheduler.step()
    assert controller.decayed(1000) == 0.0


def test_seesaw_saves_the_steps_that_its_schedule_promises():
    controller, total = Seesaw(decay="cosine", end=10**6, cut=0.5, max_batch_size=10**6), 10**6
    state, size, used, steps = controller.init(batch_size=32), 32, 0, 0
    while used < total:
        used, steps = used + size, steps + 1
        state, decision = controller.update(state, Measured(step=steps, num_examples=used, batch_size=size))
        size = decision.batch_size
    # Steps are the integral of the cut cosine: from where the cosine passes 2^-k on, 2^-k of the steps.
    crossings = [math.acos(2 * 0.5**k - 1) / math.pi for k in range(40)] + [1.0]
    expected = sum(0.5**k * (crossings[k + 1] - crossings[k]) for k in range(40)) * total / 32
    assert steps == pytest.approx(expected, rel=0.01)
    assert steps < 0.75 * total / 32


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"decay": "cosine"}, "end must say where the cosine decay ends"),
        ({"decay": "cosine", "end": 5, "start": 5}, "end must be an integer of at least 6"),
        ({"decay": "10:2.0"}, "factors from 1 down"),
        ({"decay": "10:0.5 20:0.7"}, "factors from 1 down"),
        ({"decay": "10:0.5 10:0.4"}, "increasing starts"),
        ({"decay": "sine"}, "decay must be cosine, linear, or falls"),
        ({"decay": " "}, "decay must be cosine, linear, or falls"),
    ],
)
def test_a_wrong_decay_is_refused(options, message):
    with pytest.raises(InputError, match=message):
        Seesaw(**options)


def test_seesaw_and_the_restarted_budget_are_refused_where_they_do_not_hold():
    with pytest.raises(InputError, match=r"seesaw must go with an optimizer that normalises.*keep_lr=true"):
        check_optimizer(Seesaw(decay="1:0.5"), "sgd")
    with pytest.raises(InputError, match=r"restarted-budget must go with scion.*conditional gradient"):
        check_optimizer(RestartedBudget(budgets="1M 2M"), "adamw")
    check_optimizer(Seesaw(decay="1:0.5"), "adamw")
    check_optimizer(RestartedBudget(budgets="1M 2M"), "scion")


def restarted(controller, tokens, batch_size=256, sequence_length=1024):
    state, found = controller.init(batch_size=batch_size), []
    for step, used in enumerate(tokens):
        now = Measured(
            step=step, num_examples=0, batch_size=batch_size, num_tokens=used, sequence_length=sequence_length
        )
        state, decision = controller.update(state, now)
        batch_size, sequence_length = decision.batch_size, decision.sequence_length
        found.append((batch_size, sequence_length, decision.lr_factor))
    return found


def test_the_published_restart_takes_four_times_the_batch_and_half_the_step_size():
    found = restarted(
        RestartedBudget(budgets="1.3B 10.8B"), [10**6, 1_299_999_999, 1_300_000_000, 9 * 10**9, 12 * 10**9]
    )
    assert found[:2] == [(256, 1024, 1.0)] * 2
    assert found[2] == found[3] == found[4]
    batch_size, sequence_length, lr_factor = found[2]
    assert (batch_size, sequence_length) == (4 * 256, 1024)
    assert lr_factor == pytest.approx(4 * 1.3 / 10.8)  # 0.4815; the paper takes a half
    assert lr_factor == pytest.approx(0.5, rel=0.04)


def test_batch_and_sequence_may_grow_together():
    found = restarted(RestartedBudget(budgets="1.3B 10.8B", grow="batch-and-sequence"), [1, 1_300_000_000])
    assert found[1][:2] == (512, 2048)


def test_each_arrival_takes_the_values_of_the_new_total():
    controller = RestartedBudget(budgets="1M 8M 64M", rounding="multiple")
    found = restarted(controller, [1, 10**6, 8 * 10**6, 10**8])
    assert [size for size, _, _ in found] == [256, 1024, 4096, 4096]
    assert [factor for _, _, factor in found] == pytest.approx([1.0, 0.5, 0.25, 0.25])


@pytest.mark.parametrize("budgets", ["", "2M 1M", "0 1M", "1M 1M"])
def test_budgets_must_increase(budgets):
    with pytest.raises(InputError, match="budgets must be increasing totals"):
        RestartedBudget(budgets=budgets)


@pytest.mark.parametrize(
    ("text", "options", "expected"),
    [
        ("schedule:0:64 50k:128", ["unit=tokens"], Schedule(schedule="0:64 50k:128", unit="tokens")),
        ("geometric:20k", ["factor=1.5", "keep-lr=true"], Geometric(every=20_000, factor=1.5, keep_lr=True)),
        ("seesaw", ["decay=linear", "end=1M"], Seesaw(decay="linear", end=10**6)),
        ("restarted-budget:1.3B 10.8B", ["max_batch_size=none"], RestartedBudget(budgets="1.3B 10.8B")),
    ],
)
def test_a_policy_is_read_from_text(text, options, expected):
    assert parse_policy(text, options) == expected


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("magic", [], "--policy must be one of adascale, cabs"),
        ("schedule", [], "--policy schedule must be given schedule.*for instance"),
        ("fixed:8", [], "--policy fixed must stand without a value"),
        ("noise-scale", ["max_batch_size"], "--policy-option must be name=value"),
        ("noise-scale", ["speed=3"], "an option of --policy noise-scale must be one of cooldown, fraction"),
        ("noise-scale", ["cooldown=soon"], "cooldown must be a whole number"),
        ("noise-scale", ["fraction=half"], "fraction must be a number"),
        ("noise-scale", ["may_shrink=perhaps"], "may_shrink must be true or false"),
        ("noise-scale", ["options.theta=1"], "must go with a policy that wraps another"),
        ("stability-aware:norm-test", ["options.fraction=1"], "an option of --policy norm-test"),
        ("stability-aware:magic", [], "inner must be one of"),
    ],
)
def test_a_wrong_policy_is_refused_in_one_line(text, options, message):
    with pytest.raises(InputError, match=message) as found:
        parse_policy(text, options)
    assert "\n" not in str(found.value)
