"""The prior of kappa: predictive, joins branches with sweeps as far as these agree, and moves by a plan's own sharp branches."""

import math
from collections.abc import Sequence

import numpy as np
import pytest

from batchwright.core.errors import InputError
from batchwright.core.statistics import Interval
from batchwright.planning.kappa import (
    KappaMeasurement,
    KappaTable,
    agreement_of_methods,
    combine,
    family_difference,
    kappa_prior,
    kappa_table,
    sweep_kappa,
)

FACTOR = math.exp(1.959964)


def row(
    task: str, log_kappa: float, error: float = 0.1, method: str = "sweep", optimizer: str = "sgd"
) -> KappaMeasurement:
    value = math.exp(log_kappa)
    return KappaMeasurement(
        task=task,
        optimizer=optimizer,
        kappa=Interval(value=value, low=value / FACTOR**error, high=value * FACTOR**error),
        critical_batch_size=value,
        noise_scale=1.0,
        method=method,
    )


def table(rows: Sequence[KappaMeasurement]) -> KappaTable:
    return KappaTable(command="", date="", measurements=tuple(rows))


def width(interval: Interval) -> float:
    return math.log(interval.high / interval.low)


def test_a_sweep_with_a_huge_error_does_not_widen_the_prior():
    rows = [row(f"task-{number}", value) for number, value in enumerate((0.0, 0.4, -0.3, 0.2))]
    far = row("unsure", 6.0, error=50.0)
    assert kappa_prior(table([*rows, far])).value == pytest.approx(kappa_prior(table(rows)).value, rel=0.02)
    assert width(kappa_prior(table([*rows, far]))) < 1.05 * width(kappa_prior(table(rows)))
    unresolved = KappaMeasurement(
        task="open",
        optimizer="sgd",
        kappa=Interval(value=9.0, low=3.0, high=math.inf),
        critical_batch_size=9.0,
        noise_scale=1.0,
    )
    assert kappa_prior(table([*rows, unresolved])) == kappa_prior(table(rows))


def test_branches_that_agree_up_to_a_factor_are_shifted_and_narrow_the_prior():
    truths = [0.0, 0.5, -0.4, 0.3, 0.8, -0.6, 0.1, 0.4]
    sweeps = [row(f"task-{number}", value) for number, value in enumerate(truths[:4])]
    branches = [row(f"task-{number}", value + 1.0, method="branch") for number, value in enumerate(truths)]
    agreement = agreement_of_methods([*sweeps, *branches])
    assert agreement.mean == pytest.approx(1.0)
    assert agreement.scatter < 0.15
    alone, joined = kappa_prior(table(sweeps)), kappa_prior(table([*sweeps, *branches]))
    assert math.log(joined.value) == pytest.approx(np.mean(truths), abs=0.1)
    assert width(joined) < width(alone)


def test_branches_that_say_nothing_about_sweeps_leave_the_prior_nearly_as_it_is():
    sweeps = [row(f"task-{number}", value) for number, value in enumerate((0.0, 0.5, -0.4, 0.3))]
    wild = [
        row(f"task-{number}", value, method="branch") for number, value in enumerate((8.0, -9.0, 7.0, -6.0, 9.0, 8.0))
    ]
    alone, joined = kappa_prior(table(sweeps)), kappa_prior(table([*sweeps, *wild]))
    assert math.log(joined.value) == pytest.approx(math.log(alone.value), abs=0.1)
    assert width(joined) > 0.9 * width(alone)


def test_branches_do_not_count_where_fewer_than_three_tasks_have_both():
    sweeps = [row("a", 0.0), row("b", 0.5)]
    branches = [row(task, 3.0, method="branch") for task in "abcd"]
    assert agreement_of_methods([*sweeps, *branches]) is None
    assert kappa_prior(table([*sweeps, *branches])) == kappa_prior(table(sweeps))
    assert math.isinf(sweep_kappa(Interval(value=2.0, low=1.0, high=4.0), table([*sweeps, *branches])).high)


