"""A pilot's length follows the job's, within what the budget affords."""

import torch
from torch import nn
from torch.utils.data import TensorDataset

from batchwright.planning.pilot_window import MIN_STEPS, pilot_steps
from batchwright.tasks.task import Task


def job(max_examples: int) -> Task:
    return Task(
        name="job",
        model=lambda: nn.Linear(1, 1),
        loss=lambda model, batch: model(batch[0]).squeeze(1).square(),
        train=TensorDataset(torch.zeros(64, 1)),
        batch_size=32,
        max_examples=max_examples,
    )


def test_pilot_is_a_fiftieth_of_the_job_between_its_bounds():
    assert pilot_steps(job(32 * 5_000), 120) == 100
    assert pilot_steps(job(32 * 100), 120) == MIN_STEPS
    assert pilot_steps(job(32 * 1_000_000), 120) == 120
    assert pilot_steps(job(32 * 1_000_000), 600) == 600
    assert pilot_steps(job(32 * 100), 12) == 12
