"""What a stochastic policy is: draws, log-probabilities, scores, and the constants that bound how fast its return can bend.

Source: Papini, Pirotta, Restelli (2022), *Smoothing policies and safe policy gradients*, Machine Learning 111 (definition of smoothing
policies; arXiv:1905.03231).
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Shaped
from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Smoothing:
    """Constants of a ``(psi, kappa, xi)``-smoothing policy class: bounds over all states and all parameters.

    Attributes:
        psi: Of ``E ‖∇ log π‖``.
        kappa: Of ``E ‖∇ log π‖²``.
        xi: Of ``E ‖∇² log π‖`` (spectral norm).
        score_bound: Of ``‖∇ log π‖`` itself; infinite for a Gaussian.
        sub_gaussian: Proxy ``w`` of a sub-Gaussian score; None where it is not known.
    """

    psi: float
    kappa: float
    xi: float
    score_bound: float = torch.inf
    sub_gaussian: float | None = None


@runtime_checkable
class Policy(Protocol):
    """A distribution of actions for each observation, with a parameter vector ``theta`` of length ``m``.

    A policy is a value: `at` gives another one at other parameters and leaves this one as it is.
    """

    @property
    def theta(self) -> Float[Tensor, " m"]:
        """A copy of the parameters."""
        ...

    @property
    def num_parameters(self) -> int:
        """``m``."""
        ...

    @property
    def discrete(self) -> bool:
        """Whether actions are integers ``(...)`` rather than vectors ``(..., A)``."""
        ...

    def at(self, theta: Float[Tensor, " m"]) -> "Policy":
        """This policy at other parameters."""
        ...

    def sample(self, observations: Float[Tensor, "*N S"], generator: torch.Generator) -> Shaped[Tensor, "..."]:
        """Actions, one an observation, not clipped to any set: ``(*N, A)``, or integers ``(*N,)``."""
        ...

    def log_prob(self, observations: Float[Tensor, "*N S"], actions: Shaped[Tensor, "..."]) -> Float[Tensor, "*N"]:
        """Logarithm of the probability, or of the density, of each action."""
        ...

    def score(self, observations: Float[Tensor, "*N S"], actions: Shaped[Tensor, "..."]) -> Float[Tensor, "*N m"]:
        """Gradient of `log_prob` by the parameters, one a row."""
        ...

    def smoothing(self, observation_bound: float) -> Smoothing | None:
        """Constants of the whole gradient, given a bound on each component of an observation; None where none are known.

        A network has none unless they are given, because its weights are not bounded.
        """
        ...

    def coordinate_smoothing(self, observation_bound: float) -> Smoothing | None:
        """The same constants for any one coordinate of the parameters alone, which are smaller; None where none are known."""
        ...
