"""Gaussian policy: mean linear in the features or a small network, standard deviation fixed or learned.

Source: Papini et al. (2022), table of smoothing constants; the extension to several actions and to one coordinate is derived in
`GaussianPolicy.smoothing`.
"""

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from batchwright.core.checks import check_int, check_number
from batchwright.core.errors import InputError
from batchwright.rl.own_policy import OwnPolicy
from batchwright.rl.policies import Smoothing

# Of the logarithm of a standard deviation: E|x²-1|, E(x²-1)² and the second derivative's bound E 2x², for x ~ N(0, 1).
LOG_STD = Smoothing(psi=4 / math.sqrt(2 * math.pi * math.e), kappa=2.0, xi=2.0)


class GaussianPolicy(OwnPolicy):
    """``a ~ N(mean(s), diag(std²))``, never clipped: an environment may clip what it gets, the score is of the raw draw.

    The parameters are those of the mean and then, with ``learn_std``, one logarithm of the standard deviation an action.

    Args:
        observation_dim: ``S``.
        action_dim: ``A``.
        std: Standard deviation, one number or one an action; the starting value where it is learned.
        hidden: Widths of tanh layers of the mean; none: the mean is ``W phi(s)``, without a bias, and starts at zero.
        learn_std: Whether ``log std`` is a parameter too.
        features: ``phi``, from ``(*N, S)`` to ``(*N, F)``; the observation itself where left out.
        num_features: ``F``; needed with ``features``.
        feature_bound: Bound on each component of ``features``; needed for smoothing constants where there are features.
        smoothing: Constants, where the caller knows them; needed for a guarantee with a network, which has none of its own.
        seed: Of a network's first weights.

    Raises:
        InputError: On a bad value.

    Example:
        >>> policy = GaussianPolicy(1, 1, std=0.5)
        >>> policy.at(torch.tensor([2.0])).score(torch.tensor([[1.0]]), torch.tensor([[2.5]]))
        tensor([[2.]])
    """

    discrete = False

    def __init__(
        self,
        observation_dim: int,
        action_dim: int,
        *,
        std: float | Sequence[float] = 1.0,
        hidden: Sequence[int] = (),
        learn_std: bool = False,
        features: Callable[[Tensor], Tensor] | None = None,
        num_features: int | None = None,
        feature_bound: float | None = None,
        smoothing: Smoothing | None = None,
        seed: int = 0,
    ) -> None:
        self.action_dim = check_int("action_dim", action_dim, at_least=1)
        super().__init__(
            observation_dim,
            action_dim,
            hidden=hidden,
            features=features,
            num_features=num_features,
            feature_bound=feature_bound,
            smoothing=smoothing,
            seed=seed,
        )
        stds = [float(std)] * action_dim if isinstance(std, int | float) else [float(each) for each in std]
        if len(stds) != action_dim:
            raise InputError(f"std must hold one number or one an action ({action_dim}), got {len(stds)}")
        for each in stds:
            check_number("std", each, above=0.0)
        self.learn_std = learn_std
        self._log_std = torch.tensor(stds, dtype=torch.float64).log()
        if learn_std:
            self._theta = torch.cat([self._theta, self._log_std])

    @property
    def std(self) -> Float[Tensor, " A"]:
        """Standard deviation of each action."""
        return (self._theta[-self.action_dim :] if self.learn_std else self._log_std).exp()

    def mean(self, observations: Float[Tensor, "*N S"]) -> Float[Tensor, "*N A"]:
        """Mean action."""
        x = self._phi(observations)
        return self._network.forward(self._mean_theta(x), x)

    def sample(self, observations: Float[Tensor, "*N S"], generator: torch.Generator) -> Float[Tensor, "*N A"]:
        """Raw draws."""
        shape = (*observations.shape[:-1], self.action_dim)
        noise = torch.randn(shape, generator=generator, dtype=observations.dtype, device=generator.device)
        return self.act(observations, noise.to(observations.device))

    def act(self, observations: Float[Tensor, "*N S"], noise: Float[Tensor, "*N A"]) -> Float[Tensor, "*N A"]:
        """Actions for given standard normal numbers, so that two policies can be compared on the same ones."""
        return torch.addcmul(self.mean(observations), noise, self.std.to(noise))

    def log_prob(self, observations: Float[Tensor, "*N S"], actions: Float[Tensor, "*N A"]) -> Float[Tensor, "*N"]:
        """Logarithm of the density of each raw action."""
        std = self.std.to(actions)
        standard = (actions - self.mean(observations)) / std
        return (-0.5 * standard.square() - std.log() - 0.5 * math.log(2 * math.pi)).sum(-1)

    def score(self, observations: Float[Tensor, "*N S"], actions: Float[Tensor, "*N A"]) -> Float[Tensor, "*N m"]:
        """Gradient of `log_prob` by the parameters, one a row."""
        x = self._phi(observations)
        theta, std = self._mean_theta(x), self.std.to(x)
        away = actions - self._network.forward(theta, x)
        found = self._network.pullback(theta, x, away / std.square())
        return torch.cat([found, (away / std).square() - 1], dim=-1) if self.learn_std else found

    def smoothing(self, observation_bound: float) -> Smoothing | None:
        """Constants of the whole gradient; None for a network, or a learned standard deviation, unless they were given.

        With ``F`` features, each at most ``b`` in absolute value, ``M = b sqrt(F)`` bounds their norm. For ``A`` actions the score
        has the norm ``‖x‖ ‖phi‖ / std`` with ``x`` standard normal in ``A`` dimensions: ``psi`` holds ``E ‖x‖`` and ``kappa`` the
        factor ``A``; one action gives the table of the paper.
        """
        if self._given is not None or self._network.hidden or self.learn_std:
            return self._given
        bound = self._bound(observation_bound) * self._network.inputs**0.5
        return self._linear(bound, self.action_dim)

    def coordinate_smoothing(self, observation_bound: float) -> Smoothing | None:
        """Constants for a move of one coordinate alone from these parameters; those given bound them where there are any.

        One weight of the mean moves one action by one feature, so neither the number of actions nor that of features counts. A learned
        standard deviation stands still while a weight moves: the present one counts.
        """
        if self._given is not None or self._network.hidden:
            return self._given
        one = self._linear(self._bound(observation_bound), 1)
        if not self.learn_std:
            return one
        return Smoothing(psi=max(one.psi, LOG_STD.psi), kappa=max(one.kappa, LOG_STD.kappa), xi=max(one.xi, LOG_STD.xi))

    def _linear(self, bound: float, num_actions: int) -> Smoothing:
        ratio = bound / float(self.std.min())
        norm = math.sqrt(2) * math.exp(math.lgamma((num_actions + 1) / 2) - math.lgamma(num_actions / 2))
        return Smoothing(psi=norm * ratio, kappa=num_actions * ratio**2, xi=ratio**2, sub_gaussian=ratio)

    def _mean_theta(self, like: Tensor) -> Tensor:
        return (self._theta[: -self.action_dim] if self.learn_std else self._theta).to(like)
