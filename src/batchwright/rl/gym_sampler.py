"""Whole episodes of any Gymnasium environment, through its vector interface.

What Gymnasium calls a vector environment steps ``n`` environments together and resets each when its episode ends. Three things make a
fair sample of whole episodes out of that. Each environment has a **fixed share** of the episodes, set before any of them begins: to
take the first ones that finish would take the short ones too often. Steps at which an environment resets (``AutoresetMode.NEXT_STEP``)
are no data. And the action that is recorded is the one that the policy drew; only the environment gets the clipped one.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from batchwright.core.checks import check_int
from batchwright.core.errors import InputError
from batchwright.rl.episode_tape import EpisodeTape
from batchwright.rl.episodes import EnvironmentSpec, Episodes
from batchwright.rl.gym_spaces import code_actions, code_observations
from batchwright.rl.gym_vector import check_counts, make_vector_environment
from batchwright.rl.policies import Policy


class GymSampler:
    """Episodes of a Gymnasium environment; a `batchwright.rl.Sampler`.

    The environment's own vector form is used where it has one (``vector_entry_point``), `gymnasium.vector.SyncVectorEnv` otherwise,
    and `gymnasium.vector.AsyncVectorEnv` where ``workers`` are asked for: a process each, which pays where a step takes longer than
    about a tenth of a millisecond.

    Episodes are a function of the policy's parameters, ``num_episodes``, ``seed`` **and** ``num_envs``; not of ``chunk_bytes``, nor of
    what was collected before, nor of whether the environments run in this process or in workers. They come in the order in which
    they end, so the first chunks hold the shorter ones: only all chunks together are a fair sample.

    Args:
        env: Name of a registered environment, ``package.module:Name-v0`` for one that a module registers; or a function that makes
            one environment; or a `gymnasium.vector.VectorEnv`.
        discount: Factor a step, in (0, 1].
        horizon: Most steps of an episode, after which it is truncated; the environment's own limit by default.
        num_envs: Environments side by side; 256 for a vector form, 64 otherwise, or the number of workers.
        workers: Processes, one an environment; 0 for none.
        reward_bound: No reward is larger in absolute value. By default the documented bound of Gymnasium's small environments, and
            not known for others.
        observation_bound: No component of an observation is larger in absolute value; by default what the space says.
        wrappers: Applied in order to each environment, as `gymnasium.wrappers.FlattenObservation`.
        env_kwargs: Keywords of the environment.
        dtype: Of observations, continuous actions and rewards.
        chunk_bytes: Size of a chunk of episodes with its padding.

    Raises:
        InputError: If the environment is not known or cannot be made, if its spaces are not supported, or if nothing limits its
            episodes.
        MissingExtraError: If Gymnasium is not installed.

    Example:
        >>> sampler = GymSampler("CartPole-v1", discount=0.99)
        >>> sampler.spec.num_actions
        2
        >>> sampler.close()
    """

    def __init__(
        self,
        env: Any,
        *,
        discount: float = 0.99,
        horizon: int | None = None,
        num_envs: int | None = None,
        workers: int = 0,
        reward_bound: float | None = None,
        observation_bound: float | None = None,
        wrappers: Sequence[Callable[[Any], Any]] = (),
        env_kwargs: dict[str, Any] | None = None,
        dtype: torch.dtype = torch.float32,
        chunk_bytes: int = 2**25,
    ) -> None:
        check_counts(num_envs, workers, horizon)
        self._chunk_bytes = check_int("chunk_bytes", chunk_bytes, at_least=1)
        self._dtype = dtype
        self._made = make_vector_environment(
            env, num_envs=num_envs, workers=workers, horizon=horizon, wrappers=wrappers, env_kwargs=env_kwargs or {}
        )
        self._open, self._turn = True, 0
        self._tape: EpisodeTape | None = None
        try:
            name, venv = self._made.name, self._made.venv
            self._observations = code_observations(name, venv.single_observation_space)
            self._actions = code_actions(name, venv.single_action_space)
            self._spec = EnvironmentSpec(
                name=name,
                observation_dim=self._observations.dim,
                action_dim=self._actions.dim,
                num_actions=self._actions.num,
                horizon=self._made.horizon,
                discount=discount,
                reward_bound=self._made.reward_bound if reward_bound is None else reward_bound,
                observation_bound=self._observations.bound if observation_bound is None else observation_bound,
                action_volume=self._actions.volume,
                action_diameter=self._actions.diameter,
            )
        except Exception:
            self.close()
            raise

    @property
    def spec(self) -> EnvironmentSpec:
        """What is known of the environment."""
        return self._spec

    @property
    def num_envs(self) -> int:
        """Environments side by side."""
        return int(self._made.venv.num_envs)

    def collect(self, policy: Policy, num_episodes: int, seed: int) -> Iterator[Episodes]:
        """Run whole episodes and give them in chunks of bounded memory, as `batchwright.rl.Sampler` says.

        The environment at place ``i`` runs ``num_episodes // num_envs`` of them, the first ``num_episodes % num_envs`` places one
        more.

        Raises:
            InputError: If the policy's actions do not fit the environment, if an episode runs past the horizon, or if an
                observation or a reward is not finite.
        """
        check_int("num_episodes", num_episodes, at_least=1)
        check_int("seed", seed, at_least=0)
        if not self._open:
            raise InputError(
                f"the sampler of {self._spec.name} must be open to collect, got a closed one; make another"
            )
        if policy.discrete != (self._actions.dim is None):
            raise InputError(
                f"policy must have {'continuous' if policy.discrete else 'discrete'} actions for {self._spec.name}, got the other "
                f"kind; use a {'Gaussian' if policy.discrete else 'softmax'} policy"
            )
        return self._run(policy, num_episodes, seed)

    def _run(self, policy: Policy, num_episodes: int, seed: int) -> Iterator[Episodes]:
        made, num_envs = self._made, self.num_envs
        shares = np.full(num_envs, num_episodes // num_envs)
        shares[: num_episodes % num_envs] += 1
        tape = self._begin_tape(shares)
        # Streams that are apart for every seed: with seed + i, as Gymnasium does by default, seeds 0 and 1 would share most episodes.
        *seeds, policy_seed = (int(word) for word in np.random.SeedSequence(seed).generate_state(num_envs + 1))
        generator = torch.Generator().manual_seed(policy_seed)
        options = {"batchwright_shares": shares.tolist()} if made.stands_still else None
        observations, _ = made.venv.reset(seed=seeds[0] if made.one_seed else seeds, options=options)
        self._turn += 1
        turn = self._turn
        while not tape.finished:
            observations = self._record_block(policy, generator, tape, observations)
            yield from tape.end_block()
            if turn != self._turn:
                raise InputError(
                    f"episodes of one sampler of {self._spec.name} must be collected one batch after the other, got another "
                    "collect before this one ended; make a second sampler"
                )

    def _begin_tape(self, shares: np.ndarray) -> EpisodeTape:
        # Memory is kept from one batch to the next: to allot it takes as long as many steps.
        if self._tape is None:
            self._tape = EpisodeTape(
                num_envs=self.num_envs,
                horizon=self._made.horizon,
                observation_dim=self._observations.dim,
                action_dim=self._actions.dim or 0,
                gap=self._made.gap,
                dtype=self._dtype,
                chunk_bytes=self._chunk_bytes,
            )
        self._tape.begin(shares)
        return self._tape

    def _record_block(
        self, policy: Policy, generator: torch.Generator, tape: EpisodeTape, observations: np.ndarray
    ) -> np.ndarray:
        write, prepare = self._observations.write, self._actions.prepare
        step, sample = self._made.venv.step, policy.sample
        masked_reset = self._made.masked_reset
        expected = (self.num_envs,) if self._actions.dim is None else (self.num_envs, self._actions.dim)
        rows = zip(
            tape.observations, tape.observation_rows, tape.action_rows, tape.reward_rows, tape.terminated_rows,
            tape.truncated_rows, strict=True,
        )  # fmt: skip
        with torch.no_grad():
            for seen, seen_row, action_row, reward_row, terminated_row, truncated_row in rows:
                write(observations, seen_row)
                drawn = sample(seen, generator)
                actions = drawn.numpy()
                if actions.shape != expected:
                    raise InputError(f"policy must draw actions of shape {expected}, got {actions.shape}")
                action_row[...] = actions
                observations, reward_row[...], terminated_row[...], truncated_row[...], _ = step(prepare(actions))
                if masked_reset and (ended := terminated_row | truncated_row).any():
                    observations, _ = self._made.venv.reset(options={"reset_mask": ended})
        return observations

    def close(self) -> None:
        """Close the environments and end the workers."""
        if self._open:
            self._open = False
            self._made.venv.close()

    def __enter__(self) -> "GymSampler":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
