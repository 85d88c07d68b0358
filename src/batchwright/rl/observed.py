"""Largest rewards, observations and actions of a sample: the constants of the practice version, which bound nothing.

Source: the public code of Papini et al. (2017) for environments without known bounds. Constants from data void the guarantee.
"""

import math
from dataclasses import dataclass

import torch

from batchwright.rl.episodes import Episodes


@dataclass(frozen=True, kw_only=True, slots=True)
class Observed:
    """What a sample held.

    Attributes:
        reward: Largest absolute reward.
        observation: Largest absolute component of an observation.
        action_low: Smallest of each component of an action; empty where actions are discrete.
        action_high: Largest of each.
    """

    reward: float = 0.0
    observation: float = 0.0
    action_low: tuple[float, ...] = ()
    action_high: tuple[float, ...] = ()

    def with_chunk(self, chunk: Episodes) -> "Observed":
        """With one chunk more; what stands at places where no step is does not count."""
        whole = chunk.whole
        rewards = chunk.rewards if whole else chunk.rewards * chunk.mask
        observations = chunk.observations if whole else chunk.observations * chunk.mask[..., None]
        low: tuple[float, ...] = ()
        high: tuple[float, ...] = ()
        if chunk.actions.is_floating_point():
            actions = chunk.actions if whole else chunk.actions[chunk.mask][None]
            ends = torch.aminmax(actions.reshape(-1, actions.shape[-1]), dim=0)
            low, high = tuple(ends.min.tolist()), tuple(ends.max.tolist())
        return self.joined(
            Observed(reward=_largest(rewards), observation=_largest(observations), action_low=low, action_high=high)
        )

    def joined(self, other: "Observed") -> "Observed":
        """Of both samples."""
        if not self.action_low or not other.action_low:
            low, high = self.action_low or other.action_low, self.action_high or other.action_high
        else:
            low = tuple(map(min, self.action_low, other.action_low))
            high = tuple(map(max, self.action_high, other.action_high))
        return Observed(
            reward=max(self.reward, other.reward),
            observation=max(self.observation, other.observation),
            action_low=low,
            action_high=high,
        )

    @property
    def action_volume(self) -> float:
        """Volume of the box that the actions span."""
        return math.prod(high - low for low, high in zip(self.action_low, self.action_high, strict=True))

    @property
    def action_diameter(self) -> float:
        """Diagonal of that box."""
        return math.dist(self.action_low, self.action_high)


def _largest(values: torch.Tensor) -> float:
    low, high = torch.aminmax(values)
    return max(float(-low), float(high), 0.0)
