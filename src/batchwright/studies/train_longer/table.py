"""One entry of the table: an arm trained on a problem from one seed."""

from collections.abc import Mapping
from typing import Any

import torch

from batchwright.studies.streams import stream
from batchwright.studies.study import Place
from batchwright.studies.train_longer.arms import ARMS
from batchwright.studies.train_longer.fit import Sizes, accuracy, fit
from batchwright.studies.train_longer.problems import Problem, cifar, digits, make_network, mnist

NUM_POINTS = 12


def run_entry(
    place: Place,
    *,
    data: str,
    network: str,
    num_train: int,
    label_noise: float,
    arm: str,
    sizes: Mapping[str, Any],
    seed: int,
) -> Mapping[str, Any]:
    """Train one arm.

    Args:
        place: Device and data root.
        data: ``digits``, ``mnist`` or ``cifar``.
        network: As of `make_network`.
        num_train: Training examples.
        label_noise: Share of the training labels that is drawn anew; for the digits.
        arm: Name of the arm.
        sizes: Fields of `Sizes`.
        seed: Of weights, batches and noise; for the digits also of the split.

    Returns:
        ``test`` and ``train`` accuracy in per cent, ``num_updates``, and ``points``: update with both accuracies along the way.
    """
    chosen, shared = ARMS[arm], Sizes(**sizes)
    problem = _problem(place, data, num_train, label_noise, seed)
    model = make_network(network, seed, ghost_size=shared.small if chosen.ghost else None).to(place.device).train()
    num_updates = shared.num_updates(chosen, problem.num_train)
    due = {round(num_updates * point / NUM_POINTS) for point in range(1, NUM_POINTS + 1)}
    points: list[dict[str, float]] = []

    def after_update(update: int) -> None:
        if update in due:
            found = {"update": update, "test": accuracy(model, problem.test_inputs, problem.test_labels)}
            if update == num_updates or data == "digits":
                found["train"] = accuracy(model, problem.inputs, problem.labels)
            points.append(found)

    fit(
        model,
        problem,
        batch_size=shared.batch_size(chosen),
        lr=shared.first_lr(chosen),
        num_updates=num_updates,
        weight_decay=shared.weight_decay,
        generator=stream(seed, "train-longer", data, "batches"),
        noise=chosen.noise,
        noise_like=shared.small,
        after_update=after_update,
    )
    return {
        "test": points[-1]["test"],
        "train": points[-1]["train"],
        "num_updates": num_updates,
        "points": points,
        "num_gradients": float(num_updates * min(shared.batch_size(chosen), num_train)),
    }


def _problem(place: Place, data: str, num_train: int, label_noise: float, seed: int) -> Problem:
    if data == "digits":
        problem = digits(num_train, label_noise, seed)
        if place.device != torch.device("cpu"):
            problem = Problem(
                inputs=problem.inputs.to(place.device),
                labels=problem.labels.to(place.device),
                test_inputs=problem.test_inputs.to(place.device),
                test_labels=problem.test_labels.to(place.device),
            )
        return problem
    make = mnist if data == "mnist" else cifar
    return make(place.data_root, num_train, place.device)
