"""The continuous cart-pole as a Gymnasium environment, for learners of other libraries: ``batchwright/CartPoleForce-v0``."""

from typing import Any

import gymnasium
import numpy as np
import torch

from batchwright.rl.cart_pole import (
    HORIZON,
    LARGEST_ANGLE,
    LARGEST_FORCE,
    LARGEST_POSITION,
    LARGEST_START,
    cart_pole_fell,
    cart_pole_step,
)

NAME = "batchwright/CartPoleForce-v0"


class CartPoleForceEnv(gymnasium.Env):
    """One cart-pole with a force of -10 to 10 newton as its action; the same dynamics as `CartPoleSampler`.

    Importing this module registers it: ``gymnasium.make("batchwright.rl.cart_pole_env:batchwright/CartPoleForce-v0")``.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012

    def __init__(self) -> None:
        high = np.array([2 * LARGEST_POSITION, np.inf, 2 * LARGEST_ANGLE, np.inf], dtype=np.float32)
        self.observation_space = gymnasium.spaces.Box(-high, high, dtype=np.float32)
        self.action_space = gymnasium.spaces.Box(-LARGEST_FORCE, LARGEST_FORCE, (1,), dtype=np.float32)
        self._state = torch.zeros(4, dtype=torch.float64)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start with each part of the state uniform in ±0.05."""
        super().reset(seed=seed)
        self._state = torch.from_numpy(self.np_random.uniform(-LARGEST_START, LARGEST_START, size=4))
        return self._state.numpy().astype(np.float32), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Push the cart for one fiftieth of a second; reward 1."""
        force = torch.as_tensor(float(np.asarray(action).reshape(())), dtype=torch.float64)
        self._state = cart_pole_step(self._state, force)
        return self._state.numpy().astype(np.float32), 1.0, bool(cart_pole_fell(self._state)), False, {}


if NAME not in gymnasium.registry:
    gymnasium.register(NAME, entry_point=f"{__name__}:CartPoleForceEnv", max_episode_steps=HORIZON)
