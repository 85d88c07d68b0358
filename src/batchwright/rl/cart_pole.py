"""Cart-pole with a continuous force, many episodes at once in torch.

The classic dynamics of Barto, Sutton and Anderson (1983) as Gymnasium's ``CartPole-v1`` integrates them, with a force between -10 and
10 newton in place of its sign: with ±10 the two are the same. The task of the safe policy gradient papers' code: reward 1 a step, at
most 200 steps, an episode ends at 12 degrees or 2.4 m.
"""

import math
from collections.abc import Iterator

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from batchwright.core.checks import check_int
from batchwright.core.errors import InputError
from batchwright.rl.episodes import EnvironmentSpec, Episodes
from batchwright.rl.policies import Policy

GRAVITY, CART_MASS, POLE_MASS, HALF_LENGTH, STEP_S = 9.8, 1.0, 0.1, 0.5, 0.02
LARGEST_FORCE, LARGEST_POSITION, LARGEST_ANGLE, LARGEST_START = 10.0, 2.4, 12 * math.tau / 360, 0.05
HORIZON = 200


def cart_pole_step(state: Float[Tensor, "*N 4"], force: Float[Tensor, "*N"]) -> Float[Tensor, "*N 4"]:
    """State after one fiftieth of a second (explicit Euler).

    Args:
        state: Position (m), velocity, angle (rad, 0 upright) and angular velocity.
        force: On the cart, in newton; clipped to ±10.
    """
    position, velocity, angle, turning = state.unbind(-1)
    mass, moment = CART_MASS + POLE_MASS, POLE_MASS * HALF_LENGTH
    sine, cosine = angle.sin(), angle.cos()
    push = (force.clamp(-LARGEST_FORCE, LARGEST_FORCE) + moment * turning.square() * sine) / mass
    turning_rate = (GRAVITY * sine - cosine * push) / (HALF_LENGTH * (4 / 3 - POLE_MASS * cosine.square() / mass))
    acceleration = push - moment * turning_rate * cosine / mass
    return torch.stack(
        [
            position + STEP_S * velocity,
            velocity + STEP_S * acceleration,
            angle + STEP_S * turning,
            turning + STEP_S * turning_rate,
        ],
        dim=-1,
    )


def cart_pole_fell(state: Float[Tensor, "*N 4"]) -> Bool[Tensor, "*N"]:
    """Whether the cart is off its track or the pole past 12 degrees."""
    return (state[..., 0].abs() > LARGEST_POSITION) | (state[..., 2].abs() > LARGEST_ANGLE)


class CartPoleSampler:
    """Episodes of cart-pole with a continuous force; a `batchwright.rl.Sampler`.

    All episodes of a chunk begin together, so none is left out or taken for its length. Those that have ended are taken out of the
    computation as it goes on.

    Args:
        discount: Factor a step.
        horizon: Most steps of an episode, after which it is truncated.
        chunk_size: Episodes computed together. Episodes depend on it, as the draws of a chunk follow those of the one before.
        dtype: Of everything in the episodes.
        device: Where to compute.

    Example:
        >>> from batchwright.rl import GaussianPolicy
        >>> episodes = next(CartPoleSampler().collect(GaussianPolicy(4, 1, std=0.1), num_episodes=2, seed=0))
        >>> episodes.observations.shape[2], episodes.terminated.tolist()
        (4, [True, True])
    """

    def __init__(
        self,
        *,
        discount: float = 0.99,
        horizon: int = HORIZON,
        chunk_size: int = 4096,
        dtype: torch.dtype = torch.float32,
        device: str | torch.device = "cpu",
    ) -> None:
        self._chunk_size = check_int("chunk_size", chunk_size, at_least=1)
        self._device, self._dtype = torch.device(device), dtype
        self._spec = EnvironmentSpec(
            name="cart-pole",
            observation_dim=4,
            action_dim=1,
            horizon=horizon,
            discount=discount,
            reward_bound=1.0,
            action_volume=2 * LARGEST_FORCE,
            action_diameter=2 * LARGEST_FORCE,
        )

    @property
    def spec(self) -> EnvironmentSpec:
        """What is known of the environment; velocities have no bound."""
        return self._spec

    def collect(self, policy: Policy, num_episodes: int, seed: int) -> Iterator[Episodes]:
        """Run whole episodes and give them in chunks, in the order in which they began.

        Raises:
            InputError: If the policy is discrete.
        """
        check_int("num_episodes", num_episodes, at_least=1)
        if policy.discrete:
            raise InputError(
                "policy must draw forces for cart-pole, got a discrete one; CartPole-v1 is the discrete environment"
            )
        return self._run(policy, num_episodes, torch.Generator(self._device).manual_seed(seed))

    def _run(self, policy: Policy, num_episodes: int, generator: torch.Generator) -> Iterator[Episodes]:
        for begin in range(0, num_episodes, self._chunk_size):
            yield self._chunk(policy, min(self._chunk_size, num_episodes - begin), generator)

    def _chunk(self, policy: Policy, num: int, generator: torch.Generator) -> Episodes:
        horizon, dtype, device = self._spec.horizon, self._dtype, self._device
        # Time first, so that a step is written to memory that lies together; turned round at the end without a copy.
        observations = torch.zeros(horizon, num, 4, dtype=dtype, device=device)
        actions = torch.zeros(horizon, num, 1, dtype=dtype, device=device)
        lengths = torch.full((num,), horizon, device=device)
        terminated = torch.zeros(num, dtype=torch.bool, device=device)
        state = LARGEST_START * (2 * torch.rand(num, 4, generator=generator, dtype=dtype, device=device) - 1)
        running = torch.arange(num, device=device)
        with torch.no_grad():
            for step in range(horizon):
                observations[step, running] = state
                forces = policy.sample(state, generator)
                actions[step, running] = forces
                state = cart_pole_step(state, forces[:, 0])
                fell = cart_pole_fell(state)
                if bool(fell.any()):
                    terminated[running[fell]] = True
                    lengths[running[fell]] = step + 1
                    state, running = state[~fell], running[~fell]
                    if not len(running):
                        break
        longest = int(lengths.max())
        mask = torch.arange(longest, device=device) < lengths[:, None]
        return Episodes(
            observations=observations[:longest].transpose(0, 1),
            actions=actions[:longest].transpose(0, 1),
            rewards=mask.to(dtype),
            mask=mask,
            terminated=terminated,
            truncated=~terminated,
        )

    def close(self) -> None:
        """Nothing to let go of."""
