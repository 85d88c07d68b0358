"""One run of the study: a generator trained by one arm, scored along the way by the classifier of its data."""

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from batchwright.gan import (
    MMDGAN,
    FeatureScaleWarning,
    GanNetworks,
    GanOptions,
    dcgan_networks,
    mlp_networks,
    without_critic,
)
from batchwright.studies.mmd_gan.arms import ARMS, KERNELS, Arm
from batchwright.studies.mmd_gan.grid import as_text, grid_png
from batchwright.studies.mmd_gan.problems import Problem
from batchwright.studies.mmd_gan.scorer import ZOOM, load_scorer
from batchwright.studies.streams import stream
from batchwright.studies.study import Place

NUM_SAMPLES = 2000


def run_gan(
    place: Place,
    *,
    data: str,
    arm: str,
    batch_size: int,
    num_steps: int,
    every: int,
    seed: int,
    part: int = 0,
    part_steps: int = 0,
) -> Mapping[str, Any]:
    """Train a generator, or go on with it for one part of its steps.

    Args:
        place: Where to compute; holds the classifier and the state of the part before.
        data: Name of the images.
        arm: How to train.
        batch_size: Real points, and generated points, in a step.
        num_steps: Generator steps in all.
        every: Steps between two scores.
        seed: Of initial values, noise and order.
        part: Number of this part.
        part_steps: Steps in a part, a multiple of ``every``; 0 for all in one.

    Returns:
        ``curve``, one entry a score: step, mean loss of the generator since the one before, distance of the critic's features, class
        score, rarest class, KID, with intervals; ``warned``, whether the trainer said that means alone are matched; a grid of samples.
    """
    scorer = load_scorer(place, data)
    trainer = make_trainer(scorer.problem, ARMS[arm], batch_size, seed, place.device)
    stem = f"{data}-{arm}-{batch_size}-{num_steps}-{seed}"
    first = part * part_steps
    last = min(num_steps, first + part_steps) if part_steps else num_steps
    if part:
        trainer.resume(place.folder / f"{stem}-part-{part - 1:02d}")
    curve: list[Mapping[str, Any]] = []
    shape = scorer.problem.images.shape[1:]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", FeatureScaleWarning)
        while trainer.step_number < last:
            losses = trainer.train(min(every, last - trainer.step_number))
            samples = _samples(trainer, shape, stream(seed, "mmd-gan", "samples", trainer.step_number))
            curve.append(
                {
                    "step": trainer.step_number,
                    "loss": sum(losses) / len(losses),
                    "feature_distance": trainer.feature_distance,
                    **scorer.scores(samples),
                }
            )
    if part_steps and last < num_steps:
        trainer.save(place.folder / f"{stem}-part-{part:02d}")
    grid = grid_png(
        _samples(trainer, shape, stream(seed, "mmd-gan", "grid"))[:60],
        zoom=ZOOM.get(data, 1),
    )
    return {
        "curve": curve,
        "warned": any(issubclass(each.category, FeatureScaleWarning) for each in caught),
        "grid": as_text(grid),
        "num_gradients": float(_num_gradients(trainer.options, ARMS[arm], first, last)),
    }


def make_trainer(problem: Problem, arm: Arm, batch_size: int, seed: int, device: torch.device) -> MMDGAN:
    """The trainer of an arm; networks of one seed begin with the same values for every arm that has them."""
    images = problem.images.to(device)
    points = images.flatten(1) if arm.network == "mlp" else images
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        networks = _networks(problem, arm)
    for network in (networks.generator, networks.critic, networks.decoder):
        if network is not None:
            network.to(device)
    options = GanOptions(batch_size=batch_size, kernel=KERNELS[arm.kernel], **arm.options)
    return MMDGAN(points, networks, options, seed=seed)


def _networks(problem: Problem, arm: Arm) -> GanNetworks:
    channels, size = problem.images.shape[1:3]
    if arm.network == "mlp":
        return mlp_networks(
            channels * size * size, noise_dim=arm.noise_dim, num_features=arm.noise_dim, critic=arm.critic
        )
    networks = dcgan_networks(size, channels)
    return networks if arm.critic else without_critic(networks)


def _samples(trainer: MMDGAN, shape: torch.Size, generator: torch.Generator) -> Tensor:
    """Generated images on the CPU, in parts, since a whole sample of large networks does not fit a small machine."""
    parts = [trainer.sample(500, generator=generator) for _ in range(NUM_SAMPLES // 500)]
    return torch.cat([part.cpu().view(-1, *shape) for part in parts])


def _num_gradients(options: GanOptions, arm: Arm, first: int, last: int) -> int:
    """Gradients of single points, real and generated ones, in the steps from ``first`` on."""
    total = 0
    for step in range(first, last):
        long = step < options.warmup_steps or step % options.warmup_every == 0
        critic = (options.warmup_critic_steps if long else options.critic_steps) if arm.critic else 0
        total += 2 * options.batch_size * (critic + 1)
    return total
