"""Walks with known laws: a particle in a random potential, whose distance grows as a power of ``log t``, and a free one.

Source: Sinai (1982); a potential that is a Brownian path has ``alpha = 1``, so ``d ~ (log t)^2``.
"""

from collections.abc import Mapping
from typing import Any

import torch

from batchwright.measure.diffusion import diffusion
from batchwright.studies.streams import stream
from batchwright.studies.study import Place

# Steps of the potential, in units of the temperature: the larger, the earlier the walk is trapped.
ROUGHNESS = 2.0
BLOCK = 256
FIRST_POINT = 10


def run_walks(place: Place, *, num_walkers: int, num_steps: int, seed: int) -> Mapping[str, Any]:
    """Walkers on a line, each in a potential of its own, and as many free ones.

    Returns:
        ``steps``, and for ``sinai`` and ``free`` the root mean square distances with their fits.
    """
    generator = stream(seed, "train-longer", "walks", num_walkers, num_steps)
    steps = _log_spaced(num_steps)
    reach = 40 * int(num_steps**0.5 / 20 + 10)
    slopes = ROUGHNESS * torch.randn(num_walkers, 2 * reach + 1, generator=generator)
    right = torch.sigmoid(slopes)
    found: dict[str, Any] = {"steps": steps, "num_gradients": 0.0}
    for name, table in (("sinai", right), ("free", torch.full_like(right, 0.5))):
        distances = _walk(table, steps, reach, generator)
        late = [number for number, step in enumerate(steps) if step >= FIRST_POINT]
        fit = diffusion([steps[i] for i in late], [distances[i] for i in late])
        found[name] = {
            "distances": distances,
            "laws": fit.laws,
            "exponent": fit.exponent,
            "alpha": fit.alpha,
            "told": fit.told,
        }
    return found


def _log_spaced(num_steps: int) -> list[int]:
    steps, step = [], 1
    while step <= num_steps:
        steps.append(step)
        step += max(1, int(0.1 * step))
    return steps if steps[-1] == num_steps else [*steps, num_steps]


def _walk(right: torch.Tensor, steps: list[int], reach: int, generator: torch.Generator) -> list[float]:
    """Root mean square positions after ``steps``; a walker that comes to the end of its table stays there."""
    num_walkers = len(right)
    place = torch.full((num_walkers,), reach)
    row = torch.arange(num_walkers) * right.shape[1]
    flat = right.flatten()
    due, found, done = set(steps), [], 0
    while done < steps[-1]:
        number = min(BLOCK, steps[-1] - done)
        drawn = torch.rand(number, num_walkers, generator=generator)
        for each in drawn:
            goes_right = each < flat[row + place]
            place = (place + 2 * goes_right.long() - 1).clamp_(0, 2 * reach)
            done += 1
            if done in due:
                found.append(float((place - reach).double().square().mean().sqrt()))
    return found
