"""What an LQG is worth under a linear Gaussian policy, exactly: without the boxes in closed form, with them by quadrature.

Three returns must not be mixed up. Papini et al. (2017) report the first and estimate the gradient of the third; a library has to
evaluate the return whose gradient it estimates.

1. `unclipped_return` with ``horizon=None``: no boxes, no end. At the start of the paper's experiment its gradient is -930.
2. `unclipped_return` with a horizon: no boxes.
3. `clipped_return`: what is sampled. There the gradient at the same place is -9.8.
"""

import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from batchwright.core.errors import InputError
from batchwright.core.statistics import Interval, mean_interval
from batchwright.rl.gaussian import GaussianPolicy
from batchwright.rl.lqg import LQG

NODES = 48  # of each quadrature and interpolation; the answer has converged to the last digits by then
PAIRED_CHUNK = 20_000


def unclipped_return(
    lqg: LQG, theta: Float[Tensor, " m"], *, std: float = 1.0, horizon: int | None = None
) -> Float[Tensor, ""]:
    """Expected discounted return without the boxes; differentiable by ``theta``.

    With ``K`` the matrix of ``theta``, ``P = Q + K'RK + gamma (A+BK)' P (A+BK)``, the return is
    ``-(tr(P S_0) + sum_t gamma^t tr((R + gamma B'PB) Sigma))`` with ``S_0`` the second moment of the start and ``Sigma = std² I``.

    Args:
        lqg: The problem.
        theta: Row by row the matrix ``K`` of the policy's mean.
        std: Standard deviation of the policy.
        horizon: Steps; None for no end, where the closed loop must be stable under the discount.

    Raises:
        InputError: If the return without an end is infinite.
    """
    gain = theta.double().reshape(lqg.dim, lqg.dim)
    loop = lqg.dynamics + lqg.control @ gain
    cost = lqg.state_cost + gain.T @ lqg.action_cost @ gain
    gamma, start = lqg.discount, lqg.start**2 / 3
    if horizon is not None:
        value = torch.zeros_like(cost)
        noise = torch.zeros((), dtype=torch.float64)
        for _ in range(horizon):
            noise = std**2 * torch.trace(lqg.action_cost + gamma * lqg.control.T @ value @ lqg.control) + gamma * noise
            value = cost + gamma * loop.T @ value @ loop
        return -(start * torch.trace(value) + noise)
    radius = float(torch.linalg.eigvals(loop.detach()).abs().max())
    if gamma * radius**2 >= 1:
        raise InputError(
            f"theta must keep discount * radius² below 1 where there is no end, got {gamma * radius**2:.3g}; give a horizon"
        )
    size = lqg.dim**2
    system = torch.eye(size, dtype=torch.float64) - gamma * torch.kron(loop.T, loop.T)
    value = torch.linalg.solve(system, cost.reshape(-1)).reshape(lqg.dim, lqg.dim)
    noise = std**2 * torch.trace(lqg.action_cost + gamma * lqg.control.T @ value @ lqg.control) / (1 - gamma)
    return -(start * torch.trace(value) + noise)


def clipped_return(lqg: LQG, theta: Float[Tensor, " m"], *, std: float = 1.0) -> Float[Tensor, ""]:
    """Expected discounted return of what is simulated, boxes and horizon included; differentiable by ``theta``.

    The value of a state is found backwards in time on Gauss-Legendre nodes; the next state has a density inside its reach and two
    atoms at the ends of it. Several dimensions are solved one by one.

    Args:
        lqg: The problem, of equal boxes for states and actions.
        theta: Row by row the matrix of the policy's mean, diagonal.
        std: Standard deviation of the policy.

    Raises:
        InputError: If the dimensions act on each other, or the boxes differ; `paired_improvement` compares policies by sampling there.
    """
    matrices = [lqg.state_cost, lqg.action_cost, lqg.dynamics, lqg.control, theta.double().reshape(lqg.dim, lqg.dim)]
    apart = all(bool(torch.equal(each, torch.diag(torch.diagonal(each)))) for each in matrices)
    plain = all(bool(torch.equal(each, torch.eye(lqg.dim, dtype=torch.float64))) for each in matrices[2:4])
    if not (apart and plain and lqg.max_state == lqg.max_action):
        raise InputError(
            "theta and the costs must be diagonal, the dynamics the identity and both boxes equal for the exact return with "
            "clipping, got others; compare policies with paired_improvement"
        )
    total = torch.zeros((), dtype=torch.float64)
    for k in range(lqg.dim):
        costs = float(lqg.state_cost[k, k]), float(lqg.action_cost[k, k])
        total = total + _one_dimension(lqg, matrices[4][k, k], costs, std)
    return total


