"""The gradient of one step's whole batch, from all ranks; where memory is too small on one, all try again with smaller micro-batches.

Each rank takes its part of the batch, and keeps its gradient to itself until all have settled that everyone got through. Only then are
gradients reduced. Under FSDP a forward pass waits for the other ranks, so there the run ends instead, and goes on from its last
checkpoint with the smaller micro-batch, which was noted.
"""

import math
import random
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor, nn

from batchwright.core.batches import Batch, to_device
from batchwright.core.errors import DoesNotFitError
from batchwright.core.objectives import accumulate_gradient
from batchwright.core.preserve import RandomState
from batchwright.data.access import fetch
from batchwright.tasks.task import Task
from batchwright.training.gradient_noise import step_weights
from batchwright.training.group import Settled, in_step
from batchwright.training.ranks import Ranks
from batchwright.training.retry import ONE_MUST_FIT
from batchwright.training.split import micro_batch_sizes, share_of
from batchwright.training.step_measures import StepMeasures


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchResult:
    """What a step's batch gave; its gradient is in ``.grad``, the same on all ranks.

    Attributes:
        loss: Mean over the whole batch, on the device.
        batch: This rank's part; None without an example.
        micro_batch_size: Most examples in one forward pass from now on.
        asked: Whether a rank was asked to stop.
    """

    loss: Tensor
    batch: Batch
    micro_batch_size: int
    asked: bool


