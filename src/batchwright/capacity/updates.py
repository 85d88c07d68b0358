"""What an optimizer makes of the gradient of an associative memory: the direction of its step.

Sources: Kim et al. (2026), arXiv:2603.26554 (SGD, Muon, the smoothed map, Newton); Jordan et al. (2024) for the coefficients of the
Newton-Schulz iteration of Muon.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from batchwright.capacity.memory import AssociativeMemory
from batchwright.core.checks import check_int, check_number
from batchwright.core.errors import InputError

QUINTIC = (3.4445, -4.7750, 2.0315)

Update = Callable[[AssociativeMemory, Tensor], Tensor]


def sgd(memory: AssociativeMemory, gradient: Float[Tensor, "... d d"]) -> Float[Tensor, "... d d"]:
    """The negative gradient itself."""
    return gradient


def normalized_sgd(memory: AssociativeMemory, gradient: Float[Tensor, "... d d"]) -> Float[Tensor, "... d d"]:
    """The negative gradient over its spectral norm, which keeps pace as the gradient shrinks."""
    norm: Tensor = torch.linalg.matrix_norm(gradient, 2)[..., None, None]
    return gradient / norm.clamp_min(torch.finfo(gradient.dtype).tiny)


def newton(memory: AssociativeMemory, gradient: Float[Tensor, "... d d"]) -> Float[Tensor, "... d d"]:
    """``G S^-1`` with ``S = sum_j p_j v_j v_j'``: Newton's direction at the zero matrix, up to a factor.

    There the Hessian is ``Cov(u) x S / N``, and the covariance of the outputs is near ``I/d``.
    """
    second = torch.zeros_like(gradient)
    for rows in memory.chunks(torch.arange(memory.num_items, device=memory.device)):
        inputs = memory.inputs[..., rows, :].double()
        second += (inputs * memory.probabilities[rows, None]).mT @ inputs
    direction: Tensor = torch.linalg.solve(second, gradient, left=False)
    return direction


@dataclass(frozen=True, kw_only=True, slots=True)
class Muon:
    """``h(G) = G (G'G + smoothing^2 I)^(-1/2)``, which takes a singular value ``s`` to ``s / sqrt(s^2 + smoothing^2)``.

    Attributes:
        smoothing: ``lambda``, in the unit of the gradient; 0 for the polar factor. `smoothing` gives that of the theory.
        newton_schulz_steps: The polar factor by so many steps of Muon's iteration instead of a singular value decomposition.
    """

    smoothing: float = 0.0
    newton_schulz_steps: int | None = None

    def __post_init__(self) -> None:
        check_number("smoothing", self.smoothing, at_least=0.0)
        if self.newton_schulz_steps is not None:
            check_int("newton_schulz_steps", self.newton_schulz_steps, at_least=1)
            if self.smoothing:
                raise InputError(
                    f"newton_schulz_steps must go without smoothing, got {self.newton_schulz_steps} and "
                    f"smoothing={self.smoothing:g}; leave one out"
                )

    def __call__(self, memory: AssociativeMemory, gradient: Float[Tensor, "... d d"]) -> Float[Tensor, "... d d"]:
        """The direction of the step."""
        if self.newton_schulz_steps is not None:
            return newton_schulz(gradient, self.newton_schulz_steps)
        left, values, right = torch.linalg.svd(gradient, full_matrices=False)
        # A batch of B items gives a rank of at most B; what lies below rounding has no direction.
        floor = values[..., :1] * gradient.shape[-1] * torch.finfo(gradient.dtype).eps
        factors = torch.where(values > floor, values / torch.hypot(values, torch.full_like(values, self.smoothing)), 0)
        direction: Tensor = (left * factors[..., None, :]) @ right
        return direction


def newton_schulz(gradient: Float[Tensor, "... d d"], num_steps: int) -> Float[Tensor, "... d d"]:
    """Muon's quintic iteration from ``G / ||G||_F``, in the precision of ``gradient``."""
    a, b, c = QUINTIC
    norm: Tensor = torch.linalg.matrix_norm(gradient, "fro")[..., None, None]
    x: Tensor = gradient / norm.clamp_min(torch.finfo(gradient.dtype).tiny)
    for _ in range(num_steps):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return x


def newton_schulz_depth(dim: int, alpha: float) -> int:
    """Steps of the iteration that lift the bulk of the spectrum, at ``d^(-alpha)`` of its top, up to one.

    A step multiplies a small singular value by 3.4445, so five of them reach down to 1/485 alone.
    """
    check_int("dim", dim, at_least=2)
    check_number("alpha", alpha, above=0.0)
    return 5 + math.ceil(alpha * math.log(dim) / math.log(QUINTIC[0]))


def make_update(
    optimizer: str, *, smoothing: float | None = None, newton_schulz_steps: int | None = None
) -> Callable[[AssociativeMemory, Tensor], Tensor]:
    """An update by its name.

    Args:
        optimizer: ``sgd``, ``normalized-sgd``, ``muon`` or ``newton``.
        smoothing: As of `Muon`.
        newton_schulz_steps: As of `Muon`.

    Raises:
        InputError: If the name is unknown, or another than ``muon`` is given an option.
    """
    if optimizer == "muon":
        return Muon(smoothing=smoothing or 0.0, newton_schulz_steps=newton_schulz_steps)
    if smoothing is not None or newton_schulz_steps is not None:
        raise InputError(f"smoothing and newton_schulz_steps must go with muon, got {optimizer!r}; leave them out")
    plain: dict[str, Update] = {"sgd": sgd, "normalized-sgd": normalized_sgd, "newton": newton}
    if optimizer not in plain:
        raise InputError(f"optimizer must be one of muon, {', '.join(plain)}, got {optimizer!r}")
    return plain[optimizer]
