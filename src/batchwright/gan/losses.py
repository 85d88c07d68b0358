"""What critic and generator minimise, as functions of the critic's features of real and generated points.

Sources: Li et al. (2017), MMD GAN (``mmd``); Binkowski et al. (2018), arXiv:1801.01401 (``mmd-squared``); Wang, Sun,
    Halgamuge (2019),
arXiv:1812.09916 (``repulsive``, ``repulsive-bounded``).
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from batchwright.core.kernels import Kernel
from batchwright.core.kernels.kernel import uses
from batchwright.core.kernels.pairs import Pairs, pairs_of
from batchwright.core.mmd import mmd2

# The root has an infinite slope at zero, and the code of the paper, sqrt(relu(m)), gives NaN there.
EPSILON = 1e-8


class GanLoss(ABC):
    """A pair of losses, both minimised."""

    @abstractmethod
    def generator(self, kernel: Kernel, real: Tensor, generated: Tensor) -> Tensor:
        """What the generator minimises."""

    def critic(self, kernel: Kernel, real: Tensor, generated: Tensor) -> Tensor:
        """What the critic minimises: the generator's loss with the other sign, unless a loss says otherwise."""
        return -self.generator(kernel, real, generated)


class RootMmd(GanLoss):
    """The paper's: the root of the biased squared MMD, so of a number that cannot be negative."""

    def generator(self, kernel: Kernel, real: Tensor, generated: Tensor) -> Tensor:
        """``sqrt(MMD_b^2 + 1e-8)``."""
        return (mmd2(real, generated, kernel, unbiased=False).clamp(min=0) + EPSILON).sqrt()


class UnbiasedMmd(GanLoss):
    """The unbiased squared MMD itself, whose gradients are unbiased too."""

    def generator(self, kernel: Kernel, real: Tensor, generated: Tensor) -> Tensor:
        """``MMD_u^2``."""
        return mmd2(real, generated, kernel)


class Repulsive(GanLoss):
    """The critic spreads the real points and gathers the generated ones; bounded: only as far as distances of 2 and 1/2.

    Means are over pairs of different rows, those between the samples too, so both must be of one size.
    """

    def __init__(self, *, bounded: bool) -> None:
        self.bounded = bounded

    def generator(self, kernel: Kernel, real: Tensor, generated: Tensor) -> Tensor:
        """``E k(y, y') + E k(x, x') - 2 E k(x, y)``."""
        within = _off_diagonal(kernel, generated) + _off_diagonal(kernel, real)
        return within - 2 * _off_diagonal(kernel, real, generated)

    def critic(self, kernel: Kernel, real: Tensor, generated: Tensor) -> Tensor:
        """``E k(x, x') - E k(y, y')``."""
        if not self.bounded:
            return _off_diagonal(kernel, real) - _off_diagonal(kernel, generated)
        return _off_diagonal(kernel, real, at_most=4.0) - _off_diagonal(kernel, generated, at_least=0.25)


def _off_diagonal(
    kernel: Kernel,
    x: Tensor,
    y: Tensor | None = None,
    *,
    at_least: float | None = None,
    at_most: float | None = None,
) -> Tensor:
    """Mean of ``k`` over pairs of different row numbers, with squared distances kept within bounds."""
    distance, product = uses(kernel)
    pairs = pairs_of(x, y, distance=distance, product=product)
    if at_least is not None or at_most is not None:
        bounded = torch.clamp(pairs.sq_distance, min=at_least, max=at_most)
        pairs = Pairs(sq_distance=bounded, product=pairs.product, dim=pairs.dim)
    values = kernel.values(pairs)
    num = len(values)
    return (values.sum() - values.diagonal().sum()) / (num * (num - 1))


LOSSES: dict[str, GanLoss] = {
    "mmd": RootMmd(),
    "mmd-squared": UnbiasedMmd(),
    "repulsive": Repulsive(bounded=False),
    "repulsive-bounded": Repulsive(bounded=True),
}