class BatchGradient:
    """Makes the gradients of a run.

    Args:
        task: What is trained.
        model: Its model.
        optimizer: Whose gradients are dropped before each try.
        ranks: The processes.
        measures: Told of each micro-batch of a measured step.
        seed: Of the run.
        on_too_large: Called, where a run must end for it, with the micro-batch that would do.
        noise_batch_size: Multiplicative noise gives gradients the covariance of a batch of this size; None for none.
    """

    def __init__(
        self,
        task: Task,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        ranks: Ranks,
        measures: StepMeasures,
        *,
        seed: int,
        on_too_large: Callable[[int], None],
        noise_batch_size: int | None = None,
    ) -> None:
        self._task, self._model, self._optimizer = task, model, optimizer
        self._ranks, self._measures, self._seed, self._on_too_large = ranks, measures, seed, on_too_large
        self._noise_batch_size = noise_batch_size
        # A CPU knows no out-of-memory error, and what a second try needs is 5 % of the smallest steps there.
        self.retries = ranks.device.type != "cpu" or ranks.world_size > 1
        self._random_state: RandomState | None = None
        self._buffers: list[tuple[Tensor, Tensor]] = []

    def make(
        self,
        indices: Int[Tensor, " B"],
        *,
        step: int,
        micro_batch_size: int,
        measured: bool,
        asked: Callable[[], bool],
    ) -> BatchResult:
        """The gradient of the mean loss over the examples at ``indices``, in ``.grad``.

        Args:
            indices: Of the whole batch, the same on all ranks.
            step: Number of the step; under several ranks random numbers depend on it, the seed and the rank alone.
            micro_batch_size: Most examples in one forward pass of a rank.
            measured: Whether the step is to be measured, if it can be.
            asked: Whether this rank was asked to stop.

        Raises:
            DoesNotFitError: If not even one example fits; under FSDP, if a micro-batch did not.
            RankError: If another rank failed.
        """
        while True:
            self._begin(step)
            loss, batch, error, failed = None, None, None, 0
            try:
                with in_step() if self._ranks.sharded else nullcontext():
                    batch, loss = self._pass(indices, step, micro_batch_size, measured)
            except torch.OutOfMemoryError:
                if not self.retries:
                    raise
                # Of the error nothing is kept: it holds the frames, and with them the tensors that did not fit.
                failed = self._largest(len(indices), micro_batch_size)
            except Exception as found:
                if self._ranks.sharded:
                    raise
                error = found
            if failed and self._ranks.sharded:
                with in_step():
                    self._end_for(failed)
            settled = self._settle(error, asked=asked(), failed_size=failed)
            if not settled.failed_size:
                break
            batch = loss = None
            self._put_back()
            if settled.failed_size == 1:
                raise DoesNotFitError(ONE_MUST_FIT)
            micro_batch_size = math.ceil(settled.failed_size / 2)
        self._ranks.reduce(missing=settled.missing)
        self._ranks.same_buffers()
        assert loss is not None
        return BatchResult(loss=self._mean(loss), batch=batch, micro_batch_size=micro_batch_size, asked=settled.asked)

    def _begin(self, step: int) -> None:
        self._optimizer.zero_grad(set_to_none=True)
        several = self._ranks.world_size > 1
        if several:
            seed_step(self._seed, step, self._ranks.rank, self._ranks.device)
        if self.retries and not self._ranks.sharded:
            self._random_state = None if several else RandomState.capture()
            self._buffers = [(buffer, buffer.detach().clone()) for buffer in self._model.buffers()]

    def _pass(self, indices: Tensor, step: int, micro_batch_size: int, measured: bool) -> tuple[Batch, Tensor]:
        """This rank's batch and its part of the mean loss, times the number of ranks."""
        ranks, num_examples = self._ranks, len(indices)
        start, stop = share_of(num_examples, ranks.rank, ranks.world_size)
        share = stop - start
        batch = None
        if share or ranks.sharded:  # a pass of FSDP needs some example, which counts nothing
            batch = to_device(fetch(self._task.train, indices[start:stop] if share else indices[:1]), ranks.device)
        micro_batch_size = min(micro_batch_size, num_examples)
        sizes = self._measures.begin(share, num_examples, micro_batch_size) if measured else None
        after = self._measures.after_micro_batch if sizes is not None else None
        if sizes is None and ranks.sharded:  # every rank must make as many passes
            sizes = micro_batch_sizes(
                share,
                largest_share=share_of(num_examples, 0, ranks.world_size)[1],
                micro_batch_size=micro_batch_size,
                keep_number=True,
            )
        if batch is None:
            return None, torch.zeros((), device=ranks.device)
        weights = None
        if self._noise_batch_size is not None:
            # Every rank draws those of the whole batch, and takes its part.
            drawn = step_weights(num_examples, self._noise_batch_size, seed=self._seed, step=step)
            weights = None if drawn is None else drawn[start:stop].to(ranks.device)
        before = None
        if ranks.sharded:

            def before(last: bool) -> None:
                ranks.before_micro_batch(last=last, measured=after is not None)

        loss = accumulate_gradient(
            self._model,
            self._task.loss,
            batch,
            micro_batch_size=min(micro_batch_size, max(share, 1)),
            sizes=sizes,
            denominator=num_examples / ranks.world_size,
            before_micro_batch=before,
            after_micro_batch=after,
            weights=weights,
        )
        return batch, loss

    def _settle(self, error: Exception | None, *, asked: bool, failed_size: int) -> Settled:
        missing = self._ranks.whole and any(parameter.grad is None for parameter in self._ranks.parameters)
        return self._ranks.host.settle(error, asked=asked, failed_size=failed_size, missing=missing)

    def _largest(self, num_examples: int, micro_batch_size: int) -> int:
        """The largest micro-batch of this rank in the try under way."""
        sizes = self._measures.sizes
        start, stop = share_of(num_examples, self._ranks.rank, self._ranks.world_size)
        return max(sizes or [min(micro_batch_size, stop - start)])

    def _put_back(self) -> None:
        """Make all as it was before the try."""
        self._measures.abandon()
        self._optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            for buffer, value in self._buffers:
                buffer.copy_(value)
        if self._random_state is not None:
            self._random_state.restore()
        if self._ranks.device.type == "cuda":
            torch.cuda.empty_cache()

    def _end_for(self, failed: int) -> None:
        if failed <= 1:
            raise DoesNotFitError(ONE_MUST_FIT)
        smaller = math.ceil(failed / 2)
        self._on_too_large(smaller)
        raise DoesNotFitError(
            f"a micro-batch must fit the device's memory on every rank, got an out-of-memory error with {failed} examples; go on "
            f"with --resume, which takes the {smaller} that were noted (torchrun --max-restarts does it by itself)"
        )

    def _mean(self, loss: Tensor) -> Tensor:
        if self._ranks.world_size == 1:
            return loss
        # A rank without an example does not know the kind of the losses.
        return self._ranks.sum(loss.double()) / self._ranks.world_size


def seed_step(seed: int, step: int, rank: int, device: torch.device) -> None:
    """Seed the global generators for one step of one of several ranks: it draws the same numbers whatever came before."""
    number = ((seed * 1_000_003 + step) * 1_000_003 + rank) % (2**63 - 1)
    # torch.manual_seed asks every kind of device, which costs more than a small step.
    torch.default_generator.manual_seed(number)
    if device.type == "cuda":
        torch.cuda.manual_seed(number)
    np.random.seed(number % 2**32)
    random.seed(number)
