"""What the policies of this room share: a network of the features, and parameters in one flat vector that never changes in place."""

import copy
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from batchwright.core.checks import check_int
from batchwright.core.errors import InputError
from batchwright.rl.networks import Network
from batchwright.rl.policies import Smoothing

Policy = TypeVar("Policy", bound="OwnPolicy")


class OwnPolicy:
    """Features, network and flat parameters of a policy.

    Args:
        observation_dim: ``S``.
        outputs: Of the network.
        hidden: Widths of its tanh layers.
        features: ``phi``, from ``(*N, S)`` to ``(*N, F)``; the observation itself where left out.
        num_features: ``F``; needed with ``features``.
        feature_bound: Bound on each component of ``features``.
        smoothing: Constants, where the caller knows them.
        seed: Of a network's first weights.

    Raises:
        InputError: If features come without their number or the other way round.
    """

    def __init__(
        self,
        observation_dim: int,
        outputs: int,
        *,
        hidden: Sequence[int],
        features: Callable[[Tensor], Tensor] | None,
        num_features: int | None,
        feature_bound: float | None,
        smoothing: Smoothing | None,
        seed: int,
    ) -> None:
        self.observation_dim = check_int("observation_dim", observation_dim, at_least=1)
        if (features is None) != (num_features is None):
            raise InputError(f"features and num_features must be given together, got num_features={num_features}")
        self._features, self._feature_bound, self._given = features, feature_bound, smoothing
        self._network = Network(
            inputs=num_features or observation_dim, outputs=outputs, hidden=tuple(int(width) for width in hidden)
        )
        self._theta = self._network.initial(torch.Generator().manual_seed(seed)).double()

    @property
    def theta(self) -> Float[Tensor, " m"]:
        """A copy of the parameters, in double precision."""
        return self._theta.clone()

    @property
    def num_parameters(self) -> int:
        """``m``."""
        return len(self._theta)

    @property
    def has_given_constants(self) -> bool:
        """Whether its smoothing constants are those that its maker gave and not derived from its form."""
        return self._given is not None

    def at(self: Policy, theta: Float[Tensor, " m"]) -> Policy:
        """This policy at other parameters."""
        if theta.shape != self._theta.shape:
            raise InputError(f"theta must have shape {tuple(self._theta.shape)}, got {tuple(theta.shape)}")
        other = copy.copy(self)
        other._theta = theta.detach().to(self._theta.dtype).cpu().clone()
        return other

    def _bound(self, observation_bound: float) -> float:
        if self._features is None:
            return observation_bound
        if self._feature_bound is None:
            raise InputError("feature_bound must be given to a policy with features, got None; bound each component")
        return self._feature_bound

    def _phi(self, observations: Tensor) -> Tensor:
        return observations if self._features is None else self._features(observations)
