"""One environment that runs a fixed number of episodes and then stands still."""

from collections.abc import Callable
from typing import Any

import gymnasium

SHARES = "batchwright_shares"


class FixedShare(gymnasium.Wrapper):
    """Runs its share of episodes; after them a step costs nothing and gives zero reward.

    A vector environment steps all of its environments together, so one that has done its share would otherwise compute episodes
    that nobody takes. Which environment runs which episodes is fixed before any of them begins.

    Args:
        env: The environment.
        index: Its place in ``options["batchwright_shares"]``, the shares that a reset of the vector environment gives. A reset
            without them, as an automatic one, begins the next episode of the share.
    """

    def __init__(self, env: gymnasium.Env, index: int) -> None:
        super().__init__(env)
        self._index = index
        self._left = 0
        self._still: Any = None
        self._take_steps(env.step)

    def _take_steps(self, step: Callable[[Any], Any]) -> None:
        # An attribute of the object comes before the method of its class, so a running environment is stepped without a call of ours
        # in between, which would be a tenth of a fast environment's step.
        vars(self)["step"] = step

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode, or stand still if there is none left."""
        if options is not None and SHARES in options:
            self._left = int(options[SHARES][self._index])
            # An observation is needed even of an environment that runs no episode.
            self._still, info = self.env.reset(seed=seed, options=None)
            self._take_steps(self.env.step if self._left > 0 else self._stand_still)
            return self._still, info
        self._left -= 1
        if self._left <= 0:
            self._take_steps(self._stand_still)
            return self._still, {}
        return self.env.reset(seed=seed, options=options)

    def _stand_still(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return self._still, 0.0, False, False, {}
