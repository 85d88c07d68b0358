"""Steps of many environments side by side, recorded row by row, and whole episodes cut out of the record.

A step of all environments is written as one row of a short block, contiguous and so cheap. Blocks are turned into a history with one
line an environment, in which an episode is one run of memory: cutting out an episode, padding included, is one copy. So the cost a
step stays a small part of a fast vector environment's own, whatever the lengths of the episodes.
"""

import math
from collections.abc import Iterator

import numpy as np
import torch

from batchwright.core.errors import InputError
from batchwright.rl.episodes import Episodes


class EpisodeTape:
    """Record of the running steps and the episodes cut from it.

    Args:
        num_envs: Environments side by side, ``n``.
        horizon: Most steps of an episode; an environment that runs past it is an error.
        observation_dim: ``S``.
        action_dim: ``A``; 0 for discrete actions.
        gap: Rows from the last step of an episode to the first of the next in the same environment: 2 where the vector
            environment resets at the next step (that row is no step of any episode), 1 where it resets in the same step.
        dtype: Of observations, continuous actions and rewards.
        chunk_bytes: Size of a chunk of episodes, padding included, that is not passed unless one episode is larger.

    Attributes:
        block: Steps that are written before `end_block`.
        observations: Row of each step of the block as a tensor ``(n, S)``, what a policy looks at.
        observation_rows: The same memory as arrays, to write to; so are `action_rows` (``(n, A)`` or ``(n,)``), `reward_rows`,
            `terminated_rows` and `truncated_rows` (``(n,)``).
    """

    def __init__(
        self,
        *,
        num_envs: int,
        horizon: int,
        observation_dim: int,
        action_dim: int,
        gap: int,
        dtype: torch.dtype,
        chunk_bytes: int,
    ) -> None:
        self._horizon, self._gap, self._chunk_bytes = horizon, gap, chunk_bytes
        self.block = max(min(horizon // 8, 64), 4)
        actions = (torch.int64, ()) if action_dim == 0 else (dtype, (action_dim,))
        # An unfinished episode takes at most the horizon; twice that, so that a step is moved once at most.
        self._rows = 2 * (horizon + self.block)
        self._observations = _Track(num_envs, self.block, self._rows, horizon, dtype, (observation_dim,))
        self._actions = _Track(num_envs, self.block, self._rows, horizon, *actions)
        self._rewards = _Track(num_envs, self.block, self._rows, horizon, dtype, ())
        self._terminated = np.zeros((self.block, num_envs), dtype=np.bool_)
        self._truncated = np.zeros((self.block, num_envs), dtype=np.bool_)
        self.observations = list(self._observations.block)
        self.observation_rows = list(self._observations.block.numpy())
        self.action_rows = list(self._actions.block.numpy())
        self.reward_rows = list(self._rewards.block.numpy())
        self.terminated_rows, self.truncated_rows = list(self._terminated), list(self._truncated)

    def begin(self, shares: np.ndarray) -> None:
        """Forget everything; environment ``i`` is to run ``shares[i]`` episodes, and what it runs after them is left out."""
        self._left = shares.astype(np.int64)
        self._to_end = self._left.copy()
        self._starts = np.zeros(len(shares), dtype=np.int64)
        self._length = 0
        self._ended: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    @property
    def finished(self) -> bool:
        """Whether every environment has ended its share of episodes."""
        return not (self._to_end > 0).any()

    def end_block(self) -> Iterator[Episodes]:
        """Take the rows of a block into the history, and give the episodes in it once it is full or all shares have ended."""
        here = slice(self._length, self._length + self.block)
        for track in (self._observations, self._actions, self._rewards):
            track.take_block(here)
        rows, lanes = np.nonzero(self._terminated | self._truncated)
        if len(lanes):
            self._ended.append((lanes, rows + self._length, self._terminated[rows, lanes]))
            self._to_end -= np.bincount(lanes, minlength=len(self._to_end))
        self._length += self.block
        if self.finished or self._length + self.block > self._rows:
            yield from self._cut()

    def _cut(self) -> Iterator[Episodes]:
        """Give the episodes that ended since the last cut and make room for another block."""
        if self._ended:
            lanes, ends, terminated = (np.concatenate(parts) for parts in zip(*self._ended, strict=True))
            # By environment and, as the sort is stable, then by time: an episode begins after the one before it in its line.
            order = np.argsort(lanes, kind="stable")
            lanes, ends, terminated = lanes[order], ends[order], terminated[order]
            first = np.r_[True, lanes[1:] != lanes[:-1]]
            starts = np.empty_like(ends)
            starts[1:] = ends[:-1] + self._gap
            starts[first] = self._starts[lanes[first]]
            place = np.arange(len(lanes))
            rank = place - np.maximum.accumulate(np.where(first, place, 0))
            wanted = rank < self._left[lanes]
            last = np.r_[first[1:], True]
            self._starts[lanes[last]] = ends[last] + self._gap
            self._left -= np.bincount(lanes[wanted], minlength=len(self._left))
            yield from self._chunks(lanes[wanted], starts[wanted], ends[wanted], terminated[wanted])
        self._make_room()

    def _chunks(
        self, lanes: np.ndarray, starts: np.ndarray, ends: np.ndarray, terminated: np.ndarray
    ) -> Iterator[Episodes]:
        """Episodes in groups of like length, so that little is padding, and of limited size."""
        lengths = ends - starts + 1
        if not len(lengths):
            return
        longest = int(lengths.max())
        if longest > self._horizon:
            raise self._too_long(longest)
        # Group k holds lengths above 2^-(k+1) of the longest, up to 2^-k.
        groups = np.log2(longest / lengths).astype(np.int64)
        bytes_a_step = self._observations.bytes_a_step + self._actions.bytes_a_step + self._rewards.bytes_a_step + 1
        for group in range(int(groups.max()) + 1):
            members = np.flatnonzero(groups == group)
            if len(members):
                size = max(self._chunk_bytes // (bytes_a_step * int(lengths[members].max())), 1)
                for begin in range(0, len(members), size):
                    part = members[begin : begin + size]
                    yield self._gather(lanes[part], starts[part], lengths[part], terminated[part])

    def _gather(self, lanes: np.ndarray, starts: np.ndarray, lengths: np.ndarray, terminated: np.ndarray) -> Episodes:
        longest = int(lengths.max())
        return Episodes(
            observations=self._observations.windows(lanes, starts, longest),
            actions=self._actions.windows(lanes, starts, longest),
            rewards=self._rewards.windows(lanes, starts, longest),
            mask=torch.from_numpy(np.arange(longest) < lengths[:, None]),
            # Ended by the rules of the environment wins over cut by time in the same step.
            terminated=torch.from_numpy(terminated),
            truncated=torch.from_numpy(~terminated),
        )

    def _make_room(self) -> None:
        """Move the rows of unfinished episodes to the front; those of environments that are done may be lost."""
        running = self._left > 0
        keep = min(int(self._starts[running].min()), self._length) if running.any() else self._length
        if self._length - keep > self._horizon:
            raise self._too_long(self._length - keep)
        for track in (self._observations, self._actions, self._rewards):
            track.move(slice(keep, self._length))
        self._starts -= keep
        self._length -= keep
        self._ended = []

    def _too_long(self, length: int) -> InputError:
        return InputError(
            f"an episode must end within horizon={self._horizon} steps, got one of at least {length}; "
            "give a larger horizon or set the environment's own limit of time"
        )


class _Track:
    """One quantity a step: the rows of the block ``(block, n, ...)`` and the history with a line an environment."""

    def __init__(
        self, num_envs: int, block: int, rows: int, horizon: int, dtype: torch.dtype, shape: tuple[int, ...]
    ) -> None:
        size = int(np.prod(shape, dtype=np.int64))
        # Rows a cache line longer than they need be: with a power of two, a column of the block would lie in one set of the cache.
        spare = 1 + 64 // (size * dtype.itemsize)
        whole = torch.zeros(block, num_envs + spare, *shape, dtype=dtype)
        self.block = whole[:, :num_envs]
        flat = whole.numpy()
        self._number, self._shape = flat.dtype, shape
        # One item a step, whatever its size: NumPy moves items several times faster than short rows of numbers.
        self.bytes_a_step = flat.itemsize * size
        item = np.dtype((np.void, self.bytes_a_step)) if shape else flat.dtype
        self._block_items = flat.view(item).reshape(block, num_envs + spare)[:, :num_envs]
        # A window that begins near the end of the last line ends in the spare rows; zeros, so that padding is finite.
        self._flat = np.zeros((num_envs * rows + horizon) * size, dtype=self._number).view(item)
        self._lines = self._flat[: num_envs * rows].reshape(num_envs, rows)

    def take_block(self, here: slice) -> None:
        self._lines[:, here] = self._block_items.T

    def windows(self, lanes: np.ndarray, starts: np.ndarray, length: int) -> torch.Tensor:
        """``(N, length, ...)``: what follows each start, to where the longest episode ends."""
        every = np.lib.stride_tricks.sliding_window_view(self._flat, length)
        found = every[lanes * self._lines.shape[1] + starts]
        values = torch.from_numpy(found.view(self._number).reshape(len(lanes), length, *self._shape))
        # A sum is finite only if all its terms are, and takes a fraction of the time of looking at each.
        if self._number.kind == "f" and not math.isfinite(values.sum()):
            raise InputError(
                "observations and rewards of the environment and actions of the policy must be finite numbers, got NaN or "
                "infinity; look at the environment's step function and at the policy's parameters"
            )
        return values

    def move(self, kept: slice) -> None:
        self._lines[:, : kept.stop - kept.start] = self._lines[:, kept]
