"""Batches of episodes as tensors, and what gives them: the seam between environments and everything else in this room."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from batchwright.core.checks import check_int, check_number
from batchwright.core.errors import InputError
from batchwright.rl.policies import Policy


@dataclass(frozen=True, kw_only=True, slots=True)
class Episodes:
    """``N`` whole episodes of at most ``T`` steps, padded to the right.

    A step ``t`` of episode ``i`` exists where ``mask[i, t]``; all that stands at other places is finite and has no meaning. The
    mask of an episode is a run of true followed by a run of false.

    Attributes:
        observations: ``(N, T, S)``, what the policy saw before each action.
        actions: ``(N, T, A)``, or integers ``(N, T)`` of a discrete policy; **as the policy drew them, before any clipping**: the
            score of a clipped action gives a biased gradient.
        rewards: ``(N, T)``, not discounted.
        mask: ``(N, T)``.
        terminated: ``(N,)``, the episode ended by the rules of the environment, after which nothing more is earned.
        truncated: ``(N,)``, it was cut at the horizon, or by the environment's own limit of time. An episode is one or the
            other, never both.
    """

    observations: Float[Tensor, "N T S"]
    actions: Shaped[Tensor, "N T *A"]
    rewards: Float[Tensor, "N T"]
    mask: Bool[Tensor, "N T"]
    terminated: Bool[Tensor, " N"]
    truncated: Bool[Tensor, " N"]

    def __post_init__(self) -> None:
        shape = tuple(self.rewards.shape)
        for name in ("observations", "actions", "mask"):
            found = tuple(getattr(self, name).shape[:2])
            if found != shape:
                raise InputError(f"{name} must begin with the shape of rewards {shape}, got {found}")
        for name in ("terminated", "truncated"):
            if tuple(getattr(self, name).shape) != shape[:1]:
                raise InputError(f"{name} must hold one value an episode ({shape[0]}), got {len(getattr(self, name))}")

    def __len__(self) -> int:
        return self.rewards.shape[0]

    @property
    def horizon(self) -> int:
        """Padded length ``T``."""
        return int(self.rewards.shape[1])

    @property
    def num_steps(self) -> int:
        """Steps that exist."""
        return self.mask.numel() if self.whole else int(self.mask.sum())

    @property
    def whole(self) -> bool:
        """Whether every step exists."""
        # One expanded value stands for all of them in environments that never end early.
        return bool(self.mask[:1, :1].all() if not any(self.mask.stride()) else self.mask.all())

    def returns(self, discount: float) -> Float[Tensor, " N"]:
        """Discounted return of each episode, its first reward with weight one."""
        weights = discount ** torch.arange(self.horizon, dtype=self.rewards.dtype, device=self.rewards.device)
        return (self.rewards if self.whole else self.rewards * self.mask) @ weights


@dataclass(frozen=True, kw_only=True, slots=True)
class EnvironmentSpec:
    """What is known of an environment; a bound that is not known is None, never a guess.

    Attributes:
        name: In records.
        observation_dim: ``S``.
        action_dim: ``A`` of continuous actions; None where they are discrete.
        num_actions: Number of discrete actions; None where they are continuous.
        horizon: Most steps of an episode, ``H``.
        discount: Factor a step, in (0, 1].
        reward_bound: ``R``: no reward is larger in absolute value.
        observation_bound: No component of an observation is larger in absolute value.
        action_volume: Volume ``|A|`` of the set of actions that the environment takes, as the constant of Papini et al. (2017) has it.
        action_diameter: Euclidean diameter of that set.
    """

    name: str
    observation_dim: int
    action_dim: int | None = None
    num_actions: int | None = None
    horizon: int
    discount: float
    reward_bound: float | None = None
    observation_bound: float | None = None
    action_volume: float | None = None
    action_diameter: float | None = None

    def __post_init__(self) -> None:
        check_int("observation_dim", self.observation_dim, at_least=1)
        check_int("horizon", self.horizon, at_least=1)
        check_number("discount", self.discount, above=0.0, at_most=1.0)
        if (self.action_dim is None) == (self.num_actions is None):
            raise InputError(
                f"one of action_dim (continuous) and num_actions (discrete) must be given, got {self.action_dim} and {self.num_actions}"
            )
        for name in ("reward_bound", "observation_bound", "action_volume", "action_diameter"):
            if getattr(self, name) is not None:
                check_number(name, getattr(self, name), above=0.0)


@runtime_checkable
class Sampler(Protocol):
    """Gives episodes of one environment."""

    @property
    def spec(self) -> EnvironmentSpec:
        """What is known of the environment."""
        ...

    def collect(self, policy: Policy, num_episodes: int, seed: int) -> Iterator[Episodes]:
        """Run ``num_episodes`` whole episodes and give them in chunks of bounded memory.

        The episodes are a function of the policy's parameters, ``num_episodes`` and ``seed`` alone, down to the bit: called twice
        it gives them twice, whatever was collected between. Each environment that runs beside others has a fixed share of the
        episodes (the first that finish are not a fair sample). Each chunk's padded length may be shorter than the horizon.

        Args:
            policy: Draws the actions; its ``sample`` gets a generator seeded from ``seed``.
            num_episodes: How many, at least 1.
            seed: Of the environment and of the policy's draws.
        """
        ...

    def close(self) -> None:
        """Let go of processes and environments; may be called twice."""
        ...
