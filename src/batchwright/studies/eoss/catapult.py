"""The catapult test: train to a plateau, change one thing at a checkpoint, and compare with the unchanged continuation.

The momentum buffer is zeroed at the checkpoint in all continuations, the unchanged one too, as in the official code: a buffer
that was filled at another setting carries the weights to where neither setting would.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import groupby, islice
from typing import Any

import torch

from batchwright.studies.eoss.batches import batch_stream
from batchwright.studies.eoss.ensemble import Ensemble, full_losses, to_model, train_steps
from batchwright.studies.eoss.interventions import BASE, BATCH_SIZES, PUBLISHED, Intervention, drawn_interventions
from batchwright.studies.eoss.measure import measure_batch_sharpness, measure_mean_curvature, measure_sharpness
from batchwright.studies.eoss.plateaus import measure_member, start_ensemble
from batchwright.studies.eoss.problem import Problem, digits_problem
from batchwright.studies.eoss.settings import WARMUP_STEPS, Setting
from batchwright.studies.state_files import load_state, save_state
from batchwright.studies.streams import stream
from batchwright.studies.study import Place

# Resettling is measured at these shares of the continuation: its last fifth, as for a plateau.
SETTLED = (0.8, 0.85, 0.9, 0.95, 1.0)
NUM_BEFORE = 100  # steps before the intervention whose loss is drawn


def state_name(seed: int) -> str:
    """Of the file with the checkpoint of a seed."""
    return f"catapult-seed-{seed}"


def run_checkpoint(place: Place, *, num_steps: int, num_batches: int, seed: int, num_train: int) -> Mapping[str, Any]:
    """Train at the base setting and leave the weights for the continuations.

    Returns:
        ``before``: full losses of the last steps; at the checkpoint ``batch_sharpness``, the same at the batch sizes of the
        interventions, and ``sharpness``.
    """
    problem = digits_problem(num_train)
    ensemble = start_ensemble([BASE], seed)
    batches = batch_stream(
        problem.num_train, BASE.batch_size, [stream(seed, "eoss", "catapult", "batches")], 1, num_steps
    )
    warmup = min(WARMUP_STEPS, num_steps)
    _train(ensemble, problem, islice(batches, warmup), [BASE.warmup(problem.num_train)])
    _train(ensemble, problem, islice(batches, max(num_steps - warmup - NUM_BEFORE, 0)), [BASE])
    before = []
    for batch in batches:
        _train(ensemble, problem, iter([batch]), [BASE])
        before.append(float(full_losses(ensemble, problem.inputs, problem.targets)[0]))
    save_state(place, state_name(seed), ensemble.tensors())
    model = to_model(ensemble, 0)
    found = {
        size: measure_batch_sharpness(
            model, problem, size, stream(seed, "eoss", "catapult", "measure", size), num_batches
        )
        for size in sorted({BASE.batch_size, *BATCH_SIZES})
        if size <= problem.num_train
    }
    return {
        "before": before,
        "batch_sharpness": found[BASE.batch_size],
        "batch_sharpness_by_size": found,
        "mean_curvature": measure_mean_curvature(
            model, problem, BASE.batch_size, stream(seed, "eoss", "catapult", "mean curvature"), num_batches
        ),
        "sharpness": measure_sharpness(model, problem),
        "num_gradients": float(num_steps * BASE.batch_size),
    }


def run_continuations(
    place: Place,
    *,
    num_spike_steps: int,
    num_steps: int,
    num_drawn: int,
    draw_seed: int,
    num_batches: int,
    seed: int,
    num_train: int,
) -> Mapping[str, Any]:
    """Go on from the checkpoint of ``seed`` at the base setting and at each changed one.

    Returns:
        ``continuations``: for the base and each intervention the full losses of the first ``num_spike_steps`` steps, their
        maximum (infinite where it diverged), and the batch sharpness over the last fifth of ``num_steps``.
    """
    problem = digits_problem(num_train)
    start = Ensemble.from_tensors(load_state(place, state_name(seed), device="cpu"))
    start.zero_momenta()
    base = Intervention(name="unchanged", setting=BASE, kind="baseline")
    everything = [base, *PUBLISHED, *drawn_interventions(draw_seed, num_drawn)]
    order = sorted(everything, key=lambda each: each.setting.batch_size)
    found: dict[str, Mapping[str, Any]] = {}
    for batch_size, group in groupby(order, key=lambda each: each.setting.batch_size):
        chosen = list(group)
        results = _continue(start, problem, chosen, batch_size, num_spike_steps, num_steps, num_batches, seed)
        found.update(zip((each.name for each in chosen), results, strict=True))
    return {
        "continuations": [
            {
                "name": each.name,
                "kind": each.kind,
                "setting": each.setting,
                **found[each.name],
            }
            for each in everything
        ],
        "num_gradients": float(sum(num_steps * each.setting.batch_size for each in everything)),
    }


def _continue(
    start: Ensemble,
    problem: Problem,
    chosen: Sequence[Intervention],
    batch_size: int,
    num_spike_steps: int,
    num_steps: int,
    num_batches: int,
    seed: int,
) -> list[Mapping[str, Any]]:
    settings = [each.setting for each in chosen]
    ensemble = start.take([0] * len(chosen))
    batches = batch_stream(
        problem.num_train, batch_size, [stream(seed, "eoss", "continue", batch_size)], len(chosen), num_steps
    )
    losses = []
    for batch in islice(batches, num_spike_steps):
        _train(ensemble, problem, iter([batch]), settings)
        losses.append(full_losses(ensemble, problem.inputs, problem.targets))
    curves = torch.stack(losses, dim=1)
    done = num_spike_steps
    points: list[list[Mapping[str, float]]] = [[] for _ in chosen]
    for number, share in enumerate(SETTLED):
        end = max(round(share * num_steps), done)
        _train(ensemble, problem, islice(batches, end - done), settings)
        done = end
        now = full_losses(ensemble, problem.inputs, problem.targets)
        for index, each in enumerate(points):
            generator = stream(seed, "eoss", "settled", batch_size, number, index)
            each.append(
                measure_member(ensemble, index, float(now[index]), problem, batch_size, generator, num_batches, done)
            )
    return [
        {
            "losses": curve,
            "max_loss": _maximum(curve),
            "settled": points[index],
        }
        for index, curve in enumerate(curves.tolist())
    ]


def _maximum(losses: Sequence[float]) -> float:
    """Largest loss; infinite as soon as one is not a number."""
    return math.inf if any(not math.isfinite(loss) for loss in losses) else max(losses)


def _train(ensemble: Ensemble, problem: Problem, batches: Any, settings: Sequence[Setting]) -> None:
    train_steps(ensemble, problem.inputs, problem.targets, batches, settings)
