"""Regime adaptation keeps the number of updates, in the limit and in a schedule."""

import pytest
import torch

from batchwright.core.errors import InputError
from batchwright.planning import ExampleClock
from batchwright.planning.regime import Regime, adapted_examples


def make(name: str, batch_size: int, **changes) -> Regime:
    return Regime(
        **{"name": name, "base_max_examples": 6000, "base_batch_size": 16, "batch_size": batch_size, **changes}
    )


def test_the_published_runs_have_the_published_number_of_updates():
    """ResNet-44: 50,000 images, batch 128, 391 updates an epoch; at 2048 sixteen times the epochs."""
    epochs = 200
    small = Regime(
        name="keep-updates", base_max_examples=50_000 * epochs, base_batch_size=128, batch_size=2048, max_grad_norm=5.0
    )
    assert small.num_updates == small.num_base_updates == 78_125
    assert small.max_examples == 16 * 50_000 * epochs


@pytest.mark.parametrize("batch_size", [1, 16, 17, 250, 6000])
def test_keep_updates_keeps_updates_and_keep_epochs_examples(batch_size):
    kept = make("keep-updates", batch_size)
    assert kept.num_updates == kept.num_base_updates == 375
    assert kept.max_examples == 375 * batch_size
    assert kept.examples_per_step == batch_size
    epochs = make("keep-epochs", batch_size)
    assert epochs.max_examples == 6000
    assert epochs.examples_per_step == 16
    assert epochs.num_updates == -(-6000 // batch_size)


def test_a_limit_that_is_no_whole_number_of_updates_is_rounded_up():
    assert adapted_examples("keep-updates", 100, base_batch_size=32, batch_size=64) == 4 * 64


@pytest.mark.parametrize("name", ["keep-updates", "keep-epochs"])
def test_a_schedule_driven_by_the_regime_has_its_boundaries_where_they_belong(name):
    """A step schedule written for 375 updates at batch 16, at batch 64: at the same share of the run under either regime."""
    regime = make(name, 64)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [188, 282], 0.1)
    clock = ExampleClock(scheduler, examples_per_step=regime.examples_per_step)
    rates = []
    while clock.num_examples < regime.max_examples:
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        clock.advance(64)
    assert len(rates) == regime.num_updates
    first = next(i for i, lr in enumerate(rates) if lr < 0.5)
    # The boundary of the schedule is at 188 of its 375 steps.
    assert first == (188 if name == "keep-updates" else 188 * 16 // 64)


def test_what_a_regime_says():
    assert make("keep-epochs", 64).told == (
        "keep-epochs: 6,000 examples as at batch size 16, in 94 updates instead of 375"
    )
    longer = make("keep-updates", 64).told
    assert longer.startswith("keep-updates: 375 updates as at batch size 16, so 4 times the examples (24,000)")
    assert "clean labels or early stopping" in longer
    assert "fewer examples" in make("keep-updates", 8).told


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "keep-time"}, "regime must be one of keep-epochs, keep-updates"),
        ({"max_grad_norm": 0.0}, "max_grad_norm must be"),
        ({"noise_batch_size": 65}, "noise_batch_size must be at most the batch size, got 65 for 64"),
    ],
)
def test_what_breaks_a_rule_is_refused(changes, message):
    with pytest.raises(InputError, match=message):
        make(**{"name": "keep-updates", "batch_size": 64, **changes})
