"""Noise of a step from the gradients of the ranks of a DDP job, which are the parts of a batch that are there anyway.

Source: McCandlish et al. (2018), arXiv:1812.06162, appendix A.1, with the sizes of ranks allowed to differ.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from batchwright.core.checks import check_choice
from batchwright.core.errors import InputError
from batchwright.core.vectors import sq_norm
from batchwright.measure.running_noise import StepNoise

WEIGHTINGS = ("examples", "ranks")


class RankNoise:
    """Records the squared norms of each rank's own gradient and of the reduced one, bucket by bucket, while DDP reduces.

    The reduced gradient is what it would be without it; two norms a bucket and, in `step_noise`, one reduction of two numbers a
    rank are all it costs. Steps under ``no_sync`` count with the step that ends them.

    Args:
        process_group: Group of the ranks; the default group when left out.
        weighting: What DDP's mean over ranks amounts to. ``ranks``: each rank's loss is its own mean, so ranks weigh the same.
            ``examples``: each rank's loss is its sum times ``ranks / examples of all ranks``, so examples weigh the same. For
            equal sizes both are the same.
        inner: Communication hook that reduces, called as ``inner(process_group, bucket)``; DDP's own mean when left out.

    Attributes:
        recording: Whether norms are taken; false lets gradients be reduced as if it were not there.

    Example (under ``torchrun``; ``noise`` is for one model)::

        noise = RankNoise()
        noise.attach(ddp_model)
        loss.backward()
        running = running.update(noise.step_noise(num_examples=len(batch)))
    """

    def __init__(
        self, process_group: Any = None, *, weighting: str = "ranks", inner: Callable[[Any, Any], Any] | None = None
    ) -> None:
        check_choice("weighting", weighting, WEIGHTINGS)
        if not dist.is_available() or not dist.is_initialized():
            raise InputError("the process group must be initialised before RankNoise; call init_process_group() first")
        self._group = process_group
        self._weighting = weighting
        self._inner = inner
        self._local: list[Tensor] = []
        self._reduced: list[Tensor] = []
        self.recording = True

    def attach(self, model: Any) -> None:
        """Become the communication hook of a `torch.nn.parallel.DistributedDataParallel`; a model takes one, once."""
        # Without annotations, which DDP would compare with types that a build of torch may not have.
        model.register_comm_hook(None, lambda state, bucket: self.reduce(bucket))

    def reduce(self, bucket: Any) -> Any:
        """Reduce a bucket of gradients as the hook does, for those who reduce without DDP.

        Args:
            bucket: Anything with a ``buffer()`` of this rank's gradient, which becomes the mean over ranks.

        Returns:
            A future of the reduced buffer.
        """
        inner: Callable[[Any, Any], Any] = self._inner or mean_over_ranks
        if not self.recording:
            return inner(self._group, bucket).then(lambda future: _value(future))
        self._local.append(sq_norm([bucket.buffer()]))

        def record(future: Any) -> Tensor:
            reduced = _value(future)
            self._reduced.append(sq_norm([reduced]))
            return reduced

        return inner(self._group, bucket).then(record)

    def clear(self) -> None:
        """Forget what was recorded since the last `step_noise`."""
        self._local, self._reduced = [], []

    def step_noise(self, num_examples: float | Tensor) -> StepNoise | None:
        """Unbiased estimates of the step just reduced, the same on all ranks; None where fewer than two ranks had an example.

        Args:
            num_examples: Examples of this rank, at least 1; with ``weighting="examples"`` it may be 0 for a rank that gave zeros, and
                a sum of weights where examples have some: the trace is then that of a unit of weight.

        Raises:
            InputError: If no gradient was reduced since the last call, or a number of examples is out of range.
        """
        if not isinstance(num_examples, Tensor) and not (
            num_examples > 0 or (num_examples == 0 and self._weighting == "examples")
        ):
            raise InputError(f"num_examples must be an integer of at least 1, got {num_examples}")
        if not self._local:
            raise InputError("a gradient must have been reduced since the last step_noise(), got none; call backward()")
        local, reduced = torch.stack(self._local).sum(), float(torch.stack(self._reduced).sum())
        self._local, self._reduced = [], []
        num_ranks = dist.get_world_size(self._group)
        if num_ranks == 1:
            return None
        table = torch.zeros(num_ranks, 2, dtype=torch.float64, device=local.device)
        row = dist.get_rank(self._group)
        table[row, 0], table[row, 1] = local, num_examples
        dist.all_reduce(table, group=self._group)
        rows = table.cpu().numpy()
        if (rows[:, 1] > 0).sum() < 2:
            return None
        return rank_step_noise(rows[:, 0], rows[:, 1], reduced, weighting=self._weighting)


def _value(future: Any) -> Tensor:
    value = future.value()
    found: Tensor = value[0] if isinstance(value, list) else value
    return found


def mean_over_ranks(group: Any, bucket: Any) -> Any:
    """What DDP does with a bucket without a hook, to the last bit: torch's own `allreduce_hook` divides, which for 3 ranks rounds
    otherwise.
    """
    buffer = bucket.buffer().mul_(1.0 / dist.get_world_size(group))
    return dist.all_reduce(buffer, group=group, async_op=True).get_future()


def rank_step_noise(
    local_sq_norms: np.ndarray, num_examples: np.ndarray, reduced_sq_norm: float, *, weighting: str
) -> StepNoise:
    """Unbiased trace and squared gradient norm from the norms of each rank's gradient and of their mean.

    Args:
        local_sq_norms: Squared norm of what each rank gave to the mean.
        num_examples: Examples of each rank.
        reduced_sq_norm: Squared norm of the mean.
        weighting: ``ranks`` or ``examples``, as in `RankNoise`.
    """
    sizes, num_ranks = np.asarray(num_examples, dtype=np.float64), len(num_examples)
    if weighting == "examples":
        there = sizes > 0  # a rank that had no example gave zeros to the mean
        weights = sizes = sizes[there]  # each rank gave sizes * num_ranks / total times its mean gradient
        own = np.asarray(local_sq_norms)[there] * (sizes.sum() / (sizes * num_ranks)) ** 2
        noise_of_mean = 1 / sizes.sum()
    else:
        weights, own = np.ones(num_ranks), np.asarray(local_sq_norms)
        noise_of_mean = float((1 / sizes).sum()) / num_ranks**2
    # E of the weighted mean of own is ||G||^2 + noise_of_part * trace, that of the mean ||G||^2 + noise_of_mean * trace.
    of_parts = float((weights * own).sum() / weights.sum())
    noise_of_part = float((weights / sizes).sum() / weights.sum())
    trace = (of_parts - reduced_sq_norm) / (noise_of_part - noise_of_mean)
    return StepNoise(trace=trace, grad_sq_norm=reduced_sq_norm - noise_of_mean * trace)