def paired_improvement(
    lqg: LQG,
    before: GaussianPolicy,
    after: GaussianPolicy,
    *,
    num_episodes: int,
    seed: int,
    level: float = 0.95,
) -> Interval:
    """``J(after) - J(before)`` of the clipped problem, from episodes that share starts and random numbers.

    Both policies see the same noise, so the two returns differ little more than they must: for a small step the error is that of
    a derivative along the path, not of two returns.
    """
    generator = torch.Generator().manual_seed(seed)
    differences = []
    for first in range(0, num_episodes, PAIRED_CHUNK):
        number = min(PAIRED_CHUNK, num_episodes - first)
        start = (2 * torch.rand(number, lqg.dim, generator=generator, dtype=torch.float64) - 1) * lqg.start
        noise = torch.randn(lqg.horizon, number, lqg.dim, generator=generator, dtype=torch.float64)
        differences.append(lqg.returns(after, start, noise) - lqg.returns(before, start, noise))
    return mean_interval(torch.cat(differences).numpy(), level)


def _one_dimension(lqg: LQG, gain: Tensor, costs: tuple[float, float], std: float) -> Tensor:
    """Value by backward recursion on ``[0, box]``; the problem is the same from ``-s`` as from ``s``."""
    box, gamma = lqg.max_state, lqg.discount
    nodes, weights = (torch.from_numpy(each) for each in np.polynomial.legendre.leggauss(NODES))
    half = (nodes + 1) / 2  # on [0, 1]
    states = box * half
    # From s >= 0 the next state lies in [s - box, box]. Both sides of zero apart: there the value has a corner in a derivative.
    low = states - box
    targets = torch.cat([low[:, None] * (1 - half), (box * half).expand(NODES, NODES)], dim=1)
    widths = torch.cat([-low[:, None] * weights / 2, (box * weights / 2).expand(NODES, NODES)], dim=1)
    mean = gain * states
    density = _density((targets - states[:, None] - mean[:, None]) / std) / std
    spread = _interpolation(states, targets.abs().reshape(-1)).reshape(NODES, 2 * NODES, NODES)
    move = torch.einsum("st,stn->sn", widths * density, spread)
    ends = _interpolation(states, torch.cat([low.abs(), torch.tensor([box], dtype=torch.float64)]))
    move = (
        move + _cdf((-box - mean) / std)[:, None] * ends[:-1] + _cdf(-(box - states - mean) / std)[:, None] * ends[-1]
    )
    reward = -(costs[0] * states.square() + costs[1] * _clipped_square(mean, std, box))
    value = torch.zeros(NODES, dtype=torch.float64)
    for _ in range(lqg.horizon):
        value = reward + gamma * move @ value
    start = lqg.start * half
    return (weights / 2 * (_interpolation(states, start) @ value)).sum()


def _clipped_square(mean: Tensor, std: float, box: float) -> Tensor:
    """``E clip(a)²`` of a Gaussian, with its tails at the ends of the box."""
    low, high = (-box - mean) / std, (box - mean) / std
    inside = (mean.square() + std**2) * (_cdf(high) - _cdf(low))
    inside = inside + 2 * mean * std * (_density(low) - _density(high))
    inside = inside + std**2 * (low * _density(low) - high * _density(high))
    return inside + box**2 * (_cdf(low) + _cdf(-high))


def _density(x: Tensor) -> Tensor:
    return torch.exp(-0.5 * x.square()) / math.sqrt(2 * math.pi)


def _cdf(x: Tensor) -> Tensor:
    return 0.5 * torch.erfc(-x / math.sqrt(2))


def _interpolation(nodes: Tensor, at: Tensor) -> Tensor:
    """Barycentric weights of the nodes' values at other places, ``(len(at), len(nodes))``."""
    scale = 4 / float(
        nodes.max() - nodes.min()
    )  # the capacity of the interval, so that the products neither overflow nor vanish
    gaps = (nodes[:, None] - nodes[None, :]) * scale
    gaps.fill_diagonal_(1.0)
    weights = 1 / gaps.prod(dim=1)
    away = at[:, None] - nodes[None, :]
    hit = away == 0
    terms = weights / torch.where(hit, 1.0, away)
    found = terms / terms.sum(dim=1, keepdim=True)
    return torch.where(hit.any(dim=1, keepdim=True), hit.double(), found)
