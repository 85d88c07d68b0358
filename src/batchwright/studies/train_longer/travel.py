"""How far a network's weights travel at a constant learning rate, and how its loss varies with the distance.

Source: Hoffer, Hubara & Soudry (2017), arXiv:1705.08741, section 2.
"""

import math
from collections.abc import Mapping
from typing import Any

from torch.nn import functional

from batchwright.core.vectors import trainable
from batchwright.measure.diffusion import diffusion
from batchwright.measure.distance_log import DistanceLog
from batchwright.measure.random_potential import random_potential
from batchwright.studies.streams import stream
from batchwright.studies.study import Place
from batchwright.studies.train_longer.fit import fit
from batchwright.studies.train_longer.problems import digits, make_network

NUM_TRAIN = 1280
BASE_LR, BASE_BATCH_SIZE, WEIGHT_DECAY = 0.05, 128, 1e-4
RADII = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
NUM_DIRECTIONS = 32


def run_travel(
    place: Place, *, batch_size: int, scaled: bool, label_noise: float, num_updates: int, seed: int
) -> Mapping[str, Any]:
    """Train the digits' perceptron without decay of the learning rate and follow its distance from the beginning.

    Args:
        place: Not used.
        batch_size: Examples of an update.
        scaled: Learning rate ``.05 sqrt(B / 128)``; else .05.
        label_noise: Share of the labels drawn anew.
        num_updates: Optimizer steps.
        seed: Of everything.

    Returns:
        Log-spaced steps with distances, fits, and the loss over random directions about the beginning.
    """
    problem = digits(NUM_TRAIN, label_noise, seed)
    model = make_network("digits-mlp", seed, ghost_size=None).train()
    log = DistanceLog(trainable(model))
    potential = random_potential(
        model,
        lambda network, batch: functional.cross_entropy(network(batch[0]), batch[1], reduction="none"),
        (problem.inputs, problem.labels),
        RADII,
        generator=stream(seed, "train-longer", "directions"),
        num_directions=NUM_DIRECTIONS,
    )
    fit(
        model,
        problem,
        batch_size=batch_size,
        lr=BASE_LR * (math.sqrt(batch_size / BASE_BATCH_SIZE) if scaled else 1.0),
        num_updates=num_updates,
        weight_decay=WEIGHT_DECAY,
        generator=stream(seed, "train-longer", "travel", batch_size),
        milestones=(),
        after_update=log.after_step,
    )
    steps = [float(point.step) for point in log.points]
    distances = [point.distance for point in log.points]
    found = diffusion(steps, distances)
    return {
        "steps": steps,
        "distances": distances,
        "laws": found.laws,
        "exponent": found.exponent,
        "alpha": found.alpha,
        "told": found.told,
        "potential": potential,
        "num_gradients": float(num_updates * batch_size),
    }
