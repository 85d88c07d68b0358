"""The problem of the study: a draw of a Gaussian process on a grid, and a bandit that is played on it."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from batchwright.bandits import Kernel
from batchwright.bandits.bandit import Bandit
from batchwright.bandits.thompson import prior_factor
from batchwright.studies.streams import stream

LOW, HIGH = -5.0, 5.0


def grid(size: int) -> Tensor:
    """``size × size`` points of ``[−5, 5]²``, float64; the second axis runs fastest."""
    axis = torch.linspace(LOW, HIGH, size, dtype=torch.float64)
    return torch.cartesian_prod(axis, axis)


def draw(points: Tensor, kernel: Kernel, seed: int) -> Tensor:
    """A function at the points, from the prior."""
    factor = prior_factor(points, kernel)
    return torch.randn(len(factor), generator=stream(seed, "function"), dtype=torch.float64) @ factor


@dataclass(frozen=True, kw_only=True)
class Play:
    """What one run did.

    Attributes:
        regret: ``(T,)``: of each trial, in order.
        kept: Whether the optimum survived every elimination.
        simple: Regret of the recommendation after each round that it was asked for.
        bound: The certificate's bound after the last round.
    """

    regret: Tensor
    kept: bool
    simple: list[float]
    bound: float


def play(bandit: Bandit, points: Tensor, value: Tensor, noise: float, seed: int, *, watch: bool = False) -> Play:
    """Play a bandit to the end of its plan.

    Args:
        bandit: On ``points``.
        points: The grid.
        value: ``(N,)``: the function there.
        noise: Standard deviation of the values told.
        seed: Of the noise.
        watch: Ask for a recommendation after each round and not only after the last.
    """
    generator, best = stream(seed, "noise"), int(value.argmax())
    regrets, simple, kept, bound = [], [], True, math.inf
    while not bandit.done:
        asked = bandit.ask()
        index = bandit.trials.index[-len(asked) :]
        found = value[index]
        regrets.append(value[best] - found)
        bandit.tell(asked, found + noise * torch.randn(len(asked), generator=generator, dtype=torch.float64))
        kept = kept and bool(bandit.survivors.alive[best])
        if watch or bandit.done:
            recommended = bandit.recommend()
            place = int((points == torch.tensor(recommended.point, dtype=torch.float64)).all(1).nonzero()[0, 0])
            simple.append(float(value[best] - value[place]))
            bound = recommended.regret_bound
    return Play(regret=torch.cat(regrets), kept=kept, simple=simple, bound=bound)