def test_an_optimizer_family_has_its_own_prior_only_where_it_is_resolved():
    def rows(shifts: tuple[float, ...]) -> list[KappaMeasurement]:
        sgd = [row(f"task-{number}", value) for number, value in enumerate((0.0, 0.5, -0.4, 0.3))]
        adam = [
            row(each.task, math.log(each.kappa.value) + shift, optimizer="adam")
            for each, shift in zip(sgd, shifts, strict=True)
        ]
        return [*sgd, *adam]

    clear = rows((1.1, 0.9, 1.0, 1.05))
    assert family_difference(clear).mean == pytest.approx(1.0, abs=0.05)
    ratio = kappa_prior(table(clear), optimizer="adamw").value / kappa_prior(table(clear), optimizer="sgd").value
    assert math.log(ratio) == pytest.approx(1.0, abs=0.05)
    unclear = table(rows((2.0, -1.8, 0.3, -0.2)))
    assert kappa_prior(unclear, optimizer="adamw") == kappa_prior(unclear, optimizer="sgd") == kappa_prior(unclear)


def test_prior_needs_two_tasks():
    with pytest.raises(InputError, match="a prior of kappa needs at least 2 tasks, got 1"):
        kappa_prior(table([row("a", 0.0), row("a", 0.3)]))


def test_joined_prior_covers_the_next_tasks_sweep():
    """Simulated tables: four tasks with both, four with branches alone; shift 0.7, scatter of the agreement 0.5, of kappa 1."""
    rng, covered, repeats = np.random.default_rng(0), 0, 400
    for _ in range(repeats):
        truths = rng.standard_normal(9)
        rows = [row(f"task-{number}", truths[number] + 0.2 * rng.standard_normal(), 0.2) for number in range(4)]
        rows += [
            row(f"task-{number}", truths[number] + 0.7 + 0.54 * rng.standard_normal(), 0.2, method="branch")
            for number in range(8)
        ]
        prior = kappa_prior(table(rows))
        covered += math.log(prior.low) <= truths[8] <= math.log(prior.high)
    # Nominal 95 %, one standard error 1.1 %; the scatter of the agreement is estimated from four tasks.
    assert 0.91 <= covered / repeats <= 0.99


def test_wide_branches_of_a_plan_do_not_move_the_prior_and_sharp_ones_do():
    prior = Interval(value=2.0, low=0.5, high=8.0)
    wide = combine(prior, Interval(value=20.0, low=0.002, high=200_000.0))
    assert wide.value == pytest.approx(prior.value, rel=0.07)
    assert width(wide) == pytest.approx(width(prior), rel=0.02)
    assert combine(prior, Interval(value=20.0, low=0.0, high=math.inf)) == prior
    sharp = combine(prior, Interval(value=6.0, low=5.0, high=7.2))
    assert 5.5 < sharp.value < 6.0
    assert width(sharp) < width(prior) / 5


def test_combine_is_the_posterior_of_two_normals():
    prior, measured = row("a", 0.0, error=1.0).kappa, row("b", 1.0, error=0.5).kappa
    found = combine(prior, measured)
    assert math.log(found.value) == pytest.approx(0.8, abs=1e-4)  # weights 1 and 4
    assert width(found) / (2 * 1.959964) == pytest.approx(1 / math.sqrt(5), abs=1e-4)


def test_what_branches_tell_is_no_sharper_than_their_agreement_with_sweeps():
    sweeps = [row(f"task-{number}", 0.0) for number in range(5)]
    branches = [row(f"task-{number}", value, method="branch") for number, value in enumerate((2.0, 0.0, 1.0, 0.5, 1.5))]
    both = table([*sweeps, *branches])
    found = sweep_kappa(Interval(value=3.0, low=2.99, high=3.01), both)
    assert math.log(found.value) == pytest.approx(math.log(3.0) - 1.0)
    assert width(found) > 2 * 1.96 * 0.7
    fewer = sweep_kappa(Interval(value=3.0, low=2.99, high=3.01), both, exclude="task-0")
    assert math.log(fewer.value) == pytest.approx(math.log(3.0) - 0.75)


def test_the_shipped_table_has_both_methods_and_families_and_predicts():
    rows = kappa_table().measurements
    assert {each.method for each in rows} == {"branch", "sweep"}
    assert {each.optimizer for each in rows} >= {"sgd", "adam", "adamw"}
    assert all(each.window[1] >= each.window[0] > 0 for each in rows)
    for optimizer in (None, "sgd", "adamw"):
        prior = kappa_prior(optimizer=optimizer)
        assert 0 < prior.low < prior.value < prior.high < math.inf
