"""Isotropic linear regression at the edge: the growth of the error and the batch sharpness, simulated.

Inputs are uniform on the sphere of squared radius ``D`` in ``D`` dimensions, fresh at each step, and targets are zero, so the
Hessian of the expected loss is the identity. All settings of one batch size see the same inputs, at 0.93, 1 and 1.07 times
their own edge.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from batchwright.core.statistics import mean_interval
from batchwright.studies.streams import stream
from batchwright.studies.study import Place

DIM = 64
SCALES = (0.93, 1.0, 1.07)
EVERY = 20  # steps between renormalisations
BURN_IN = 10  # renormalisations before anything counts: the fastest modes die out


def simulate(
    place: Place,
    *,
    batch_size: int,
    edges: Sequence[float],
    momenta: Sequence[float],
    nesterov: Sequence[bool],
    num_replicas: int,
    num_steps: int,
    seed: int,
) -> Mapping[str, Any]:
    """Growth rates a step of the state's norm at each of `SCALES`, and ``BS lr / 2`` at the edge, with their intervals over replicas.

    Args:
        place: Where it runs; nothing is written.
        batch_size: Fresh examples a step.
        edges: Predicted edge of the learning rate for each optimizer.
        momenta: Of each optimizer.
        nesterov: Of each optimizer.
        num_replicas: Independent runs.
        num_steps: Of each.
        seed: Of the inputs.

    Returns:
        ``growth``: for each optimizer an interval a scale; ``level``: an interval for each optimizer.
    """
    generator = stream(seed, "eoss", "linear", batch_size)
    double = torch.float64
    lr = torch.tensor([edge * scale for edge in edges for scale in SCALES], dtype=double)
    beta = torch.tensor([each for each in momenta for _ in SCALES], dtype=double)
    ahead = torch.tensor([each for each in nesterov for _ in SCALES])
    # The velocity is kept times lr: w <- beta w + lr g, then p <- p - w, or p - (lr g + beta w) for Nesterov.
    velocity_share, gradient_share = torch.where(ahead, beta, torch.ones_like(beta)), ahead.to(double) * lr
    p = torch.randn(num_replicas, DIM, 1, generator=generator, dtype=double).expand(-1, -1, len(lr)).clone()
    w = torch.zeros_like(p)
    growth = torch.zeros(num_replicas, len(lr), dtype=double)
    level, counted = torch.zeros(num_replicas, len(lr), dtype=double), 0
    at_edge = [i * len(SCALES) + SCALES.index(1.0) for i in range(len(edges))]
    for step in range(num_steps + BURN_IN * EVERY):
        x = torch.randn(num_replicas, batch_size, DIM, generator=generator, dtype=torch.float32)
        x = (x * (math.sqrt(DIM) / x.norm(dim=2, keepdim=True))).to(double)
        g = torch.bmm(x.transpose(1, 2), torch.bmm(x, p)) / batch_size
        if step >= BURN_IN * EVERY:
            # g'Hg / g'g on the live batch; the inputs are new, so the state knows nothing of them.
            level += torch.bmm(x, g).square_().sum(1) / (batch_size * g.square().sum(1))
            counted += 1
        w = beta * w + lr * g
        p = p - velocity_share * w - gradient_share * g
        if (step + 1) % EVERY == 0:
            norm = (p.square().sum(1) + w.square().sum(1)).sqrt()
            if step >= BURN_IN * EVERY:
                growth += norm.log()
            p, w = p / norm[:, None], w / norm[:, None]
    whole = counted // EVERY * EVERY
    rates, levels = growth / whole, level / counted * lr / 2
    return {
        "growth": [
            [mean_interval(rates[:, i * len(SCALES) + j].numpy()) for j in range(len(SCALES))]
            for i in range(len(edges))
        ],
        "level": [mean_interval(levels[:, i].numpy()) for i in at_edge],
        "num_gradients": float(num_replicas * batch_size * len(lr) * (num_steps + BURN_IN * EVERY)),
    }
