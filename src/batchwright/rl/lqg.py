"""Linear-quadratic-Gaussian regulation in boxes, simulated for a whole batch at once.

The next state is ``clip(A s + B clip(a))``, the reward ``-(s' Q s + a' R a)`` with the clipped action, and ``s_0`` is uniform on a box:
the experiment of Papini et al. (2017), where ``A = B = 1`` and ``Q = R = 1/2``, in any dimension.
"""

import math
from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from batchwright.core.checks import check_int, check_number
from batchwright.core.errors import InputError
from batchwright.rl.episodes import EnvironmentSpec, Episodes
from batchwright.rl.gaussian import GaussianPolicy
from batchwright.rl.policies import Policy

# Numbers in one array of a chunk: what a core's cache holds of the few arrays that are alive at once.
CHUNK_NUMBERS = 2**18


class LQG:
    """An environment with known bounds and, unclipped, a return in closed form (`lqg_exact`).

    Args:
        dim: Dimension of state and action.
        horizon: ``H``.
        discount: ``gamma``.
        state_cost: ``Q``: a number times the identity, or a matrix, symmetric and positive semidefinite.
        action_cost: ``R``, likewise.
        dynamics: ``A``, a matrix; the identity where left out.
        control: ``B``, likewise.
        max_state: States are clipped to ``[-max_state, max_state]``.
        max_action: Actions are clipped likewise before they act.
        start: ``s_0`` is uniform on ``[-start, start]``.
        clip_recorded: Record the clipped action in place of the raw one. **A mistake of public code**, kept to reproduce its
            figures: the score of a clipped action biases the gradient.

    Raises:
        InputError: On a bad value.
    """

    def __init__(
        self,
        dim: int = 1,
        *,
        horizon: int = 20,
        discount: float = 0.9,
        state_cost: float | Tensor = 0.5,
        action_cost: float | Tensor = 0.5,
        dynamics: Tensor | None = None,
        control: Tensor | None = None,
        max_state: float = 2.0,
        max_action: float = 2.0,
        start: float = 2.0,
        clip_recorded: bool = False,
    ) -> None:
        self.dim = check_int("dim", dim, at_least=1)
        self.horizon = check_int("horizon", horizon, at_least=1)
        self.discount = check_number("discount", discount, above=0.0, at_most=1.0)
        self.max_state = check_number("max_state", max_state, above=0.0)
        self.max_action = check_number("max_action", max_action, above=0.0)
        self.start = check_number("start", start, above=0.0, at_most=max_state, way_out="the start lies in the box")
        self.state_cost = self._matrix("state_cost", state_cost)
        self.action_cost = self._matrix("action_cost", action_cost)
        self.dynamics = self._matrix("dynamics", 1.0 if dynamics is None else dynamics)
        self.control = self._matrix("control", 1.0 if control is None else control)
        self.clip_recorded = clip_recorded
        # By absolute values, so a bound for matrices with entries off the diagonal too.
        largest = self.state_cost.abs().sum() * max_state**2 + self.action_cost.abs().sum() * max_action**2
        self.spec = EnvironmentSpec(
            name="lqg" if dim == 1 else f"lqg-{dim}",
            observation_dim=dim,
            action_dim=dim,
            horizon=horizon,
            discount=discount,
            reward_bound=float(largest),
            observation_bound=max_state,
            action_volume=(2 * max_action) ** dim,
            action_diameter=2 * max_action * math.sqrt(dim),
        )
        self._plain = all(_is_identity(each) for each in (self.dynamics, self.control))

    def collect(self, policy: Policy, num_episodes: int, seed: int) -> Iterator[Episodes]:
        """Episodes in chunks; see `Sampler.collect`. They have no end of their own, so all are truncated."""
        check_int("num_episodes", num_episodes, at_least=1)
        if policy.discrete:
            raise InputError("policy must give continuous actions for LQG, got a discrete one; take a GaussianPolicy")
        generator = torch.Generator().manual_seed(seed)
        width = max(self.dim, policy.num_parameters)
        size = max(256, CHUNK_NUMBERS // (self.horizon * width))
        for first in range(0, num_episodes, size):
            number = min(size, num_episodes - first)
            states = (2 * torch.rand(number, self.dim, generator=generator) - 1) * self.start
            noise = None
            if isinstance(policy, GaussianPolicy):
                noise = torch.randn(self.horizon, number, self.dim, generator=generator)
            yield self._run(policy, states, noise, generator)

    def returns(
        self, policy: GaussianPolicy, start: Float[Tensor, "N S"], noise: Float[Tensor, "T N S"]
    ) -> Float[Tensor, " N"]:
        """Discounted returns from given starts on given standard normal numbers, to compare policies on the same ones."""
        return self._run(policy, start, noise, torch.Generator()).returns(self.discount)

    def close(self) -> None:
        """There is nothing to let go of."""

    def _run(self, policy: Policy, states: Tensor, noise: Tensor | None, generator: torch.Generator) -> Episodes:
        number = len(states)
        observed = torch.empty(self.horizon, number, self.dim, dtype=states.dtype)
        raw = torch.empty_like(observed)
        clipped = torch.empty_like(observed)
        for t in range(self.horizon):
            observed[t] = states
            if noise is not None and isinstance(policy, GaussianPolicy):
                raw[t] = policy.act(states, noise[t])
            else:
                raw[t] = policy.sample(states, generator)
            torch.clamp(raw[t], -self.max_action, self.max_action, out=clipped[t])
            states = self._next(states, clipped[t])
        rewards = -(_form(observed, self.state_cost) + _form(clipped, self.action_cost))
        return Episodes(
            observations=observed.transpose(0, 1),
            actions=(clipped if self.clip_recorded else raw).transpose(0, 1),
            rewards=rewards.transpose(0, 1),
            mask=torch.ones((), dtype=torch.bool).expand(number, self.horizon),
            terminated=torch.zeros((), dtype=torch.bool).expand(number),
            truncated=torch.ones((), dtype=torch.bool).expand(number),
        )

    def _next(self, states: Tensor, actions: Tensor) -> Tensor:
        if self._plain:
            return (states + actions).clamp_(-self.max_state, self.max_state)
        moved = states @ self.dynamics.T.to(states) + actions @ self.control.T.to(states)
        return moved.clamp_(-self.max_state, self.max_state)

    def _matrix(self, name: str, value: float | Tensor) -> Tensor:
        if isinstance(value, Tensor):
            if value.shape != (self.dim, self.dim):
                raise InputError(f"{name} must have shape ({self.dim}, {self.dim}), got {tuple(value.shape)}")
            return value.detach().double().clone()
        return check_number(name, value) * torch.eye(self.dim, dtype=torch.float64)


def _is_identity(matrix: Tensor) -> bool:
    return bool(torch.equal(matrix, torch.eye(len(matrix), dtype=matrix.dtype)))


def _form(vectors: Tensor, matrix: Tensor) -> Tensor:
    """``v' M v`` of each vector."""
    if torch.equal(matrix, matrix[0, 0] * torch.eye(len(matrix), dtype=matrix.dtype)):
        square = vectors.square()
        total = square[..., 0] if square.shape[-1] == 1 else square.sum(-1)
        return total * float(matrix[0, 0])
    return ((vectors @ matrix.to(vectors)) * vectors).sum(-1)
