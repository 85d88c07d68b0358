"""One optimizer step of a user's own loop: its micro-batches one after the other, and their gradients as one exact mean.

The mean is over all examples of the step, on all ranks, whatever the sizes of the micro-batches are; or over all weights, such as
tokens, whose sum is known only at the end: the gradient is accumulated over an expected sum and put right once, before clipping.
"""

import math
from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from batchwright.core.batches import Batch, to_device
from batchwright.core.errors import InputError, TaskError
from batchwright.data.streams import Stream
from batchwright.training.counts import Counts
from batchwright.training.ranks import Ranks
from batchwright.training.step_noise import Gatherer


@runtime_checkable
class Host(Protocol):
    """What an update needs of the engine that it belongs to."""

    stream: Stream
    ranks: Ranks
    gatherer: Gatherer
    counts: Counts
    device: torch.device | None
    scaler: Any

    def begin(self, update: "Update") -> None:
        """The loop over an update begins."""
        ...

    def loop_left(self, update: "Update") -> None:
        """The loop over it is over, or was left."""
        ...

    def check_kept(self, update: "Update") -> None:
        """Gradients of its micro-batches so far must be there still."""
        ...

    def end(self, update: "Update") -> None:
        """All its gradients are there."""
        ...

    def leave_out(self, update: "Update") -> None:
        """It is to be dropped."""
        ...

    def noise_of(self, update: "Update") -> Tensor | None:
        """Weights of the examples' gradients, if there are any."""
        ...


