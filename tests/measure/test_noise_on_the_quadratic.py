"""The built-in problem with a known answer: the stated interval holds it, and is narrow after 400 pairs of micro-batches."""

import pytest
import torch

from batchwright.data.access import fetch
from batchwright.measure.noise import noise_scale
from batchwright.tasks.loading import load_task


@pytest.mark.parametrize(
    ("shrink", "num_seeds", "num_pairs", "width"),
    [
        (0.5, 12, 100, 0.8),
        pytest.param(1.0, 50, 400, 0.4, marks=pytest.mark.slow),
        pytest.param(0.25, 50, 400, 0.4, marks=pytest.mark.slow),
    ],
)
def test_interval_holds_the_closed_form_and_is_narrow(shrink, num_seeds, num_pairs, width):
    """At the start, and where the gradient is ``shrink`` of that, so that the noise scale is larger by its inverse square."""
    task = load_task("noisy-quadratic")
    model = task.make_model(0)
    with torch.no_grad():
        # The model starts at the origin, so this leaves ``shrink`` of its distance to the optimum.
        model.parameters_vector.copy_((1 - shrink) * model.get_buffer("optimum"))
    true = task.facts["noise_scale"] / shrink**2
    covered, narrow = 0, 0
    for seed in range(num_seeds):
        generator = torch.Generator().manual_seed(seed)
        batches = (
            fetch(task.train, torch.randint(task.num_train, (task.batch_size,), generator=generator))
            for _ in range(num_pairs)
        )
        found = noise_scale(model, task.loss, batches, num_micro_batches=2)
        covered += found.low <= true <= found.high
        narrow += found.high <= (1 + width) * found.value and found.low >= (1 - width) * found.value
    assert covered >= 0.9 * num_seeds
    assert narrow == num_seeds
