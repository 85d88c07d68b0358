"""Vector environments made from a name, a maker of one environment, or taken as they are; and what is wrong with a name."""

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from batchwright.core.checks import check_int
from batchwright.core.errors import InputError, MissingExtraError

# No reward is larger in absolute value, by the page of each environment in Gymnasium's documentation. They hold for the defaults:
# with keywords of its own an environment has no bound here.
REWARD_BOUNDS = {
    "Acrobot": 1.0,
    "Blackjack": 1.0,
    "CartPole": 1.0,
    "CliffWalking": 100.0,
    "FrozenLake": 1.0,
    "MountainCar": 1.0,
    "MountainCarContinuous": 100.0,
    # π² + 0.1 · 8² + 0.001 · 2²
    "Pendulum": 16.2736044,
    "Taxi": 20.0,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class VectorEnvironment:
    """A vector environment with what its sampler has to know.

    Attributes:
        venv: The `gymnasium.vector.VectorEnv`.
        name: In records and errors.
        horizon: Most steps of an episode.
        gap: Rows from the last step of an episode to the first of the next: 2 where the environment resets at the next step.
        masked_reset: Whether the caller resets the environments whose episode ended.
        stands_still: Whether an environment that has done its share stops; otherwise it runs on and nobody looks.
        one_seed: Whether ``reset`` takes one seed for all environments rather than one each.
        reward_bound: ``R`` where it is documented.
    """

    venv: Any
    name: str
    horizon: int
    gap: int
    masked_reset: bool
    stands_still: bool
    one_seed: bool
    reward_bound: float | None


def gymnasium_module() -> Any:
    """Gymnasium, imported when it is first needed.

    Raises:
        MissingExtraError: If it is not installed.
    """
    try:
        return import_module("gymnasium")
    except ImportError as error:
        raise MissingExtraError(
            f"gymnasium must be installed for its environments, got {type(error).__name__}: {error}; pip install 'batchwright[rl]'"
        ) from error


def make_vector_environment(
    env: Any,
    *,
    num_envs: int | None,
    workers: int,
    horizon: int | None,
    wrappers: Sequence[Callable[[Any], Any]],
    env_kwargs: dict[str, Any],
) -> VectorEnvironment:
    """Make what `GymSampler` runs; its arguments are described there.

    Raises:
        InputError: If no environment has that name, if it cannot be made, or if nothing limits its episodes.
        MissingExtraError: If Gymnasium is not installed.
    """
    gymnasium = gymnasium_module()
    if isinstance(env, gymnasium.vector.VectorEnv):
        return _taken_as_it_is(env, horizon)
    if isinstance(env, str):
        spec = _find(gymnasium, env)
        name, limit = spec.id, spec.max_episode_steps
    elif callable(env) and not isinstance(env, gymnasium.Env):
        spec, name = None, getattr(env, "__name__", type(env).__name__)
        limit = None
    else:
        raise InputError(
            "env must be the name of a Gymnasium environment, a function that makes one, or a VectorEnv, "
            f"got {type(env).__name__}; give a function of no arguments, as each environment of a batch is its own"
        )
    if horizon is None:
        horizon = limit if limit is not None else _limit_of_made(env, name, wrappers, env_kwargs)
    vector_form = spec is not None and spec.vector_entry_point is not None and not wrappers and not workers
    if vector_form and not spec.additional_wrappers:
        num_envs = 256 if num_envs is None else num_envs
        venv = _attempt(
            name,
            lambda: gymnasium.make_vec(
                spec, num_envs, vectorization_mode="vector_entry_point", max_episode_steps=horizon, **env_kwargs
            ),
        )
        found = _taken_as_it_is(venv, horizon)
        return VectorEnvironment(
            venv=venv, name=name, horizon=horizon, gap=found.gap, masked_reset=found.masked_reset, stands_still=False,
            one_seed=True, reward_bound=None if env_kwargs else REWARD_BOUNDS.get(_family(name)),
        )  # fmt: skip
    if num_envs is None:
        num_envs = workers or 64
    venv = _attempt(
        name,
        lambda: _vectorize(gymnasium, _maker(gymnasium, env, spec, horizon, wrappers, env_kwargs), num_envs, workers),
    )
    known = spec is not None and not env_kwargs and not wrappers
    return VectorEnvironment(
        venv=venv, name=name, horizon=horizon, gap=1, masked_reset=False, stands_still=True, one_seed=False,
        reward_bound=REWARD_BOUNDS.get(_family(name)) if known else None,
    )  # fmt: skip


def _family(name: str) -> str:
    return name.rsplit("-v", 1)[0]


def _maker(
    gymnasium: Any,
    env: Any,
    spec: Any,
    horizon: int,
    wrappers: Sequence[Callable[[Any], Any]],
    env_kwargs: dict[str, Any],
) -> Callable[[int], Callable[[], Any]]:
    """A function that gives the maker of the environment at each place."""
    from batchwright.rl.fixed_share import FixedShare

    def at(index: int) -> Callable[[], Any]:
        def make() -> Any:
            if spec is None:
                one = gymnasium.wrappers.TimeLimit(env(**env_kwargs), horizon)
            else:
                one = gymnasium.make(spec, max_episode_steps=horizon, **env_kwargs)
            for wrapper in wrappers:
                one = wrapper(one)
            return FixedShare(one, index)

        return make

    return at


def _vectorize(gymnasium: Any, at: Callable[[int], Callable[[], Any]], num_envs: int, workers: int) -> Any:
    kind = gymnasium.vector.AsyncVectorEnv if workers else gymnasium.vector.SyncVectorEnv
    return kind([at(index) for index in range(num_envs)], autoreset_mode=gymnasium.vector.AutoresetMode.SAME_STEP)


def _taken_as_it_is(venv: Any, horizon: int | None) -> VectorEnvironment:
    from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv

    spec = venv.spec
    name = spec.id if spec is not None else type(venv.unwrapped).__name__
    limit = spec.max_episode_steps if spec is not None else None
    if spec is not None:
        limit = spec.kwargs.get("max_episode_steps", limit)
    most = limit if horizon is None else horizon
    if most is None:
        raise _no_limit(name)
    mode = venv.metadata.get("autoreset_mode")
    if not isinstance(mode, AutoresetMode):
        raise InputError(
            f"metadata['autoreset_mode'] of {name} must be a gymnasium.vector.AutoresetMode, got {mode!r}; "
            "which steps are data depends on it"
        )
    return VectorEnvironment(
        venv=venv,
        name=name,
        horizon=int(most),
        gap=2 if mode is AutoresetMode.NEXT_STEP else 1,
        masked_reset=mode is AutoresetMode.DISABLED,
        stands_still=False,
        one_seed=not isinstance(venv.unwrapped, SyncVectorEnv | AsyncVectorEnv),
        reward_bound=None,
    )


def _find(gymnasium: Any, name: str) -> Any:
    module, _, short = name.rpartition(":")
    if module:
        try:
            import_module(module)
        except ImportError as error:
            raise InputError(f"{module} of env={name!r} must be a module that can be imported, got {error}") from error
    spec = gymnasium.registry.get(short)
    if spec is not None:
        return spec
    versions = sorted((known for known in gymnasium.registry if _family(known) == short), reverse=True)
    close = difflib.get_close_matches(short, list(gymnasium.registry), n=3)
    near = " or ".join(versions or [known for known in close if "/" not in known] or close)
    raise InputError(
        f"env must be the name of a registered Gymnasium environment, got {name!r}; "
        + (f"did you mean {near}?" if near else "one that a package registers is written package.module:Name-v0")
    )


def _limit_of_made(env: Any, name: str, wrappers: Sequence[Callable[[Any], Any]], env_kwargs: dict[str, Any]) -> int:
    """The limit of time that a maker of environments, or a wrapper, has set itself."""
    if callable(env):
        one = env(**env_kwargs)
        for wrapper in wrappers:
            one = wrapper(one)
        limit = getattr(one.spec, "max_episode_steps", None) if one.spec is not None else None
        one.close()
        if limit is not None:
            return int(limit)
    raise _no_limit(name)


def _no_limit(name: str) -> InputError:
    return InputError(f"horizon must be given for {name}, which has no limit of time of its own; give horizon=200, say")


def _attempt(name: str, make: Callable[[], Any]) -> Any:
    try:
        return make()
    except Exception as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"env must be one that can be made here, got {name}, which cannot: {first}") from error


def check_counts(num_envs: int | None, workers: int, horizon: int | None) -> None:
    """Check what `GymSampler` is given.

    Raises:
        InputError: If a count is not a positive integer.
    """
    if num_envs is not None:
        check_int("num_envs", num_envs, at_least=1)
    check_int("workers", workers, at_least=0, way_out="0 steps the environments in this process")
    if horizon is not None:
        check_int("horizon", horizon, at_least=1)