class Update:
    """The micro-batches of one optimizer step; the step is made when its loop ends.

    Attributes:
        batch_size: Examples of the step on all ranks; of an iterable data set at most, until the step is made.
        num_examples: Examples that this rank has taken so far.
        num_micro_batches: Micro-batches of this rank, at most.
        measured: Whether statistics of the gradient are gathered on the way.
        stepped: Whether the optimizer made the step; false before, after `skip`, and where fp16 gradients overflowed.
        grad_norm: Of the whole gradient before clipping, on the device; None without ``max_grad_norm``.
    """

    def __init__(self, engine: Host, *, batch_size: int, sizes: list[int], measured: bool) -> None:
        self.batch_size = batch_size
        self.num_micro_batches = len(sizes)
        self.stepped = False
        self.grad_norm: Tensor | None = None
        self.measured = measured
        self._engine, self._sizes = engine, sizes
        self._state: str = "new"
        self._expected = batch_size
        self.num_examples = 0
        self._present: int | None = None  # examples of the micro-batch that waits for its backward pass
        self._weight: Tensor | None = None
        self._expected_weight: Tensor | None = None
        self._loss_sum: Tensor | None = None
        self._noise: Tensor | None = None

    def __iter__(self) -> Iterator[Batch]:
        """The micro-batches, once; the optimizer steps when the loop asks for another after the last.

        Raises:
            InputError: If the last micro-batch had no `backward`, or the update has been gone through already.
        """
        yield from self.micro_batches()
        if self._state == "open":
            self.finish()

    def micro_batches(self) -> Iterator[Batch]:
        """As going through the update itself, but for the step, which `finish` makes.

        Raises:
            InputError: If the last micro-batch had no `backward`, or the update has been gone through already.
        """
        if self._state != "new":
            raise InputError(
                "an update must be gone through once, got a second loop over it; take the next one from the engine"
            )
        self._state = "open"
        engine, stream = self._engine, self._engine.stream
        engine.begin(self)
        self._noise = engine.noise_of(self)
        try:
            for number, size in enumerate(self._sizes):
                batch, found = stream.take(size) if size else (stream.stand_in(), 0)
                last = number == len(self._sizes) - 1 or (stream.num_examples is None and stream.exhausted)
                engine.ranks.before_micro_batch(last=last, measured=self.measured)
                self._present = found
                self.num_examples += found
                yield batch if engine.device is None else to_device(batch, engine.device)
                if self._state == "skipped":
                    return
                if self._waits:
                    raise InputError(
                        f"update.backward(losses) must be called once for each micro-batch, got none for number {number + 1} of "
                        f"{len(self._sizes)}; call it, or call update.skip() to leave the update out"
                    )
                if last:
                    break
        finally:
            engine.loop_left(self)

    def finish(self) -> None:
        """Make the step."""
        self._state = "ending"
        self._engine.end(self)
        self._state = "done"

    def backward(self, losses: Tensor, weights: Tensor | None = None) -> None:
        """Add the gradient of a micro-batch, in its right proportion to the whole step.

        Args:
            losses: One loss an example, shape ``(B,)``; with weights any shape with the examples along the first axis, such as
                ``(B, T)``.
            weights: Of each loss, not negative, in the same shape: a mask, or numbers of tokens. The step then follows the gradient of
                ``sum(weights * losses) / sum(weights)`` over all its micro-batches on all ranks. Each loss counts 1 where left out.

        Raises:
            TaskError: If the losses are not one number an example, or the weights are not of their shape.
            InputError: If no micro-batch waits for it, only some micro-batches have weights, or the gradients of those before it
                were cleared.
        """
        num_examples = self._check(losses, weights)
        engine = self._engine
        if self._loss_sum is not None:
            engine.check_kept(self)
        noise = None
        if self._noise is not None and num_examples:
            noise = self._noise[self.num_examples - num_examples : self.num_examples].to(losses.device)
            noise = noise.reshape(-1, *(1 for _ in losses.shape[1:]))
        if weights is None:
            part = losses.sum(dtype=_wide(losses))
            scale: float | Tensor = engine.ranks.world_size / self._expected
            weight: int | Tensor = num_examples
            if num_examples == 0:
                part = part * 0.0
        else:
            weights = weights.detach().to(_wide(losses)) * min(num_examples, 1)
            part = (losses.to(weights.dtype) * weights).sum()
            weight = weights.sum()
            if self._expected_weight is None:
                self._weight = torch.zeros_like(weight)
                self._expected_weight = self._expected * engine.counts.expected_weight(
                    weight, num_examples, engine.ranks
                )
            assert self._weight is not None
            self._weight += weight
            scale = engine.ranks.world_size / self._expected_weight
        loss_sum = part.detach()
        self._loss_sum = loss_sum if self._loss_sum is None else self._loss_sum + loss_sum
        if noise is not None:  # in the gradient alone: the loss that is told is that of the examples as they are
            losses = losses if weights is None else losses.to(weights.dtype) * weights
            part = (losses * noise.to(_wide(losses))).sum()
        scaled = part * scale
        if engine.scaler is not None:
            scaled = engine.scaler.scale(scaled)
        if self.measured:
            engine.gatherer.before_backward()
        scaled.backward()
        self._present = None
        if self.measured:
            engine.gatherer.after_micro_batch(weight)

    def skip(self) -> None:
        """Leave this update out: its examples count as used, its gradients are dropped, no step is made.

        Leave the inner loop then, or let it go on: it ends at once. With several ranks, all must do so.
        """
        if self.ending:
            raise InputError(
                "update.skip() must be called before the step is made, got a call after the last micro-batch; call it in the inner loop"
            )
        if self._state == "new":
            self._engine.begin(self)
        if self._state != "skipped":
            self._state = "skipped"
            self._present = None
            self._engine.leave_out(self)

    @property
    def loss(self) -> float:
        """Mean loss of the step, weighted as its gradient is; of this rank's examples. Reading it waits for the device.

        Raises:
            InputError: Before the first backward pass.
        """
        if self._loss_sum is None:
            raise InputError("update.loss must be read after a backward pass, got none yet")
        total = self._weight if self._weight is not None else self.num_examples
        return float(self._loss_sum) / max(float(total), 1e-300)

    @property
    def _waits(self) -> bool:
        """Whether a micro-batch waits for its backward pass."""
        return self._present is not None

    @property
    def ending(self) -> bool:
        """Whether the optimizer's step has begun."""
        return self._state in ("ending", "done")

    @property
    def largest_micro_batch(self) -> int:
        """Examples of the largest micro-batch of this rank."""
        return max(self._sizes)

    @property
    def local_weight(self) -> int | Tensor:
        """Sum of the weights of this rank's examples; their number where they have none."""
        return self.num_examples if self._weight is None else self._weight

    def normalisation(self, num_examples: int) -> tuple[float | Tensor, float | Tensor]:
        """What the accumulated gradient must be multiplied by, and the weight of all examples on all ranks.

        Args:
            num_examples: Of the step on all ranks.
        """
        if self._weight is None:
            return self._expected / num_examples, float(num_examples)
        total = self._engine.ranks.sum(self._weight)
        assert self._expected_weight is not None
        # Where everything is padding there is no gradient to put right.
        return torch.where(total > 0, self._expected_weight / total, torch.zeros_like(total)), total

    def mean_over_ranks(self) -> float:
        """Mean loss of the step over all ranks; it waits for the device."""
        assert self._loss_sum is not None
        weight = torch.as_tensor(self.local_weight, dtype=self._loss_sum.dtype, device=self._loss_sum.device)
        loss_sum, total = self._engine.ranks.sum(torch.stack([self._loss_sum, weight])).tolist()
        return float(loss_sum / total) if total else math.nan

    def count(self, num_examples: int) -> None:
        """Further examples were taken without a micro-batch."""
        self.num_examples += num_examples

    def close(self, num_examples: int) -> None:
        """The update has ended with this many examples on all ranks."""
        self.batch_size = num_examples

    def _check(self, losses: Tensor, weights: Tensor | None) -> int:
        if self._present is None:
            raise InputError(
                "update.backward(losses) must be called once for each micro-batch, got a call without one that waits; call it inside "
                "the loop over the update, once"
            )
        num_examples = max(self._present, 1)  # a rank without an example stands in with another's, of weight 0
        first = losses.shape[:1] == (num_examples,)
        if not losses.is_floating_point() or not first or (weights is None and losses.ndim != 1):
            raise TaskError(
                f"losses must hold one floating-point loss an example, shape ({num_examples},), got shape {tuple(losses.shape)} of "
                f"{str(losses.dtype).removeprefix('torch.')}; use reduction='none', and for a loss a token keep the examples along "
                "the first axis, (B, T), and give weights of that shape"
            )
        if weights is not None and weights.shape != losses.shape:
            raise TaskError(
                f"weights must have the shape of the losses, got {tuple(weights.shape)} for {tuple(losses.shape)}; expand them"
            )
        if self._loss_sum is not None and (weights is None) != (self._weight is None):
            raise InputError("weights must be given for all micro-batches of an update or for none, got some of both")
        return self._present


def _wide(losses: Tensor) -> torch.dtype:
    """At least float32: a sum of half-precision losses overflows or rounds."""
    return torch.float32 if losses.dtype in (torch.float16, torch.bfloat16) else losses.dtype
