"""Softmax policy over discrete actions: preferences linear in the features or a small network, with a temperature.

Source: Papini et al. (2022), table of smoothing constants.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from batchwright.core.checks import check_int, check_number
from batchwright.rl.own_policy import OwnPolicy
from batchwright.rl.policies import Smoothing


class SoftmaxPolicy(OwnPolicy):
    """``P(a | s) = exp(h_a(s) / tau) / sum_b exp(h_b(s) / tau)``.

    Args:
        observation_dim: ``S``.
        num_actions: Number of actions.
        temperature: ``tau``.
        hidden: Widths of tanh layers of the preferences; none: ``h = W phi(s)``, without a bias, starting at zero.
        features: ``phi``, from ``(*N, S)`` to ``(*N, F)``; the observation itself where left out.
        num_features: ``F``; needed with ``features``.
        feature_bound: Bound on each component of ``features``; needed for smoothing constants where there are features.
        smoothing: Constants, where the caller knows them; needed for a guarantee with a network, which has none of its own.
        seed: Of a network's first weights.

    Raises:
        InputError: On a bad value.
    """

    discrete = True

    def __init__(
        self,
        observation_dim: int,
        num_actions: int,
        *,
        temperature: float = 1.0,
        hidden: Sequence[int] = (),
        features: Callable[[Tensor], Tensor] | None = None,
        num_features: int | None = None,
        feature_bound: float | None = None,
        smoothing: Smoothing | None = None,
        seed: int = 0,
    ) -> None:
        self.num_actions = check_int("num_actions", num_actions, at_least=2)
        self.temperature = check_number("temperature", temperature, above=0.0)
        super().__init__(
            observation_dim,
            num_actions,
            hidden=hidden,
            features=features,
            num_features=num_features,
            feature_bound=feature_bound,
            smoothing=smoothing,
            seed=seed,
        )

    def sample(self, observations: Float[Tensor, "*N S"], generator: torch.Generator) -> Int[Tensor, "*N"]:
        """One action an observation, by inversion of the distribution function: one uniform number each."""
        cumulative = self._log_probs(observations).exp().cumsum(-1)
        shape = (*observations.shape[:-1], 1)
        uniform = torch.rand(shape, generator=generator, dtype=observations.dtype, device=generator.device)
        # The last sum may fall short of one by a rounding.
        return (uniform.to(cumulative.device) >= cumulative[..., :-1]).sum(-1)

    def log_prob(self, observations: Float[Tensor, "*N S"], actions: Int[Tensor, "*N"]) -> Float[Tensor, "*N"]:
        """Logarithm of the probability of each action."""
        return self._log_probs(observations).gather(-1, actions[..., None])[..., 0]

    def score(self, observations: Float[Tensor, "*N S"], actions: Int[Tensor, "*N"]) -> Float[Tensor, "*N m"]:
        """Gradient of `log_prob` by the parameters, one a row."""
        x = self._phi(observations)
        theta = self._theta.to(x)
        probabilities = (self._network.forward(theta, x) / self.temperature).softmax(-1)
        taken = torch.nn.functional.one_hot(actions.long(), self.num_actions).to(x)
        return self._network.pullback(theta, x, (taken - probabilities) / self.temperature)

    def smoothing(self, observation_bound: float) -> Smoothing | None:
        """Constants of the whole gradient; None for a network unless they were given.

        With ``F`` features, each at most ``b`` in absolute value, ``M = b sqrt(F)`` bounds their norm.
        """
        if self._given is not None or self._network.hidden:
            return self._given
        ratio = self._bound(observation_bound) * self._network.inputs**0.5 / self.temperature
        return Smoothing(psi=2 * ratio, kappa=4 * ratio**2, xi=2 * ratio**2, score_bound=2 * ratio)

    def coordinate_smoothing(self, observation_bound: float) -> Smoothing | None:
        """Constants for a move of one coordinate alone; those given bound them where there are any.

        One coordinate's score is ``(1[a = j] - p) b / tau``, so with ``p`` the probability of that action its mean absolute value is
        ``2 p (1 - p)``, its mean square and the second derivative ``p (1 - p)``, and ``p (1 - p)`` is at most a quarter.
        """
        if self._given is not None or self._network.hidden:
            return self._given
        ratio = self._bound(observation_bound) / self.temperature
        return Smoothing(psi=ratio / 2, kappa=ratio**2 / 4, xi=ratio**2 / 4, score_bound=ratio)

    def _log_probs(self, observations: Tensor) -> Tensor:
        x = self._phi(observations)
        return (self._network.forward(self._theta.to(x), x) / self.temperature).log_softmax(-1)
