"""How far a run's weights have come from where they began, in its records, and what law that follows.

Source: Hoffer, Hubara & Soudry (2017), arXiv:1705.08741, section 2; the fits are those of `measure.diffusion`.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from batchwright.core.batches import to_device
from batchwright.core.errors import InputError
from batchwright.core.records import RecordWriter
from batchwright.core.vectors import trainable
from batchwright.data.access import fetch
from batchwright.measure.diffusion import diffusion
from batchwright.measure.distance_log import DistanceLog
from batchwright.measure.random_potential import random_potential
from batchwright.tasks.task import Task

NUM_RADII, NUM_DIRECTIONS, POTENTIAL_BATCH_SIZE = 7, 16, 256
# Radii reach this far below the largest distance of the run.
RADII_SPAN = 64.0


class Travel:
    """Distances at log-spaced steps, and at the end of the run their law and the loss as a random potential; nothing if not active.

    The beginning is the model as it is when this is made; it is in no checkpoint, since a run makes its model anew from its
    seed. Each distance costs a pass over the parameters; the end costs 113 forward passes of up to 256 examples.

    Args:
        task: The training job.
        model: At its beginning.
        records: Of the run.
        seed: Of the run; for the directions.
        active: Whether anything is recorded.
    """

    def __init__(self, task: Task, model: nn.Module, records: RecordWriter, *, seed: int, active: bool) -> None:
        self._task, self._model, self._records, self._seed = task, model, records, seed
        self._log = DistanceLog(trainable(model)) if active else None
        self._settings: list[tuple[int, float]] = []

    def after_step(self, *, step: int, num_examples: int, batch_size: int, lr: float) -> None:
        """Measure and record, if it is time."""
        point = self._log.after_step(step) if self._log is not None else None
        if point is None:
            return
        self._settings.append((batch_size, lr))
        self._records.write(
            "distance", step=step, num_examples=num_examples, batch_size=batch_size, lr=lr, distance=point.distance
        )

    def end(self, *, step: int, num_examples: int) -> None:
        """Record the law of the distances before batch size or learning rate first changed, and the loss about the beginning."""
        if self._log is None or not self._log.points:
            return
        same = next((i for i, each in enumerate(self._settings) if each != self._settings[0]), len(self._settings))
        points = [point for point in self._log.points[:same] if math.isfinite(point.distance)]
        try:
            found = diffusion([float(point.step) for point in points], [point.distance for point in points])
        except InputError as error:  # a short run: its distances are recorded, and why there is no law
            self._records.write("diffusion", step=step, num_examples=num_examples, told=str(error), laws={})
        else:
            self._records.write(
                "diffusion",
                step=step,
                num_examples=num_examples,
                last_step=found.steps[-1],
                laws=found.laws,
                exponent=found.exponent,
                alpha=found.alpha,
                told=found.told,
            )
        self._record_potential(step, num_examples)

    def _record_potential(self, step: int, num_examples: int) -> None:
        assert self._log is not None
        farthest = max((p.distance for p in self._log.points if math.isfinite(p.distance)), default=0.0)
        if farthest <= 0:
            return
        device = next(self._model.parameters()).device
        indices = torch.randperm(self._task.num_train, generator=torch.Generator().manual_seed(self._seed))
        found = random_potential(
            self._model,
            self._task.loss,
            to_device(fetch(self._task.train, indices[:POTENTIAL_BATCH_SIZE]), device),
            [farthest * RADII_SPAN ** (i / (NUM_RADII - 1) - 1) for i in range(NUM_RADII)],
            generator=torch.Generator().manual_seed(self._seed),
            num_directions=NUM_DIRECTIONS,
            center=self._log.start,
        )
        self._records.write(
            "potential",
            step=step,
            num_examples=num_examples,
            radii=found.radii,
            deviations=found.deviations,
            alpha=found.alpha,
            num_directions=found.num_directions,
        )

    def state_dict(self) -> dict[str, Any] | None:
        """For a checkpoint; None if not active."""
        if self._log is None:
            return None
        return {**self._log.state_dict(), "settings": [list(each) for each in self._settings]}

    def load_state_dict(self, state: Mapping[str, Any] | None) -> None:
        """Go on from `state_dict`."""
        if state is not None and self._log is not None:
            self._log.load_state_dict(state)
            self._settings = [(int(size), float(lr)) for size, lr in state["settings"]]
