"""Environments by name: those that are built in, and every registered one of Gymnasium."""

import difflib
import re
from typing import Any

from batchwright.core.errors import InputError
from batchwright.rl.cart_pole import HORIZON, CartPoleSampler
from batchwright.rl.episodes import Sampler
from batchwright.rl.gym_sampler import GymSampler
from batchwright.rl.lqg import LQG

BUILT_IN = {
    "cart-pole": "cart-pole with a continuous force, 200 steps, in torch",
    "lqg": "linear-quadratic regulation in one dimension, 20 steps, in torch; lqg-2, lqg-5, ... in more",
}


def make_sampler(
    name: str,
    *,
    discount: float | None = None,
    horizon: int | None = None,
    num_envs: int | None = None,
    workers: int = 0,
    env_kwargs: dict[str, Any] | None = None,
) -> Sampler:
    """Make what gives the episodes of an environment.

    Args:
        name: ``lqg``, ``lqg-D`` in D dimensions, ``cart-pole``, or what `GymSampler` takes for a name.
        discount: Factor a step; 0.9 of LQG and 0.99 of the others where left out.
        horizon: Most steps of an episode; the environment's own where left out.
        num_envs: Environments side by side, of a Gymnasium environment.
        workers: Processes, of a Gymnasium environment.
        env_kwargs: Keywords of a Gymnasium environment.

    Raises:
        InputError: If no environment has that name, or an option does not go with it.
        MissingExtraError: If it is one of Gymnasium's, which is not installed.

    Example:
        >>> make_sampler("lqg-2").spec.action_dim
        2
    """
    dimensions = re.fullmatch(r"lqg(?:-([1-9]\d*))?", name)
    if dimensions is None and name not in BUILT_IN:
        try:
            return GymSampler(
                name,
                discount=0.99 if discount is None else discount,
                horizon=horizon,
                num_envs=num_envs,
                workers=workers,
                env_kwargs=env_kwargs,
            )
        except InputError as error:
            near = difflib.get_close_matches(name.lower(), list(BUILT_IN), n=1, cutoff=0.7)
            if near and "must be the name" in str(error) and "did you mean" not in str(error):
                raise InputError(
                    f"env must be {' or '.join(BUILT_IN)} or a Gymnasium name, got {name!r}; did you mean {near[0]}?"
                ) from None
            raise
    given = {"num_envs": num_envs, "workers": workers or None, "env_kwargs": env_kwargs or None}
    extra = [option for option, value in given.items() if value is not None]
    if extra:
        raise InputError(
            f"{', '.join(extra)} must go with a Gymnasium environment, got {name}, which computes its episodes at once"
        )
    if dimensions is not None:
        return LQG(int(dimensions[1] or 1), horizon=horizon or 20, discount=0.9 if discount is None else discount)
    return CartPoleSampler(horizon=horizon or HORIZON, discount=0.99 if discount is None else discount)
